"""What one address may have of gRPC's port, at a real one: an attacker elsewhere, a victim here."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import grpc.aio
import pytest
from grpc import StatusCode
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from serving.core.ports import Image
from serving.core.principals import Principal
from serving.core.request import Answered, Request
from serving.grpc_api.outline import MAX_FIELDS
from serving.grpc_api.server import COUNT_EVERY_S, WINDOW_BYTES
from serving.grpc_api.service import MAX_STREAM_MESSAGES
from serving.grpc_api.turns import MessageTurns
from tests.serving.fakes import JPEG, forever
from tests.serving.grpc_api.callers import (
    DATA,
    ELSEWHERE,
    END_STREAM,
    GOAWAY,
    HERE,
    PING,
    RST_STREAM,
    channel_from_elsewhere,
    frame,
    head,
    message,
    prefixed,
    raw_caller,
)
from tests.serving.grpc_api.test_service import Calls
from tests.serving.grpc_api.test_service import message as request

pytestmark = pytest.mark.anyio

PATIENCE_S = 20.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


def refusals(calls: Calls, reason: str) -> float:
    return calls.gateway.sample("punctual_connection_refusals_total", reason=reason)


async def serves_the_victim(calls: Calls) -> None:
    """Whoever is here is answered, by a call and on a stream."""

    async def behaviour(image: Image, asked: Request) -> Answered:
        if asked.principal.endswith(ELSEWHERE):
            return await forever()
        return await calls.gateway.backend.answer(image, asked)

    calls.gateway.backend.behaviour = behaviour
    async with asyncio.timeout(PATIENCE_S):
        assert (await calls.infer()).get_response().outputs
        async with calls.stub() as stub:
            answers = [each async for each in stub.ModelStreamInfer(iter([request()]))]
    assert [len(each.infer_response.outputs) for each in answers] == [3]


async def refused(call: Any) -> tuple[StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async with asyncio.timeout(PATIENCE_S):
            await call
    return error.value.code(), str(error.value.details())


async def test_calls_leave_room_for_others() -> None:
    async with Calls(grpc_max_calls=4).open() as calls:
        calls.gateway.backend.behaviour = forever
        async with channel_from_elsewhere(calls.port) as channel:
            attacker = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            held = [attacker.ModelInfer(request()) for _ in range(4)]
            await until(lambda: len(calls.gateway.backend.seen) == 4)
            # A channel keeps calls back that its connection has no room for.
            async with channel_from_elsewhere(calls.port) as another:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(another)
                code, details = await refused(stub.ModelInfer(request()))
            assert code is StatusCode.RESOURCE_EXHAUSTED
            assert details == "Too many calls are being served."
            assert refusals(calls, "overloaded") == 1
            await serves_the_victim(calls)
            for call in held:
                call.cancel()
        await until(lambda: calls.gateway.outcomes().get("cancelled") == 4)


async def silent() -> AsyncIterator[pb.ModelInferRequest]:
    await asyncio.Event().wait()
    yield request()


async def test_streams_leave_room_for_others() -> None:
    bounds = {"max_body_bytes": 100_000, "max_bodies_bytes": 200_000}
    async with Calls(**bounds).open() as calls, channel_from_elsewhere(calls.port) as channel:
        attacker = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        held = [attacker.ModelStreamInfer(silent()) for _ in range(3)]
        async with asyncio.timeout(PATIENCE_S):
            done, open_streams = await asyncio.wait(
                [asyncio.ensure_future(each.read()) for each in held],
                return_when=asyncio.FIRST_COMPLETED,
            )
        assert len(open_streams) == 2
        code, details = await refused(next(iter(done)))
        assert (code, details) == (
            StatusCode.RESOURCE_EXHAUSTED,
            "Too many streams of messages are being served.",
        )
        await serves_the_victim(calls)
        for each in open_streams:
            each.cancel()


async def test_messages_that_never_end_leave_turns_for_others() -> None:
    bounds = {"max_body_bytes": 100_000, "max_bodies_bytes": 200_000}
    async with Calls(**bounds).open() as calls, raw_caller(calls.port) as attacker:
        for stream in (1, 3):
            await attacker.send(head(stream, "ModelInfer"), message(stream, b"x", length=90_000))
        await attacker.send(head(5, "ModelInfer"), message(5, request().SerializeToString()))
        await serves_the_victim(calls)
        asked = [asked.principal for _, asked in calls.gateway.backend.seen]
        assert asked == [f"address {HERE}"] * 2, "the attacker has sent one, and it has to wait"
        await attacker.send(frame(RST_STREAM, stream=1, payload=bytes(4)))
        await until(lambda: len(calls.gateway.backend.seen) == 3)


async def test_of_a_message_that_has_no_turn_yet_little_is_taken() -> None:
    bounds = {"max_body_bytes": 1_000_000, "max_bodies_bytes": 1_000_000}
    async with Calls(**bounds).open() as calls, raw_caller(calls.port) as attacker:
        for stream in (1, 3):
            await attacker.send(head(stream, "ModelInfer"), message(stream, b"x", length=900_000))
        async with asyncio.timeout(PATIENCE_S):
            async for _ in attacker.frames():
                if attacker.allowed(1) >= 900_000:  # it has the only turn
                    break
        assert attacker.allowed(3) <= WINDOW_BYTES


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
async def test_messages_that_arrive_have_their_room_among_all_bodies(method: str) -> None:
    """The largest gives way before it is whole, and those of HTTP that are smaller do not."""
    go_on = asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        yield JPEG + bytes(700_000)
        await go_on.wait()
        yield b"."

    bounds = {"max_body_bytes": 1_000_000, "max_bodies_bytes": 2_000_000}
    async with Calls(**bounds).open() as calls:
        bodies = [asyncio.ensure_future(calls.gateway.detect(slow_body())) for _ in range(2)]
        async with channel_from_elsewhere(calls.port, stalls_after=850_000) as channel:
            attacker = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            pixels = pb.ModelInferRequest(raw_input_contents=[bytes(900_000)])
            if method == "ModelInfer":
                asked = attacker.ModelInfer(pixels)
            else:
                asked = attacker.ModelStreamInfer(iter([pixels])).read()
            assert await refused(asked) == (
                StatusCode.RESOURCE_EXHAUSTED,
                "There is no room for the bodies of all requests, and this is the largest.",
            )
        if method == "ModelInfer":
            assert calls.gateway.outcomes() == {"rejected": 1}
        else:
            assert refusals(calls, "overloaded") == 1
        await serves_the_victim(calls)
        go_on.set()
        assert [reply.status_code for reply in await asyncio.gather(*bodies)] == [200, 200]


def answered(calls: Calls, number: int) -> bool:
    outcomes = calls.gateway.outcomes()
    assert set(outcomes) <= {"ok"}
    return outcomes.get("ok") == number


async def test_much_over_a_connection_is_no_large_message() -> None:
    """What has become whole is held no longer, also beside a stream that waits for its next."""
    bounds = {"max_body_bytes": 1_000_000, "max_bodies_bytes": 1_200_000}
    data = large()
    async with Calls(**bounds).open() as calls, raw_caller(calls.port) as caller:
        await caller.send(head(1, "ModelStreamInfer"))
        for number in (1, 2, 3):
            stream = 2 * number + 1
            await caller.send(head(stream, "ModelInfer"))
            await caller.pour(stream, data[: len(data) // 2])
            await asyncio.sleep(2 * COUNT_EVERY_S)  # it is looked at
            await caller.pour(stream, data[len(data) // 2 :])
            await caller.send(frame(DATA, END_STREAM, stream))
            await until(partial(answered, calls, number))
        await caller.pour(1, prefixed(request().SerializeToString()))
        await until(partial(answered, calls, 4))


async def test_what_compressed_messages_become_is_bounded() -> None:
    async with Calls(max_body_bytes=100_000).open() as calls, calls.stub() as stub:
        assert (await stub.ModelInfer(request(), compression=grpc.Compression.Gzip)).outputs
        bomb = request()
        bomb.raw_input_contents.append(bytes(10_000_000))
        code, details = await refused(stub.ModelInfer(bomb, compression=grpc.Compression.Gzip))
        assert code is StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in details


def large() -> bytes:
    """A message with nine hundred kilobytes of pixels."""
    pixels = pb.ModelInferRequest(model_name=request().model_name)
    pixels.inputs.add(name="image", datatype="UINT8", shape=[500, 600, 3])
    pixels.raw_input_contents.append(bytes(500 * 600 * 3))
    return prefixed(pixels.SerializeToString())


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Let what is not needed be freed by counts of references, or be traced."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
        gc.enable()


async def test_of_messages_of_calls_that_have_ended_nothing_is_kept() -> None:
    data = large()
    async with Calls().open() as calls, raw_caller(calls.port) as caller:
        with without_collections():
            for stream in (1, 3, 5, 7):
                await caller.send(head(stream, "ModelInfer"))
                await caller.pour(stream, data)
                await caller.send(frame(DATA, END_STREAM, stream))
            await until(lambda: calls.gateway.outcomes() == {"ok": 4})
            num_bytes, _ = tracemalloc.get_traced_memory()
    assert num_bytes < 2 * len(data)


async def test_of_messages_whose_answers_nobody_reads_nothing_is_kept() -> None:
    data = large()
    async with (
        Calls(unread_timeout_ms=600_000).open() as calls,
        raw_caller(calls.port, window=0) as attacker,
    ):
        await attacker.send(head(1, "ModelStreamInfer"))
        with without_collections():
            async with asyncio.timeout(PATIENCE_S):
                for _ in range(MAX_STREAM_MESSAGES):
                    await attacker.pour(1, data)
            answered = {"ok": MAX_STREAM_MESSAGES}
            await until(lambda: calls.gateway.outcomes() == answered)
            num_bytes, _ = tracemalloc.get_traced_memory()
    assert num_bytes < 2 * len(data)


async def test_of_who_leaves_unread_answers_all_is_cancelled() -> None:
    async with Calls().open() as calls:
        backend = calls.gateway.backend

        async def first_alone(image: Image, asked: Request) -> Answered:
            return await (forever() if len(backend.seen) > 1 else backend.answer(image, asked))

        backend.behaviour = first_alone
        async with raw_caller(calls.port, window=0) as attacker:
            await attacker.send(head(1, "ModelStreamInfer"))
            for _ in range(3):
                await attacker.pour(1, prefixed(request().SerializeToString()))
            await until(lambda: len(backend.seen) == 3)
        await until(lambda: calls.gateway.outcomes() == {"ok": 1, "cancelled": 2})


async def test_messages_of_a_great_many_fields_are_not_parsed() -> None:
    async with Calls().open() as calls, calls.stub() as stub:
        many = request()
        for _ in range(MAX_FIELDS):
            many.outputs.add(name="boxes")
        code, details = await refused(stub.ModelInfer(many))
        assert code is StatusCode.INVALID_ARGUMENT
        assert details == f"The message has more than {MAX_FIELDS} fields."


async def test_a_question_that_does_not_come_is_not_waited_for() -> None:
    async with Calls(head_timeout_ms=50).open() as calls, channel_from_elsewhere(calls.port) as at:
        ask = at.stream_unary("/inference.GRPCInferenceService/ServerLive")
        code, details = await refused(ask(silent(), timeout=PATIENCE_S))
        assert (code, details) == (
            StatusCode.DEADLINE_EXCEEDED,
            "No message had come after 0.05 seconds.",
        )


async def test_a_stream_without_messages_ends() -> None:
    async with Calls(stream_idle_ms=50).open() as calls, calls.stub() as stub:
        code, details = await refused(stub.ModelStreamInfer(silent()).read())
        assert (code, details) == (
            StatusCode.DEADLINE_EXCEEDED,
            "No message had come for 0.05 seconds.",
        )


@pytest.mark.parametrize("method", ["ServerMetadata", "ModelInfer", "ModelStreamInfer"])
async def test_who_does_not_read_is_hung_up_on(method: str) -> None:
    async with Calls(unread_timeout_ms=50).open() as calls:
        async with raw_caller(calls.port, window=0) as attacker:
            asked = b"" if method == "ServerMetadata" else request().SerializeToString()
            await attacker.send(head(1, method), message(1, asked))
            async with asyncio.timeout(PATIENCE_S):
                await attacker.ended()
        assert refusals(calls, "unread") == 1
        await serves_the_victim(calls)


async def test_each_address_has_so_many_connections() -> None:
    async with (
        Calls(max_connections_per_address=2).open() as calls,
        contextlib.AsyncExitStack() as on,
    ):
        victim = await on.enter_async_context(calls.stub())
        await victim.ServerLive(pb.ServerLiveRequest())
        for _ in range(4):
            await on.enter_async_context(raw_caller(calls.port))
        await until(lambda: refusals(calls, "overloaded") == 2)
        assert (await victim.ServerLive(pb.ServerLiveRequest())).live
        await serves_the_victim(calls)


async def test_beyond_all_connections_those_of_whoever_has_most_go() -> None:
    async with Calls(max_connections=8).open() as calls, contextlib.AsyncExitStack() as on:
        victim = await on.enter_async_context(calls.stub())
        await victim.ServerLive(pb.ServerLiveRequest())
        attackers = [await on.enter_async_context(raw_caller(calls.port)) for _ in range(10)]
        await until(lambda: refusals(calls, "overloaded") == 3)
        async with asyncio.timeout(PATIENCE_S):
            await attackers[0].ended()  # the oldest
        assert (await victim.ServerLive(pb.ServerLiveRequest())).live


async def test_pings_without_end_end_the_connection() -> None:
    async with Calls().open() as calls, raw_caller(calls.port) as attacker:
        await attacker.send(*[frame(PING, payload=bytes(8))] * 100)
        async with asyncio.timeout(PATIENCE_S):
            assert GOAWAY in await attacker.ended()
        await serves_the_victim(calls)


@pytest.mark.parametrize(
    ("proxies", "principal"), [(HERE, "address 192.0.2.7"), ("", f"address {HERE}")]
)
async def test_who_a_trusted_proxy_calls_for(proxies: str, principal: str) -> None:
    async with Calls(trusted_proxies=proxies).open() as calls:
        await calls.infer(headers={"x-forwarded-for": "203.0.113.9, 192.0.2.7"})
        assert calls.gateway.backend.seen[0][1].principal == principal


async def test_turns_go_to_whoever_may_have_one() -> None:
    turns = MessageTurns(2)
    one, other = Principal("one", ""), Principal("other", "")
    had: list[str] = []

    async def have(caller: Principal, leave: asyncio.Event) -> None:
        async with turns.turn(caller):
            had.append(caller.name)
            await leave.wait()

    leave = asyncio.Event()
    held = [asyncio.ensure_future(have(one, leave)) for _ in range(4)]
    await asyncio.sleep(0)
    assert had == ["one"] * 2
    third = asyncio.ensure_future(have(other, asyncio.Event()))
    await asyncio.sleep(0)
    assert had[2:] == ["other"]
    held[2].cancel()  # while it waits
    held[0].cancel()
    await asyncio.sleep(0)
    held[3].cancel()  # as its turn comes
    await asyncio.gather(*held[:1], *held[2:], return_exceptions=True)
    leave.set()
    await held[1]
    third.cancel()
    await asyncio.gather(third, return_exceptions=True)
    both = [asyncio.ensure_future(have(one, leave)) for _ in range(2)]
    await asyncio.gather(*both)
    assert had[-2:] == ["one"] * 2, "all turns were given back"


async def test_a_turn_goes_past_who_is_being_cancelled() -> None:
    turns = MessageTurns(1)
    caller = Principal("one", "")

    async def have() -> bool:
        async with turns.turn(caller):
            return True

    async with turns.turn(caller):
        waiting = [asyncio.ensure_future(have()) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # of which it hears only once it runs
    async with asyncio.timeout(PATIENCE_S):
        assert await waiting[1]
