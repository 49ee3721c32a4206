"""What becomes of requests when Triton does not do its part. Real processes, real signals.

In every case: each request ends exactly once, none long after its budget, with a problem that says
what happened, and the gateway recovers without being restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.backends import MODEL, Ended, Load, counted, gateway, noise
from tests.e2e.process import AMPLE_MS, PATIENCE_S, Server, eventually
from tests.e2e.triton import Triton
from tests.serving.gateway import slug

BACKENDS = ("triton", "triton-depth")
BUDGETS_MS = (60, 150, 400)
RATE = 15
GRACE_S = 0.05
"""After its budget, a reply is this long under way at most, on a machine that is not busy."""
CALM = 15
"""Replies before anything happens. What holds them up is the machine."""
STRAGGLERS = 0.05
"""Share of replies that the machine itself may hold up: clients, gateway and Triton share its
cores."""
ENOUGH = 10
"""Requests that are told of a fault before it is over."""
ALLOWED = {
    (200, ""),
    (408, "body-timeout"),
    (422, "budget-infeasible"),
    (503, "overloaded"),
    (503, "backend-unavailable"),
    (504, "deadline-exceeded"),
}


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture
def own_triton(tritonserver, small_repository: Path, tmp_path: Path):
    """A Triton to be broken; not started."""
    server = Triton(small_repository, tmp_path / "triton.log")
    yield server
    server.kill()
    if server.log.exists():
        print(server.log.read_text(errors="replace")[-4000:])  # pytest shows it if the test failed


def detect(server: Server, budget_ms: float = AMPLE_MS) -> httpx.Response:
    headers = {"Content-Type": "image/png", "X-Deadline-Ms": str(budget_ms)}
    return server.detect(noise(), headers=headers)


@contextlib.asynccontextmanager
async def under_load(server: Server) -> AsyncIterator[Load]:
    """Requests go on through whatever the test does; at the end they are accounted for."""
    before = counted(server)
    async with Load(server.url, RATE, BUDGETS_MS) as load, Witness(server.url) as witness:
        calm = await load.until(lambda ended: len(ended) >= CALM)
        yield load
        ended = await load.ended()
    assert {(e.status, e.slug) for e in ended} <= ALLOWED
    assert (counted(server) - before).total() == len(ended)
    grace_s = GRACE_S + 2 * max(0.0, *(e.overrun_s for e in calm))
    late = [e for e in ended if e.overrun_s - witness.stood_still_s(e) > grace_s]
    assert len(late) <= STRAGGLERS * len(ended), late


class Witness:
    """Somebody who asks the gateway whether it lives, again and again.

    That has nothing to do with Triton: where there is no reply, the machine stands still.
    """

    EVERY_S = 0.05

    def __init__(self, url: str) -> None:
        self._url = url
        self._ends_s: list[float] = []

    async def __aenter__(self) -> Witness:
        self._asking = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._asking.cancel()
        await asyncio.wait([self._asking])

    async def _ask(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=PATIENCE_S) as client:
            while True:
                await client.get("/livez")
                self._ends_s.append(time.monotonic())
                await asyncio.sleep(self.EVERY_S)

    def stood_still_s(self, request: Ended) -> float:
        """For how long the machine did while ``request`` was under way."""
        return sum(
            max(0.0, min(end_s, request.ended_s) - max(start_s, request.sent_s))
            for start_s, end_s in itertools.pairwise(self._ends_s)
            if end_s - start_s > 2 * self.EVERY_S
        )


async def until_gone(server: Server) -> float:
    """When it was no longer ready, by the clock of ``Ended.sent_s``."""
    await asyncio.to_thread(eventually, lambda: not server.is_ready())
    return time.monotonic()


async def until_told(load: Load, gone_s: float) -> float:
    """When enough of those had ended that were sent since ``gone_s``."""
    await load.until(lambda ended: problems(ended, gone_s).total() >= ENOUGH)
    return time.monotonic()


async def until_served(server: Server, load: Load) -> None:
    """Wait until it is ready again, and has answered somebody since."""
    await asyncio.to_thread(eventually, server.is_ready)
    ready_s = time.monotonic()
    await load.until(lambda ended: problems(ended, ready_s)[""] > 0)


def problems(ended: list[Ended], start_s: float, stop_s: float = float("inf")) -> Counter[str]:
    """What was sent and ended between two instants, by problem; "" is an answer."""
    return Counter(e.slug for e in ended if start_s <= e.sent_s and e.ended_s < stop_s)


def test_absent_at_the_start(backend, small_repository, own_triton):
    with gateway(backend, small_repository, own_triton, wait_ready=False) as server:
        server.wait_listening()
        assert not server.is_ready()
        reply = detect(server)
        assert (reply.status_code, slug(reply)) == (503, "backend-unavailable")
        own_triton.start()
        eventually(server.is_ready)
        assert detect(server).status_code == 200
        server.terminate()
        assert server.ended() == 0
    assert f"no engine in Triton at {own_triton.url} (trying on): UNAVAILABLE" in server.output
    assert server.output.count("(trying on)") <= 3, "it goes on about it"


def test_killed_under_load_and_restarted(backend, small_repository, own_triton):
    own_triton.start()

    async def kill_and_restart(server):
        async with under_load(server) as load:
            own_triton.kill()
            gone_s = await until_gone(server)
            back_s = await until_told(load, gone_s)
            await asyncio.to_thread(own_triton.start)
            await until_served(server, load)
            ended = await load.ended()
        return ended, gone_s, back_s

    with gateway(backend, small_repository, own_triton) as server:
        ended, gone_s, back_s = asyncio.run(kill_and_restart(server))
    assert problems(ended, gone_s, back_s).keys() == {"backend-unavailable"}


def test_a_crashed_server_takes_its_models_with_it(small_repository, own_triton):
    """Otherwise each crash would leave an executor behind that probes its engine for ever."""
    own_triton.start(f"{MODEL}_anytime", f"{MODEL}_d1")
    stubs = own_triton.stub_pids()
    assert len(stubs) == 2
    own_triton.process.kill()
    own_triton.process.wait()
    eventually(lambda: not any(Path("/proc", str(pid)).exists() for pid in stubs))


def test_stopped_for_seconds_and_continued(backend, small_repository, own_triton):
    own_triton.start()

    async def stop_and_continue(server):
        async with under_load(server) as load:
            own_triton.signal(signal.SIGSTOP)
            stopped_s = time.monotonic()
            gone_s = await until_gone(server)
            await asyncio.sleep(3)
            back_s = await until_told(load, gone_s)
            own_triton.signal(signal.SIGCONT)
            await until_served(server, load)
            ended = await load.ended()
        return ended, stopped_s, gone_s, back_s

    with gateway(backend, small_repository, own_triton) as server:
        ended, stopped_s, gone_s, back_s = asyncio.run(stop_and_continue(server))
    assert problems(ended, stopped_s + 0.1, back_s)[""] == 0, "nobody could have answered"
    # From when it was noticed on, nobody waits in vain.
    assert problems(ended, gone_s, back_s).keys() == {"backend-unavailable"}


def test_one_model_unloaded_and_loaded(backend, small_repository, own_triton):
    own_triton.start()
    model = {"triton": f"{MODEL}_anytime", "triton-depth": f"{MODEL}_d2"}[backend]

    async def unload_and_load(server):
        async with under_load(server) as load:
            await asyncio.to_thread(own_triton.unload, model)
            gone_s = await until_gone(server)
            back_s = await until_told(load, gone_s)
            await asyncio.to_thread(own_triton.load, model)
            await until_served(server, load)
            ended = await load.ended()
        return ended, gone_s, back_s

    with gateway(backend, small_repository, own_triton) as server:
        ended, gone_s, back_s = asyncio.run(unload_and_load(server))
    assert problems(ended, gone_s, back_s).keys() == {"backend-unavailable"}


def test_a_killed_gateway_leaves_no_shared_memory(backend, small_repository, own_triton):
    own_triton.start()
    shared = Path("/dev/shm")
    with gateway(backend, small_repository, own_triton) as server:
        assert detect(server).status_code == 200
        (left,) = [p.name for p in shared.glob(f"punctual-{server.process.pid}-*")]
        assert own_triton.shared_regions() == [left]
        server.process.kill()
        server.process.wait()
    assert (shared / left).exists()
    with gateway(backend, small_repository, own_triton) as server:
        assert detect(server).status_code == 200
        assert not (shared / left).exists()
        (region,) = own_triton.shared_regions()
        assert region.startswith(f"punctual-{server.process.pid}-")
        server.terminate()
        assert server.ended() == 0
    assert not list(shared.glob(f"punctual-{server.process.pid}-*"))
    assert own_triton.shared_regions() == []


BROKEN = """
from dataclasses import replace
from pathlib import Path

