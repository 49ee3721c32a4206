"""What becomes of requests, at half load, when the engine fails and when the model is changed.

    python -m tests.e2e.faults --out loadtest/results

prints a table: of each fault, how many requests were sent, answered, and failed for which reason;
how many were lost, that is ended without a reply; how many were sent while it happened and were not
answered, beside those sent when nothing did; and how long the server was not ready. Half load is
half of the rate at which some clients are answered that each wait for their answer.

A fault that strikes nobody, or a request that the server has not counted, ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx

from loadtest.servers.free_ports import free_port
from reporting.machine import machine
from serving.artifacts.model_folders import find_model, read_entry
from tests.e2e.attacks import photograph
from tests.e2e.backends import Ended, Load, counted
from tests.e2e.process import PATIENCE_S, ROOT, Server, eventually

MODEL_REPOSITORY = ROOT / "model_repo"
NUM_CLIENTS = 8
"""Number of clients that find out what the server can do."""
BUDGETS_MS = (100.0, 300.0, 1000.0)
LOST = "lost"
READY_WITHIN_S = 120.0
MAX_STRIKES = 20
"""Number of times that a fault is tried which struck nobody: it may have met a probe of an idle
engine, or one who had an answer in hand and ended with that."""
LOOK_EVERY_S = 0.005


class LossyLoad(Load):
    """A load of photographs that counts replies which do not come."""

    def __init__(self, url: str, rate: float) -> None:
        super().__init__(url, rate, BUDGETS_MS, photograph(), "image/jpeg")

    async def _send(self, budget_ms: float) -> Ended:
        sent_s = time.monotonic()
        try:
            return await super()._send(budget_ms)
        except httpx.HTTPError:
            elapsed_s = time.monotonic() - sent_s
            return Ended(sent_s, budget_ms / 1e3, elapsed_s, 0, LOST, 0, 0.0)


class Readiness:
    """What a server says of its readiness, again and again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.changes: list[tuple[float, bool]] = [(time.monotonic(), True)]

    def __enter__(self) -> Readiness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        with httpx.Client(base_url=self._url, timeout=PATIENCE_S) as client:
            while not self._over.wait(LOOK_EVERY_S):
                ready = client.get("/readyz").status_code == 200
                if ready != self.changes[-1][1]:
                    self.changes.append((time.monotonic(), ready))

    @property
    def ready(self) -> bool:
        return self.changes[-1][1]

    def gaps_s(self) -> list[tuple[float, float]]:
        """When it became unready, and for how long."""
        instants = [instant_s for instant_s, _ in self.changes[1:]]
        return [(a, b - a) for a, b in zip(instants[::2], instants[1::2], strict=False)]


class Subject:
    """A server whose engine fails when told to, over a copy of the model."""

    def __init__(self, folder: Path, model: str, engine_process: bool) -> None:
        self.repository = folder / "repository"
        self.model = model
        source = find_model(MODEL_REPOSITORY, model)
        self.version = self.repository / f"{model}_anytime" / "1"
        shutil.copytree(source, self.version)
        self.switch = folder / "fault"
        admin_port = free_port()
        self.admin_url = f"http://127.0.0.1:{admin_port}"
        self.server = Server(
            "tests.e2e.faulty_server",
            FAULT=self.switch,
            OPENED=folder / "opened",
            PUNCTUAL_MODEL_REPOSITORY=self.repository,
            PUNCTUAL_ADMIN_PORT=admin_port,
            PUNCTUAL_ENGINE_PROCESS=str(engine_process).lower(),
            PUNCTUAL_LOG_LEVEL="error",
        )

    def fail(self, kind: str) -> None:
        self.switch.write_text(kind)

    @property
    def has_failed(self) -> bool:
        """Whether the fault has happened that it was told of."""
        return not self.switch.exists()

    def signal_engine(self, number: signal.Signals) -> None:
        for path in Path("/proc", str(self.server.process.pid), "task").glob("*/children"):
            for pid in path.read_text().split():
                if b"serving.models.engine_process" in Path("/proc", pid, "cmdline").read_bytes():
                    os.kill(int(pid), number)

    def change_weights(self) -> None:
        """Let another version lie in the repository, of which some weights differ by a bit."""
        entry = read_entry(self.version)
        weights = entry.catalogs[0].weights
        assert weights is not None, "its sizes share no weights"
        path = self.version / weights.file
        data = bytearray(path.read_bytes())
        for position in range(0, len(data) - 1, 2000):
            data[position] ^= 1  # the last bit of a half-precision number
        path.write_bytes(data)
        catalog = self.version / "catalog.json"
        text = catalog.read_text().replace(weights.sha256, sha256(data).hexdigest())
        catalog.write_text(json.dumps(json.loads(text) | {"version": "2"}))

    def damage(self) -> None:
        """Let one bit of a file differ from what the catalogue says."""
        path = next(self.version.glob("head_1*.onnx"))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)

    def counted(self) -> Counter[str]:
        return counted(self.server, self.admin_url)

    def load(self) -> None:
        command = (sys.executable, "-m", "serving", "admin", "load", "--url", self.admin_url)
        subprocess.run(command, cwd=ROOT, check=False)


