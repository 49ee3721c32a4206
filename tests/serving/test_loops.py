"""That no test fails because this process stood still, nor for a call of gRPC that another one left
behind."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from tests.serving import loops
from tests.serving.fakes import FakeClock
from tests.serving.loops import LOOKS_EVERY_S, MOST_S, TolerantLoop

SERVICE, METHOD = "test.Echo", "Wait"


def test_time_stands_still_while_the_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(loops, "monotonic", clock)
    with contextlib.closing(TolerantLoop()) as loop:
        began_s = loop.time()
        clock.now += LOOKS_EVERY_S
        assert loop.time() - began_s == pytest.approx(LOOKS_EVERY_S)
        clock.now += 5.0
        assert loop.time() - began_s == pytest.approx(LOOKS_EVERY_S + MOST_S)


def test_timers_come_at_their_time_and_not_for_a_stand_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a machine on which nothing takes time but waiting, until it stands still for seconds."""
    clock, asked_s = FakeClock(), list[float | None]()

    def select(_: object, timeout: float | None = None) -> list[Any]:
        asked_s.append(timeout)
        clock.now += timeout or 0.0
        return []

    monkeypatch.setattr(loops, "monotonic", clock)
    with contextlib.closing(TolerantLoop()) as loop:
        monkeypatch.setattr(selectors.DefaultSelector, "select", select)
        began_s = clock.now
        loop.run_until_complete(asyncio.sleep(0.5))
        assert clock.now - began_s == pytest.approx(0.5, abs=LOOKS_EVERY_S)
        assert max(each or 0.0 for each in asked_s) == LOOKS_EVERY_S

        def stand_still() -> None:
            clock.now += 5.0

        loop.call_soon(stand_still)
        began_s = clock.now
        loop.run_until_complete(asyncio.sleep(0.5))
        assert clock.now - began_s == pytest.approx(5.5, abs=2 * MOST_S)
        monkeypatch.undo()


@pytest.fixture
def slow_server() -> Iterator[tuple[str, threading.Event]]:
    """An address where an empty message is answered at once, any other when the event is set."""
    may_answer = threading.Event()

    def wait(request: bytes, context: Any) -> bytes:
        if request:
            may_answer.wait()
        return request

    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    methods = {METHOD: grpc.unary_unary_rpc_method_handler(wait)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", may_answer
    may_answer.set()
    server.stop(None).wait()


def test_a_call_that_ends_after_its_loop_disturbs_no_other_loop(
    slow_server: tuple[str, threading.Event],
) -> None:
    address, may_answer = slow_server
    first = TolerantLoop()
    errors: list[dict[str, Any]] = []

    async def leave_a_call() -> tuple[Any, Any]:
        channel = grpc.aio.insecure_channel(address)
        await channel.channel_ready()
        call = channel.unary_unary(f"/{SERVICE}/{METHOD}")(b"late")
        await asyncio.sleep(0)  # it is on its way
        return channel, call

    async def look_at_events() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, error: errors.append(error))
        may_answer.set()
        async with grpc.aio.insecure_channel(address) as channel:
            while not first.num_late and not errors:
                await channel.unary_unary(f"/{SERVICE}/{METHOD}")(b"")

    left = first.run_until_complete(leave_a_call())
    first.close()
    with asyncio.Runner(loop_factory=TolerantLoop) as runner:
        runner.run(look_at_events())
    assert first.num_late > 0
    assert not errors
    del left  # until here
