"""The service over gRPC: Triton's client at a real port, over a fake engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from grpc import StatusCode
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from loadtest.servers.free_ports import free_port
from serving.access.keys import digest_of
from serving.api.body import BodyRoom
from serving.core.command_errors import CommandFailed
from serving.core.errors import BackendError, Overloaded, ShedReason
from serving.core.ports import Image
from serving.core.request import Answered, Request
from serving.grpc_api.call import scope_of
from serving.grpc_api.callers import CallerLimits, Callers
from serving.grpc_api.outline import MAX_NUMBERS
from serving.grpc_api.server import GrpcLimits, GrpcServer
from serving.grpc_api.sockets import SocketLimits
from tests.serving.fakes import CATALOG, DETECTIONS, JPEG, forever, picture
from tests.serving.gateway import Gateway

pytestmark = pytest.mark.anyio

MODEL = CATALOG.name
HERE = "127.0.0.1"
LAST_EVENTS_S = 0.1


class Calls:
    """A gateway whose port for gRPC is open."""

    def __init__(self, **settings: Any) -> None:
        self.port = free_port()
        self.gateway = Gateway(grpc_port=self.port, **settings)
        self.startup: asyncio.Queue[Any] = asyncio.Queue()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Calls]:
        told: asyncio.Queue[Any] = asyncio.Queue()
        lifespan = asyncio.ensure_future(
            self.gateway.app({"type": "lifespan"}, told.get, self.startup.put)
        )
        told.put_nowait({"type": "lifespan.startup"})
        assert (await self.startup.get())["type"] == "lifespan.startup.complete"
        try:
            yield self
        finally:
            told.put_nowait({"type": "lifespan.shutdown"})
            await lifespan
            # What gRPC has yet to say of cancelled calls would meet a loop that is closed, and be
            # an error of whichever test comes next.
            await asyncio.sleep(LAST_EVENTS_S)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[triton.InferenceServerClient]:
        client = triton.InferenceServerClient(f"{HERE}:{self.port}")
        try:
            yield client
        finally:
            await client.close()

    @asynccontextmanager
    async def stub(self) -> AsyncIterator[service_pb2_grpc.GRPCInferenceServiceStub]:
        # Channels to one address would share a connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"{HERE}:{self.port}", options) as channel:
            yield service_pb2_grpc.GRPCInferenceServiceStub(channel)

    async def infer(self, *inputs: triton.InferInput, **how: Any) -> Any:
        async with self.client() as client:
            return await client.infer(MODEL, [*inputs] or [file()], **how)

    async def refused(self, *inputs: triton.InferInput, **how: Any) -> tuple[StatusCode, str]:
        """Status and details of a call that is not answered."""
        with pytest.raises(InferenceServerException) as refused:
            await self.infer(*inputs, **how)
        name = str(refused.value.status()).rpartition(".")[2]
        return StatusCode[name], str(refused.value.message())


@pytest.fixture
async def calls() -> AsyncIterator[Calls]:
    async with Calls().open() as opened:
        yield opened


def file(data: bytes = JPEG) -> triton.InferInput:
    made = triton.InferInput("image", [1], "BYTES")
    return made.set_data_from_numpy(np.array([data], dtype=np.object_))


def pixels(array: Any) -> triton.InferInput:
    return triton.InferInput("image", list(array.shape), "UINT8").set_data_from_numpy(array)


def message(**fields: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=MODEL, **fields)
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(len(JPEG).to_bytes(4, "little") + JPEG)
    return request


class TestInfer:
    @pytest.mark.parametrize("image", [file(), pixels(picture(64, 48))])
    async def test_what_http_answers(self, calls: Calls, image: triton.InferInput) -> None:
        result = await calls.infer(image, request_id="42", timeout=200_000)
        np.testing.assert_allclose(result.as_numpy("boxes"), DETECTIONS.boxes_xyxy_input / 2)
        np.testing.assert_array_equal(result.as_numpy("scores"), DETECTIONS.scores)
        np.testing.assert_array_equal(result.as_numpy("labels"), DETECTIONS.labels)
        response = result.get_response()
        assert (response.id, response.model_name, response.model_version) == ("42", MODEL, "1")
        assert response.parameters["budget_ms"].double_param == 200
        assert response.parameters["exit_depth"].int64_param == 3
        assert response.parameters["degraded"].bool_param is False
        assert response.parameters["operating_point"].string_param == "128x96/3"
        assert calls.gateway.outcomes() == {"ok": 1}

    async def test_the_deadline_of_the_call(self) -> None:
        async with Calls(max_budget_ms=60_000, default_budget_ms=60_000).open() as calls:
            result = await calls.infer(client_timeout=600.0)
            assert result.get_response().parameters["budget_ms"].double_param == 60_000
            # On the wire, gRPC rounds a deadline up: this one by as much as a tenth of a second.
            result = await calls.infer(client_timeout=50.0)
            assert 0 < result.get_response().parameters["budget_ms"].double_param < 50_500

    async def test_the_headers_of_http_count(self, calls: Calls) -> None:
        result = await calls.infer(headers={"x-deadline-ms": "150", "x-request-id": "abc"})
        assert result.get_response().parameters["budget_ms"].double_param == 150

    async def test_outputs_and_parameters(self, calls: Calls) -> None:
        wanted = [triton.InferRequestedOutput("labels")]
        result = await calls.infer(outputs=wanted, parameters={"max_depth": 1})
        assert [each.name for each in result.get_response().outputs] == ["labels"]
        assert calls.gateway.backend.seen[0][1].max_depth == 1

    async def test_contents_in_place_of_raw_bytes(self, calls: Calls) -> None:
        array = picture(64, 48)
        request = pb.ModelInferRequest(model_name=MODEL)
        tensor = request.inputs.add(name="image", datatype="UINT8", shape=array.shape)
        tensor.contents.uint_contents.extend(array.ravel().tolist())
        async with calls.stub() as stub:
            assert len((await stub.ModelInfer(request)).outputs) == 3
            tensor.contents.uint_contents[0] = 256
            with pytest.raises(grpc.aio.AioRpcError, match="0 to 255"):
                await stub.ModelInfer(request)
            tensor.contents.uint_contents.extend([0] * MAX_NUMBERS)
            with pytest.raises(grpc.aio.AioRpcError, match="raw_input_contents"):
                await stub.ModelInfer(request)

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"parameters": {"min_depth": 99}}, StatusCode.INVALID_ARGUMENT),
            ({"parameters": {"nothing": 1}}, StatusCode.INVALID_ARGUMENT),
            ({"model_version": "7"}, StatusCode.NOT_FOUND),
            ({"priority": 1}, StatusCode.INVALID_ARGUMENT),
            ({"sequence_id": 1}, StatusCode.INVALID_ARGUMENT),
            ({"outputs": [triton.InferRequestedOutput("x")]}, StatusCode.INVALID_ARGUMENT),
            (
                {"outputs": [triton.InferRequestedOutput("boxes", class_count=2)]},
                StatusCode.INVALID_ARGUMENT,
            ),
            ({"headers": {"x-deadline-ms": "soon"}}, StatusCode.INVALID_ARGUMENT),
            ({"timeout": 1_000}, StatusCode.FAILED_PRECONDITION),
        ],
    )
    async def test_bad_input(self, calls: Calls, change: Any, code: StatusCode) -> None:
        assert (await calls.refused(**change))[0] is code
        assert sum(calls.gateway.outcomes().values()) == 1
        assert (await calls.infer()).get_response().outputs

    @pytest.mark.parametrize(
        "image", [file(b"none"), pixels(np.zeros((3, 3), np.uint8)), file(JPEG[:200])]
    )
    async def test_bad_images(self, calls: Calls, image: triton.InferInput) -> None:
        assert (await calls.refused(image))[0] is StatusCode.INVALID_ARGUMENT

    async def test_noise(self, calls: Calls) -> None:
        path = "/inference.GRPCInferenceService/ModelInfer"
        async with grpc.aio.insecure_channel(f"{HERE}:{calls.port}") as channel:
            for noise in (b"\xff\xff\xff", b""):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await channel.unary_unary(path)(noise)
                assert refused.value.code() in (
                    StatusCode.INVALID_ARGUMENT,
                    StatusCode.NOT_FOUND,
                )

    async def test_metadata_of_any_bytes(self) -> None:
        headers = scope_of(_Called((("x-name", "\u20ac"), ("x-bin", b"\xff"))), "/", float)[
            "headers"
        ]
        assert headers == [(b"x-name", "\u20ac".encode()), (b"x-bin", b"\xff")]

    async def test_a_shape_has_a_bound(self, calls: Calls) -> None:
        request = message()
        request.inputs[0].shape.extend([1] * 10_000)
        async with calls.stub() as stub:
            with pytest.raises(grpc.aio.AioRpcError, match="there are 10001"):
                await stub.ModelInfer(request)

    async def test_a_message_that_is_too_large(self) -> None:
        async with Calls(max_body_bytes=10_000).open() as calls:
            code, _ = await calls.refused(pixels(picture(640, 480)))
            assert code is StatusCode.RESOURCE_EXHAUSTED
            assert (await calls.infer()).get_response().outputs

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (Overloaded("No.", ShedReason.REJECTED_SATURATED), StatusCode.RESOURCE_EXHAUSTED),
            (BackendError("It broke."), StatusCode.INTERNAL),
            (RuntimeError("a defect"), StatusCode.INTERNAL),
        ],
    )
    async def test_what_the_engine_says(
        self, calls: Calls, error: Exception, code: StatusCode
    ) -> None:
        async def behaviour(image: Image, request: Request) -> Answered:
            raise error

        calls.gateway.backend.behaviour = behaviour
        async with calls.stub() as stub:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.ModelInfer(message())
        assert refused.value.code() is code
        assert "a defect" not in str(refused.value.details())
        told = dict(refused.value.trailing_metadata())
        assert told["punctual-problem"] == getattr(error, "slug", "internal")
        assert ("grpc-retry-pushback-ms" in told) == isinstance(error, Overloaded)

    async def test_who_leaves_is_cancelled(self, calls: Calls) -> None:
        gateway = calls.gateway
        gateway.backend.behaviour = forever
        async with calls.stub() as stub:
            call = stub.ModelInfer(message())
            while not gateway.backend.seen:
                await asyncio.sleep(0.001)
            call.cancel()
            while not gateway.outcomes():
                await asyncio.sleep(0.001)
        assert gateway.outcomes() == {"cancelled": 1}

    async def test_more_calls_than_there_may_be(self) -> None:
        async with Calls(grpc_max_calls=1).open() as calls:
            calls.gateway.backend.behaviour = forever
            async with calls.stub() as stub:
                inside = stub.ModelInfer(message())
                while not calls.gateway.backend.seen:
                    await asyncio.sleep(0.001)
                async with calls.stub() as other:
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await other.ServerLive(pb.ServerLiveRequest())
                assert refused.value.code() is StatusCode.RESOURCE_EXHAUSTED
                inside.cancel()


class TestStream:
    async def test_answers_in_their_order_each_with_its_own_problem(self, calls: Calls) -> None:
        async def behaviour(image: Image, request: Request) -> Answered:
            if request.max_depth == 1:
                await asyncio.sleep(0.05)
            return await calls.gateway.backend.answer(image, request)

        calls.gateway.backend.behaviour = behaviour

        async def messages() -> AsyncIterator[dict[str, Any]]:
            for number, parameters in enumerate(({"max_depth": 1}, {}, {"max_depth": 0}, {})):
                yield {
                    **{"model_name": MODEL, "inputs": [file()]},
                    **{"request_id": str(number), "parameters": parameters},
                }

        seen = []
        async with calls.client() as client:
            async for result, error in client.stream_infer(messages()):
                seen.append(str(error) if result is None else result.get_response().id)
        assert [each for each in seen if len(each) == 1] == ["0", "1", "3"]
        assert "[invalid-parameter]" in seen[2]
        assert calls.gateway.outcomes() == {"ok": 3, "invalid": 1}

    async def test_errors_name_their_message(self, calls: Calls) -> None:
        async with calls.stub() as stub:
            bad = message(id="mine")
            bad.model_name = "other"
            stream = stub.ModelStreamInfer(iter([bad]))
            answers = [answer async for answer in stream]
        assert [answer.infer_response.id for answer in answers] == ["mine"]
        assert "no model 'other'" in answers[0].error_message

    async def test_who_leaves_is_cancelled_in_all(self, calls: Calls) -> None:
        gateway = calls.gateway
        gateway.backend.behaviour = forever
        async with calls.stub() as stub:
            stream = stub.ModelStreamInfer(iter([message()] * 3))
            while len(gateway.backend.seen) < 3:
                await asyncio.sleep(0.001)
            stream.cancel()
            while sum(gateway.outcomes().values()) < 3:
                await asyncio.sleep(0.001)
        assert gateway.outcomes() == {"cancelled": 3}


class _Called:
    """Context of a call with metadata."""

    def __init__(self, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata

    def time_remaining(self) -> None:
        return None

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


class TestQuestions:
    async def test_noise(self, calls: Calls, caplog: pytest.LogCaptureFixture) -> None:
        async with grpc.aio.insecure_channel(f"{HERE}:{calls.port}") as channel:
            for name in ("ServerLive", "ModelReady", "ModelStatistics"):
                path = f"/inference.GRPCInferenceService/{name}"
                with pytest.raises(grpc.aio.AioRpcError, match=f"no {name}Request") as refused:
                    await channel.unary_unary(path)(b"\xff\xff\xff")
                assert refused.value.code() is StatusCode.INVALID_ARGUMENT
        assert not caplog.records

    async def test_health_and_descriptions(self, calls: Calls) -> None:
        async with calls.client() as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready(MODEL)
            assert (await client.get_server_metadata()).name == "punctual"
            described = await client.get_model_metadata(MODEL)
            assert [each.name for each in described.outputs] == ["boxes", "scores", "labels"]
            config = (await client.get_model_config(MODEL)).config
            assert (config.name, config.max_batch_size) == (MODEL, 0)
            await client.infer(MODEL, [file()])
            (statistics,) = (await client.get_inference_statistics(MODEL)).model_stats
            assert statistics.inference_stats.success.count == 1
            (entry,) = (await client.get_model_repository_index()).models
            assert entry.state == "READY"
            with pytest.raises(InferenceServerException, match="no model 'other'"):
                await client.get_model_metadata("other")

    async def test_while_it_drains(self, calls: Calls) -> None:
        calls.gateway.lifecycle.drain()
        async with calls.client() as client:
            assert await client.is_server_live()
            assert not await client.is_server_ready()
            assert not await client.is_model_ready(MODEL)
        assert (await calls.infer()).get_response().outputs
        calls.gateway.lifecycle.close()
        assert (await calls.refused())[0] is StatusCode.UNAVAILABLE


async def test_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    entry = {"name": "grpc", "sha256": digest_of(b"secret"), "rate": 2}
    path.write_text(json.dumps({"principal": [entry]}))
    async with Calls(keys_file=path).open() as calls:
        assert (await calls.refused())[0] is StatusCode.UNAUTHENTICATED
        assert (await calls.refused(headers={"x-api-key": "wrong"}))[0] is (
            StatusCode.UNAUTHENTICATED
        )
        async with calls.client() as client:
            assert await client.is_server_ready()
            with pytest.raises(InferenceServerException, match="asks for a key"):
                await client.get_model_metadata(MODEL)
        headers = {"authorization": "Bearer secret"}
        await calls.infer(headers=headers)
        assert calls.gateway.backend.seen[0][1].principal == "grpc"
        await calls.infer(headers=headers)
        code, _ = await calls.refused(headers=headers)
        assert code is StatusCode.RESOURCE_EXHAUSTED
        assert calls.gateway.sample("punctual_refused_total", problem="too-many-requests") == 1


async def test_requests_inside_end_before_the_port_closes() -> None:
    leave = asyncio.Event()
    async with Calls().open() as calls:
        gateway = calls.gateway

        async def behaviour(image: Image, request: Request) -> Answered:
            await leave.wait()
            return await gateway.backend.answer(image, request)

        gateway.backend.behaviour = behaviour
        stub = service_pb2_grpc.GRPCInferenceServiceStub(
            grpc.aio.insecure_channel(f"{HERE}:{calls.port}")
        )
        inside = stub.ModelInfer(message())
        while not gateway.backend.seen:
            await asyncio.sleep(0.001)
        asyncio.get_running_loop().call_later(0.05, leave.set)
    assert len((await inside).outputs) == 3


async def test_a_port_that_is_taken(calls: Calls) -> None:
    handler = grpc.method_handlers_generic_handler("x", {})
    callers = Callers(
        CallerLimits(8, 8, 1000, 1.0), SocketLimits(8, 8), BodyRoom(1000), lambda _: None
    )
    server = GrpcServer(handler, HERE, calls.port, GrpcLimits(8, 1000, 1000, 1.0), callers)
    with pytest.raises(CommandFailed, match=f"{HERE}:{calls.port}"):
        await server.start()
