"""That no test fails for a call of gRPC that another one left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from tests.serving.loops import TolerantLoop

SERVICE, METHOD = "test.Echo", "Wait"


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
