"""What becomes of requests, and of the process, when the engine hangs, fails or talks nonsense."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from loadtest.servers.free_ports import free_port
from tests.e2e.backends import RUNTIME, Load, counted, gateway, noise
from tests.e2e.process import Server, eventually
from tests.serving.gateway import slug

BUDGETS_MS = (500, 9000)
RATE = 10
MAY_BE = (
    *("200", "backend-unavailable", "deadline-exceeded", "overloaded"),
    # Where the machine stands still meanwhile, for some hundred milliseconds.
    *("body-timeout", "budget-infeasible"),
)
"""What becomes of requests while an engine is replaced, besides that some are told of it."""

Start = Callable[..., Server]


class Faulty:
    """A server whose engine fails when told to."""

    def __init__(self, folder: Path, repository: Path, **environment: object) -> None:
        self.switch, self.opened = folder / "fault", folder / "opened"
        if (fault := environment.pop("fault", None)) is not None:
            self.switch.write_text(str(fault))
        self.server = Server(
            "tests.e2e.faulty_server",
            wait_ready=bool(environment.pop("wait_ready", True)),
            FAULT=self.switch,
            OPENED=self.opened,
            PUNCTUAL_MODEL_REPOSITORY=repository,
            PUNCTUAL_RUNTIME=RUNTIME,
            PUNCTUAL_NUM_THREADS=1,
            **environment,
        )

    def fail(self, kind: str) -> None:
        """Let the next call that can fail so."""
        self.switch.write_text(kind)

    def detect(self, budget_ms: float = 9000) -> httpx.Response:
        headers = {"Content-Type": "image/png", "X-Deadline-Ms": str(budget_ms)}
        return self.server.detect(noise(), headers=headers)

    def status(self, path: str) -> int:
        return self.server.get(path).status_code


@pytest.fixture
def start(tmp_path: Path, small_repository: Path) -> Iterator[Callable[..., Faulty]]:
    started: list[Faulty] = []

    def create(**environment: object) -> Faulty:
        started.append(Faulty(tmp_path, small_repository, **environment))
        return started[-1]

    yield create
    for each in started:
        each.server.__exit__(None, None, None)


def test_an_engine_that_hangs_under_load_is_replaced(start: Callable[..., Faulty]) -> None:
    faulty = start()

    async def scenario() -> tuple[Counter[str], float]:
        before = counted(faulty.server)
        async with Load(faulty.server.url, RATE, BUDGETS_MS) as load:
            await load.until(lambda ended: len(ended) >= 5)
            faulty.fail("hang")
            await asyncio.to_thread(eventually, lambda: faulty.status("/readyz") == 503)
            assert faulty.status("/livez") == 200
            await asyncio.to_thread(eventually, lambda: faulty.status("/readyz") == 200)
            num_ended = len(await load.until(lambda ended: True))
            await load.until(lambda ended: len(ended) > num_ended + 5)
            ended = await load.ended()
        outcomes = counted(faulty.server) - before
        assert outcomes.total() == len(ended), "each is counted once"
        return Counter(e.slug or str(e.status) for e in ended), len(ended)

    told, _ = asyncio.run(scenario())
    assert told["200"] > 0
    assert told["engine-stalled"] > 0
    assert set(told) <= {"engine-stalled", *MAY_BE}
    assert faulty.detect().status_code == 200
    assert faulty.server.metric('punctual_engine_faults_total{kind="stalled"}') >= 1


@pytest.mark.parametrize(
    ("fault", "kind"), [("raise", "run"), ("nonsense", "output"), ("policy", "policy")]
)
def test_a_failure_is_that_of_its_request_alone(
    fault: str, kind: str, start: Callable[..., Faulty]
) -> None:
    faulty = start()
    assert faulty.detect().status_code == 200
    replies: list[httpx.Response] = []

    def met_it() -> bool:  # rather than a probe of the idle engine
        faulty.fail(fault)
        replies.append(faulty.detect())
        return replies[-1].status_code != 200

    eventually(met_it)
    reply = replies[-1]
    assert (reply.status_code, slug(reply)) == (500, "backend-error")
    assert "NaN" not in reply.text
    for _ in range(3):
        assert faulty.detect().status_code == 200
    assert faulty.status("/readyz") == 200
    faults = faulty.server.metric(f'punctual_engine_faults_total{{kind="{kind}"}}')
    assert 1 <= faults <= len(replies)


def test_sigterm_ends_it_while_the_engine_hangs(start: Callable[..., Faulty]) -> None:
    """Before anybody has noticed that it does."""
    # Twice this and seconds more, and the kernel would end it: a machine may stand still so long.
    faulty = start(PUNCTUAL_SHUTDOWN_GRACE_MS=2000)
    faulty.fail("hang")
    eventually(lambda: not faulty.switch.exists())  # the next probe
    faulty.server.terminate()
    assert faulty.server.ended() == 0


def test_sigterm_ends_it_while_the_engine_is_being_opened(start: Callable[..., Faulty]) -> None:
    faulty = start(fault="hang-open", wait_ready=False)
    eventually(lambda: not faulty.switch.exists() and faulty.opened.exists())
    faulty.server.wait_listening()
    faulty.server.terminate()
    assert faulty.server.ended() == 0


def test_a_second_sigterm_waits_for_nothing(start: Callable[..., Faulty]) -> None:
    faulty = start(PUNCTUAL_DRAIN_DELAY_MS=600_000)
    faulty.fail("hang")
    eventually(lambda: not faulty.switch.exists())
    faulty.server.terminate()
    eventually(lambda: faulty.status("/readyz") == 503)
    faulty.server.terminate()
    assert faulty.server.ended() == 143


def test_nothing_is_opened_for_a_port_that_is_taken(start: Callable[..., Faulty]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        faulty = start(wait_ready=False, PUNCTUAL_PORT=port)
        assert faulty.server.ended() == 1
    assert f"cannot listen on 127.0.0.1, port {port}: address already in use" in (
        faulty.server.output
    )
    assert not faulty.opened.exists()


def test_a_file_that_is_not_what_was_built_ends_the_start(
    start: Callable[..., Faulty], small_repository: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    for path in small_repository.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(small_repository)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    segment = next(copy.rglob("head_1.onnx"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 4
    segment.write_bytes(data)
    faulty = Faulty(tmp_path, copy, wait_ready=False, PUNCTUAL_PORT=free_port())
    try:
        assert faulty.server.ended() == 1
        assert f"{segment} is not the file that was built" in faulty.server.output
    finally:
        faulty.server.__exit__(None, None, None)


# ---- an engine in a process of its own ----------------------------------------------------------


def engine_of(server: Server) -> int:
    """The process of its engine."""
    for path in Path("/proc", str(server.process.pid), "task").glob("*/children"):
        for pid in path.read_text().split():
            if b"serving.models.engine_process" in Path("/proc", pid, "cmdline").read_bytes():
                return int(pid)
    raise AssertionError("it has no engine")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGSTOP])
def test_a_crash_costs_its_requests_and_not_the_gateway(
    number: signal.Signals, small_repository: Path
) -> None:
    """So does an engine that stands still; what is left of it is ended."""

    async def scenario(server: Server) -> Counter[str]:
        async with Load(server.url, RATE, BUDGETS_MS) as load:
            await load.until(lambda ended: len(ended) >= 5)
            os.kill(engine, number)
            await asyncio.to_thread(eventually, lambda: not server.is_ready())
            await asyncio.to_thread(eventually, server.is_ready)
            num_ended = len(await load.until(lambda ended: True))
            await load.until(lambda ended: len(ended) > num_ended + 5)
            return Counter(e.slug or str(e.status) for e in await load.ended())

    with gateway("embedded", small_repository, None, PUNCTUAL_ENGINE_PROCESS="true") as server:
        engine = engine_of(server)
        before = counted(server)
        told = asyncio.run(scenario(server))
        assert (counted(server) - before).total() == told.total(), "each is counted once"
        assert told["200"] > 0
        assert set(told) <= {"engine-lost", "engine-stalled", *MAY_BE}
        assert server.detect(noise(), headers={"Content-Type": "image/png"}).status_code == 200
        assert engine_of(server) != engine
        eventually(lambda: not Path("/proc", str(engine)).exists())
        last = engine_of(server)
        server.process.kill()
        server.process.wait()
        eventually(lambda: not Path("/proc", str(last)).exists())