import numpy as np

from serving.triton_backend import {module}
from serving.triton_backend.{module} import TritonPythonModel, pb_utils, to_tensor

SWITCH = Path(r"{switch}")
respond = {module}.{respond}


def spoilt(item):
    if isinstance(item, list):
        return [spoilt(each) for each in item]
    if hasattr(item, "detections"):
        return replace(item, detections=spoilt(item.detections))
    if hasattr(item, "scores"):
        return replace(item, scores=np.full_like(item.scores, np.nan))
    return item


def broken(*content):
    response = respond(*content)
    kind = SWITCH.read_text() if SWITCH.exists() else ""
    if kind == "empty":
        return pb_utils.InferenceResponse([])
    if kind == "missing":
        return pb_utils.InferenceResponse(response.output_tensors()[1:])
    if kind == "shape":
        first = response.output_tensors()[0]
        wrong = to_tensor(first.name(), np.ones((1, 3, 5), np.float32))
        return pb_utils.InferenceResponse([wrong, *response.output_tensors()[1:]])
    if kind == "nan":
        return respond(*map(spoilt, content))
    return response


{module}.{respond} = broken
"""
"""A ``model.py`` that does what the real one does, or what a file says."""


@pytest.mark.parametrize("nonsense", ["empty", "missing", "shape", "nan"])
def test_answers_that_are_nonsense(backend, nonsense, small_repository, tritonserver, tmp_path):
    """One clear problem for each request, and answers again once there are any."""
    switch = tmp_path / "switch"
    repository = tmp_path / "model_repo"
    shutil.copytree(small_repository, repository)
    for path in repository.glob("*/1/model.py"):
        anytime = path.parents[1].name.endswith("_anytime")
        module, respond = ("anytime", "answer_response") if anytime else ("depth", "response")
        path.write_text(BROKEN.format(module=module, respond=respond, switch=switch))
    broken = Triton(repository, tmp_path / "triton.log")
    try:
        broken.start()
        with gateway(backend, repository, broken) as server:
            assert detect(server).status_code == 200
            switch.write_text(nonsense)
            for _ in range(3):
                reply = detect(server)
                assert (reply.status_code, slug(reply)) == (500, "backend-error")
                assert "NaN" not in reply.text
            switch.unlink()
            assert detect(server).status_code == 200
    finally:
        broken.kill()