@dataclass(frozen=True)
class Fault:
    """What happens, and what is expected to come of it."""

    happen: Callable[[Subject], None]
    unready: bool = False
    """Whether the server is not ready for a while."""
    strikes: bool = False
    """Whether a request fails by it, and nothing else happens."""
    engine_process: bool = False


def swap(subject: Subject) -> None:
    subject.change_weights()
    subject.load()


def load_damaged(subject: Subject) -> None:
    subject.damage()
    subject.load()


FAULTS: dict[str, Fault] = {
    "nothing": Fault(lambda _: None),
    "the engine hangs": Fault(lambda subject: subject.fail("hang"), unready=True),
    "the engine's process hangs": Fault(
        lambda subject: subject.signal_engine(signal.SIGSTOP), unready=True, engine_process=True
    ),
    "the engine's process crashes": Fault(
        lambda subject: subject.signal_engine(signal.SIGSEGV), unready=True, engine_process=True
    ),
    "a run raises an error": Fault(lambda subject: subject.fail("raise"), strikes=True),
    "a run gives NaN": Fault(lambda subject: subject.fail("nonsense"), strikes=True),
    "the policy raises an error": Fault(lambda subject: subject.fail("policy"), strikes=True),
    "a new version has a damaged file": Fault(load_damaged),
    "a new version is loaded": Fault(swap),
}


@dataclass
class Outcome:
    """One row of the table."""

    rate: float
    ended: list[Ended]
    happened_s: float
    took_s: float
    gaps_s: list[tuple[float, float]]

    def row(self, name: str) -> str:
        told = Counter(each.slug or str(each.status) for each in self.ended)
        answered, lost = told.pop("200", 0), told.pop(LOST, 0)
        failed = ", ".join(f"{count} {slug}" for slug, count in told.most_common()) or "none"
        noticed_s, unready_s = "", ""
        if self.gaps_s:
            began_s, unready = self.gaps_s[0]
            noticed_s, unready_s = f"{began_s - self.happened_s:.2f}", f"{unready:.2f}"
        apart = [each for each in self.ended if not self._is_meanwhile(each)]
        meanwhile = [each for each in self.ended if self._is_meanwhile(each)]
        cells = (
            name, f"{self.rate:.0f}", len(self.ended), answered, failed, lost, _unanswered(apart),
            _unanswered(meanwhile), noticed_s, unready_s, f"{self.took_s:.1f}",
        )  # fmt: skip
        return f"| {' | '.join(map(str, cells))} |"

    def _is_meanwhile(self, each: Ended) -> bool:
        """Whether a request was under way while it happened."""
        over_s = self.happened_s + self.took_s
        return each.sent_s <= over_s and each.ended_s >= self.happened_s


def _unanswered(ended: list[Ended]) -> str:
    return f"{sum(each.status != 200 for each in ended)} of {len(ended)}"


