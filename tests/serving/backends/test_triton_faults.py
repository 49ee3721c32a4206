"""A fault sweep of the Triton backend: the n-th call of each of its seams with gRPC, shared memory
and the codec fails, for every n of a few requests. Each request ends exactly once, and later ones
are answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from tritonclient.grpc.service_pb2_grpc import add_GRPCInferenceServiceServicer_to_server

from serving.backends import triton as module
from serving.backends.answers import Mailbox
from serving.core.errors import BackendUnavailable, ServingError
from tests.serving.backends.test_triton import Bench, FakeTriton

pytestmark = pytest.mark.anyio

NUM_REQUESTS = 3
HEARTBEAT = "arrays"
"""What reads heartbeats alone, whether or not anybody asks for anything."""
SEAMS = ("add_images", "infer_request", "read_answer", HEARTBEAT, "put", "ended")
"""Names of functions that the backend calls, ``put`` of a mailbox, and ``ended``, by which it tells
of each end."""
ERRORS = (RuntimeError("a fault"), BackendUnavailable("a fault"))


class Fault:
    """Counts the calls of one seam, of which one fails."""

    def __init__(self, number: int, error: Exception) -> None:
        self._number, self._error = number, error
        self.num_calls = 0

    def at(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.num_calls += 1
            if self.num_calls == self._number:
                raise self._error
            return function(*arguments, **named)

        return call


class Answering(FakeTriton):
    """Answers every request at once."""

    async def _read(self, requests: Any) -> None:
        answering = asyncio.create_task(self._answer())
        try:
            await super()._read(requests)
        finally:
            answering.cancel()

    async def _answer(self) -> None:
        while True:
            request = await self.requests.get()
            self.answer(request.id, 1, final=False)
            self.answer(request.id, 2, final=True)


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    """The address of an answering Triton."""
    server = grpc.aio.server()
    add_GRPCInferenceServiceServicer_to_server(Answering(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def ask(bench: Bench) -> str:
    """How one request ended, for whoever sent it."""
    try:
        async with bench.answers(bench.ask()) as answers:
            return "answered" if [each async for each in answers] else "nothing"
    except (ServingError, RuntimeError) as error:
        return type(error).__name__


async def until_ready(bench: Bench) -> None:
    while not bench.backend.ready:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("seam", SEAMS)
async def test_whichever_call_fails_requests_end_once_and_others_are_answered(
    seam: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.001)
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)
    async with served() as url:
        for number in range(1, NUM_REQUESTS + 1):
            with monkeypatch.context() as patch:
                bench, fault = Bench(url, Answering()), Fault(number, error)
                await bench.backend.start()
                if seam == "ended":
                    patch.setattr(bench.recorder, seam, fault.at(bench.recorder.ended))
                elif seam == "put":
                    patch.setattr(Mailbox, seam, fault.at(Mailbox.put))
                else:
                    patch.setattr(module, seam, fault.at(getattr(module, seam)))
                where = f"call {number} of {seam}"
                ends = []
                for _ in range(NUM_REQUESTS):
                    await until_ready(bench)
                    ends.append(await ask(bench))
                while seam == HEARTBEAT and fault.num_calls <= number:  # until the session after
                    await asyncio.sleep(0.001)
                assert fault.num_calls >= number, where
                assert Counter(ends)["answered"] >= NUM_REQUESTS - 1, (where, ends)
                told = bench.recorder.results
                lost = 1 if seam == "ended" else 0
                assert len(told) == NUM_REQUESTS - lost, where
                assert len({result.request.id for result in told}) == len(told), where
                await until_ready(bench)
                assert await ask(bench) == "answered", where
                assert bench.backend._pending == {}, where
                await bench.backend.stop(grace_s=0.0)
