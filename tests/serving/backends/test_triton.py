"""The Triton backend against a Triton that is not one: it answers when and as a test says."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from serving.backends.triton import TritonBackend
from serving.core.errors import BackendUnavailable, FrameSuperseded
from serving.core.family import Family
from serving.core.ladder import PointId
from serving.core.model_entry import ModelEntry
from serving.core.request import Answered, Cancelled, Request, Superseded
from serving.core.streams import superseded
from serving.triton import wire
from tests.serving.fakes import CATALOG, DETECTIONS
from tests.serving.world import FakeClock, Recorder

pytestmark = pytest.mark.anyio

BUDGET_S = 0.5
"""Less than the silence after which a Triton is taken to be gone: the clock stands still until a
test lets the deadline come."""
IDS = itertools.count()
ENTRY = ModelEntry((replace(CATALOG, input_width=64, input_height=48), CATALOG))


class FakeTriton(GRPCInferenceServiceServicer):
    """Its executor's status whenever it is asked; of a request nothing but what it is told to
    ``send``. Commands are noted."""

    def __init__(self) -> None:
        self.outbox: asyncio.Queue[pb.ModelStreamInferResponse | None] = asyncio.Queue()
        self.requests: asyncio.Queue[pb.ModelInferRequest] = asyncio.Queue()
        self.commands: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def ModelReady(self, request: Any, context: Any) -> pb.ModelReadyResponse:  # noqa: N802
        return pb.ModelReadyResponse(ready=True)

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Any
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        reading = asyncio.create_task(self._read(requests))
        try:
            while (message := await self.outbox.get()) is not None:
                yield message
        finally:
            reading.cancel()

    async def _read(self, requests: AsyncIterator[pb.ModelInferRequest]) -> None:
        async for request in requests:
            command = request.parameters[wire.COMMAND].string_param
            if command == wire.COMMAND_STATUS:
                exits_s = (0.010,) * len(Family((ENTRY,)).ladder.points)
                digest = wire.short_digest(ENTRY.digest)
                status = wire.EngineStatus(digest, 0, 0, 1, exits_s, exits_s)
                numbers = np.array(status.to_numbers(), np.int64)
                self.send(request.id, {wire.STATUS: numbers}, final=True)
            elif command:
                target = request.parameters[wire.TARGET].string_param
                self.commands.put_nowait((command, target))
            else:
                self.requests.put_nowait(request)

    def send(self, name: str, outputs: Mapping[str, npt.NDArray[Any]], *, final: bool) -> None:
        answer = pb.ModelInferResponse(id=name)
        answer.parameters[wire.FINAL].bool_param = final
        kinds = {"float32": "FP32", "int32": "INT32", "int64": "INT64"}
        for output, array in outputs.items():
            answer.outputs.add(name=output, datatype=kinds[str(array.dtype)], shape=array.shape)
            answer.raw_output_contents.append(array.tobytes())
        self.outbox.put_nowait(pb.ModelStreamInferResponse(infer_response=answer))

    def answer(
        self, name: str, depth: int, *, final: bool, size: int = 0, merged: PointId | tuple[()] = ()
    ) -> None:
        """Answer at an exit of an input size; ``merged`` is the point of an earlier answer."""
        point = (size, depth)
        outputs: dict[str, npt.NDArray[Any]] = {
            wire.BOXES: DETECTIONS.boxes_xyxy_input,
            wire.SCORES: DETECTIONS.scores,
            wire.LABELS: DETECTIONS.labels,
            wire.OPERATING_POINT: np.array([*point, *merged], np.int32),
            wire.TIMES: np.array([1000, 2000, 2000], np.int64),
        }
        self.send(name, outputs, final=final)

    def end(self, name: str) -> None:
        """End a request without another answer."""
        self.send(name, {}, final=True)

    def fail(self, name: str, text: str) -> None:
        """End a request by an error, as Triton tells of it."""
        response = pb.ModelStreamInferResponse(error_message=text)
        response.infer_response.id = name
        self.outbox.put_nowait(response)

    def hang_up(self) -> None:
        self.outbox.put_nowait(None)


class Bench:
    def __init__(self, url: str, triton: FakeTriton) -> None:
        self.triton = triton
        self.clock = FakeClock()
        self.recorder = Recorder()
        self.backend = TritonBackend(
            ENTRY,
            url,
            self.clock,
            self.recorder,
            max_pending=4,
            use_shared_memory=False,
        )

    def ask(self, *, streaming: bool = False) -> Request:
        now_s = self.clock()
        return Request(next(IDS), now_s, now_s + BUDGET_S, 1, CATALOG.num_exits, streaming)

    def answers(self, request: Request) -> Any:
        image = np.zeros((CATALOG.input_height, CATALOG.input_width, 3), np.uint8)
        return aclosing(self.backend.stream(image, request))

    async def in_hand(self, answers: Any) -> tuple[Answered, str]:
        """The first answer, at depth 1, and the request's name in Triton."""
        first = asyncio.create_task(anext(answers))
        name = (await self.triton.requests.get()).id
        self.triton.answer(name, 1, final=False)
        return await first, name


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    server, triton = grpc.aio.server(), FakeTriton()
    add_GRPCInferenceServiceServicer_to_server(triton, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    made = Bench(f"127.0.0.1:{port}", triton)
    await made.backend.start()
    yield made
    await made.backend.stop(grace_s=0.0)
    await server.stop(None)


async def test_a_triton_is_not_gone_because_the_gateway_stood_still(bench: Bench) -> None:
    bench.clock.now_s += 60.0
    assert bench.backend.ready
    async with bench.answers(bench.ask()) as answers:
        assert (await bench.in_hand(answers))[0].depth == 1


async def test_one_answer_is_the_end(bench: Bench) -> None:
    async with bench.answers(bench.ask()) as answers:
        first = asyncio.create_task(anext(answers))
        request = await bench.triton.requests.get()
        bench.triton.answer(request.id, 2, final=True)
        answered = await first
        assert [each async for each in answers] == []
    assert (answered.depth, answered.held, answered.upgrades) == (2, False, 0)
    assert bench.recorder.results == [answered]
    assert request.parameters[wire.ANSWERS_IN_HAND].bool_param


@pytest.mark.parametrize("streaming", [False, True])
async def test_the_answer_in_hand_is_given_at_the_deadline_while_triton_stands_still(
    bench: Bench, streaming: bool
) -> None:
    asked = bench.ask(streaming=streaming)
    async with bench.answers(asked) as answers:
        in_hand, name = await bench.in_hand(answers)
        assert in_hand.held == (not streaming)
        bench.clock.now_s = asked.deadline_s
        assert [each async for each in answers] == []
    assert bench.recorder.results == [in_hand]
    assert await bench.triton.commands.get() == (wire.COMMAND_CONCLUDE, name)
    bench.triton.answer(name, 3, final=True)  # too late, for nobody


async def test_a_better_answer_takes_its_place(bench: Bench) -> None:
    async with bench.answers(bench.ask()) as answers:
        _, name = await bench.in_hand(answers)
        bench.triton.answer(name, 2, final=False)
        bench.triton.answer(name, 3, final=True, size=1, merged=(0, 2))
        better = [each async for each in answers]
    assert [(each.points, each.held, each.upgrades) for each in better] == [
        (((0, 2),), True, 1),
        (((0, 2), (1, 3)), False, 2),
    ]
    assert bench.recorder.results == [better[-1]]
    assert bench.triton.commands.empty()


async def test_the_engine_may_have_no_better_one(bench: Bench) -> None:
    async with bench.answers(bench.ask()) as answers:
        in_hand, name = await bench.in_hand(answers)
        bench.triton.end(name)
        assert [each async for each in answers] == []
    assert bench.recorder.results == [in_hand]
    assert bench.triton.commands.empty()


async def test_a_triton_that_goes_away_leaves_the_answer_in_hand(bench: Bench) -> None:
    async with bench.answers(bench.ask()) as answers:
        in_hand, _ = await bench.in_hand(answers)
        bench.triton.hang_up()
        assert [each async for each in answers] == []
    assert bench.recorder.results == [in_hand]


async def test_without_an_answer_a_triton_that_goes_away_is_an_error(bench: Bench) -> None:
    async with bench.answers(bench.ask()) as answers:
        first = asyncio.create_task(anext(answers))
        await bench.triton.requests.get()
        bench.triton.hang_up()
        with pytest.raises(BackendUnavailable, match="connection to Triton was lost"):
            await first


async def test_who_hangs_up_with_an_answer_in_hand_is_cancelled(bench: Bench) -> None:
    async with bench.answers(bench.ask()) as answers:
        _, name = await bench.in_hand(answers)
        waiting = asyncio.create_task(anext(answers))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert await bench.triton.commands.get() == (wire.COMMAND_CANCEL, name)
    assert [type(result) for result in bench.recorder.results] == [Cancelled]


async def test_held_requests_are_told_by_the_heartbeat(bench: Bench) -> None:
    assert bench.backend.num_held == 1


async def test_the_executor_in_triton_is_told_of_the_stream_and_may_supersede(
    bench: Bench,
) -> None:
    frame = replace(bench.ask(), stream="cam", is_promised=True)
    async with bench.answers(frame) as answers:
        first = asyncio.create_task(anext(answers))
        request = await bench.triton.requests.get()
        assert request.parameters[wire.STREAM].string_param == "cam"
        assert request.parameters[wire.PROMISED].bool_param
        bench.triton.fail(request.id, wire.error_to_text(superseded()))
        with pytest.raises(FrameSuperseded):
            await first
    assert bench.recorder.results == [Superseded(frame, bench.clock())]