HEAD = (
    "| what happens | requests/s | sent | answered | failed | lost | "
    "not answered before and after | not answered meanwhile | "
    "unready after (s) | ready again after (s) | took (s) |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


async def half_rate(url: str, seconds: float) -> float:
    """Half of the rate at which clients are answered that each wait for their answer."""
    headers = {"Content-Type": "image/jpeg", "X-Deadline-Ms": str(BUDGETS_MS[0])}
    over_s, count = time.monotonic() + seconds, 0

    async def ask(client: httpx.AsyncClient) -> None:
        nonlocal count
        while time.monotonic() < over_s:
            reply = await client.post("/v1/detect", content=photograph(), headers=headers)
            count += reply.status_code == 200

    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
        await asyncio.gather(*(ask(client) for _ in range(NUM_CLIENTS)))
    return count / seconds / 2


async def suffer(subject: Subject, fault: Fault, rate: float, seconds: float) -> Outcome:
    """Send at a rate, let the fault happen after ``seconds``, and go on for as long again."""
    before = subject.counted()
    with Readiness(subject.server.url) as readiness:
        async with LossyLoad(subject.server.url, rate) as load:
            await asyncio.sleep(seconds)
            happened_s = time.monotonic()
            if fault.strikes:
                happened_s = await strike(subject, fault, load)
            else:
                await asyncio.to_thread(fault.happen, subject)
            if fault.unready:
                async with asyncio.timeout(READY_WITHIN_S):
                    while readiness.ready or not readiness.changes[1:]:
                        await asyncio.sleep(LOOK_EVERY_S)
                    while not readiness.ready:
                        await asyncio.sleep(LOOK_EVERY_S)
            took_s = time.monotonic() - happened_s
            await asyncio.sleep(seconds)
            ended = await load.ended()
    outcomes = subject.counted() - before
    if outcomes.total() != len(ended):
        raise AssertionError(f"{len(ended)} requests were sent, and counted were {outcomes}")
    return Outcome(rate, ended, happened_s, took_s, readiness.gaps_s())


async def strike(subject: Subject, fault: Fault, load: Load) -> float:
    """Let a fault happen until a request has failed by it; return when that happened."""
    for _ in range(MAX_STRIKES):
        happened_s = time.monotonic()
        fault.happen(subject)
        await asyncio.to_thread(eventually, lambda: subject.has_failed)
        # Whoever was inside then has ended when those have that came after.
        over_s = time.monotonic() + max(BUDGETS_MS) / 1e3

        def is_over(
            ended: list[Ended], since_s: float = happened_s, until_s: float = over_s
        ) -> bool:
            return time.monotonic() > until_s or _has_struck(ended, since_s)

        if _has_struck(await load.until(is_over), happened_s):
            return happened_s
    raise AssertionError(f"it struck nobody in {MAX_STRIKES} attempts")


def _has_struck(ended: list[Ended], since_s: float) -> bool:
    """Whether a request that ended since then failed as the engine's faults make it."""
    return any(each.slug == "backend-error" and each.ended_s >= since_s for each in ended)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--seconds", type=float, default=5.0, help="before and after each fault")
    parser.add_argument("--rate", type=float, help="requests a second [half of what it can do]")
    parser.add_argument("--only", nargs="*", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--rounds", type=int, default=1, help="of all faults")
    parser.add_argument("--out", type=Path, help="folder for the table")
    options = parser.parse_args()
    date = time.strftime("%Y-%m-%d", time.gmtime())
    lines = [
        "# Faults at half load",
        "",
        f"`python -m tests.e2e.faults --model {options.model} --seconds {options.seconds:g} "
        f"--rounds {options.rounds}`, {machine()}, {date}, load average before "
        f"{os.getloadavg()[0]:.2f}.",
        "",
        HEAD,
    ]
    print("\n".join(lines), flush=True)
    for name in [name for _ in range(options.rounds) for name in options.only]:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="punctual-")))
            fault = FAULTS[name]
            subject = Subject(folder, options.model, fault.engine_process)
            stack.enter_context(subject.server)
            rate = options.rate or asyncio.run(half_rate(subject.server.url, options.seconds))
            outcome = asyncio.run(suffer(subject, fault, rate, options.seconds))
        lines.append(outcome.row(name))
        print(lines[-1], flush=True)
    if options.out is not None:
        (options.out / f"faults-{date}.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
