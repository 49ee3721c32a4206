"""``GRPCInferenceService``: every method that clients of KServe and Triton need of a gateway.

    ModelInfer          one message, one answer, like a POST over HTTP
    ModelStreamInfer    messages as they come, answers in their order, each with its own problem

Both go through the very code that answers HTTP: gate, admission, engine, metrics. What is read of a
call before that are its metadata, so that who may not send is refused before the message arrives.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from importlib import metadata
from typing import Any, NoReturn, TypeAlias

import grpc.aio
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError, Message
from starlette.requests import Request as HttpRequest
from tritonclient.grpc import service_pb2 as pb

from serving.api.access_gate import AccessGate
from serving.api.detect import DetectionService
from serving.api.kserve import (
    EXTENSIONS,
    PLATFORM,
    describe_config,
    describe_model,
    describe_statistics,
    last_inference_ms,
)
from serving.api.lifecycle import Lifecycle
from serving.api.problems import DEFECT
from serving.core.errors import ServingError
from serving.core.ports import Backend, Clock
from serving.grpc_api.call import Body, again, one, scope_of
from serving.grpc_api.messages import InferMessages, check_model, read_message
from serving.grpc_api.status import code_of, metadata_of
from serving.observability.metrics import Totals
from serving.triton.wire import error_to_text

logger = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
MAX_STREAM_MESSAGES = 16
"""Messages of one stream that are inside at once; the next is read when the first is answered."""

Context: TypeAlias = Any
"""gRPC's ``ServicerContext``, which has no types."""
Answer = Callable[[Any], Any]
"""Function from a question, a message, to its answer."""


class InferenceService:
    """The methods of the service, over the service of HTTP."""

    def __init__(
        self,
        gate: AccessGate,
        detector: DetectionService,
        messages: InferMessages,
        backend: Backend,
        lifecycle: Lifecycle,
        totals: Totals,
        *,
        clock: Clock,
        wall_clock: Clock,
    ) -> None:
        self._gate = gate
        self._detector = detector
        self._messages = messages
        self._backend = backend
        self._lifecycle = lifecycle
        self._totals = totals
        self._clock = clock
        self._wall_clock = wall_clock

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what answers calls of the service."""
        questions: dict[str, tuple[Any, Answer, bool]] = {
            "ServerLive": (pb.ServerLiveRequest, self._live, True),
            "ServerReady": (pb.ServerReadyRequest, self._ready, True),
            "ModelReady": (pb.ModelReadyRequest, self._model_ready, False),
            "ServerMetadata": (pb.ServerMetadataRequest, self._server_metadata, False),
            "ModelMetadata": (pb.ModelMetadataRequest, self._model_metadata, False),
            "ModelConfig": (pb.ModelConfigRequest, self._model_config, False),
            "ModelStatistics": (pb.ModelStatisticsRequest, self._statistics, False),
            "RepositoryIndex": (pb.RepositoryIndexRequest, self._index, False),
        }
        methods = {
            name: grpc.unary_unary_rpc_method_handler(
                self._answering(request, answer, is_public),
                response_serializer=_serialized,
            )
            for name, (request, answer, is_public) in questions.items()
        }
        # As a stream of one message it is the same on the wire, and read when it is to be.
        methods["ModelInfer"] = grpc.stream_unary_rpc_method_handler(self._infer)
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream_infer)
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    # -- inference -------------------------------------------------------------------------------

    async def _infer(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        scope = scope_of(context, f"/{SERVICE}/ModelInfer", self._clock)
        left_s = context.time_remaining()
        due_s = math.inf if left_s is None else scope["state"]["arrival_s"] + left_s
        try:
            scope["state"]["principal"] = self._gate.admit(scope)
            response = await self._answered(_Inside(self._answer, scope, requests), due_s)
        except Exception as error:
            await _abort(context, error)
        context.set_trailing_metadata((("x-request-id", scope["state"]["request_id"]),))
        return response

    async def _answered(self, inside: _Inside, due_s: float = math.inf) -> bytes:
        """Return the answer, or see to it that the request ends if whoever waits for it does not.

        gRPC ends this when the client leaves, or when ``due_s`` has come: then the server is late,
        which it finds by itself.
        """
        try:
            return await asyncio.shield(inside.task)
        except asyncio.CancelledError:
            if self._clock() < due_s:
                inside.body.leave()
            with suppress(ServingError):
                await inside.task
            raise

    async def _stream_infer(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        """Yield an answer to each message, in their order."""
        scope = scope_of(context, f"/{SERVICE}/ModelStreamInfer", self._clock)
        asked: asyncio.Queue[_Inside | None] = asyncio.Queue(MAX_STREAM_MESSAGES)
        reading = asyncio.ensure_future(self._read(requests, scope, asked))
        try:
            while (inside := await asked.get()) is not None:
                yield await self._answered(inside)
        finally:
            reading.cancel()
            while not asked.empty():
                if (inside := asked.get_nowait()) is not None:
                    inside.body.leave()

    async def _read(
        self,
        requests: AsyncIterator[bytes],
        scope: dict[str, Any],
        asked: asyncio.Queue[_Inside | None],
    ) -> None:
        """Read the messages of a stream, and put None when there are no more."""
        try:
            async for message in requests:
                await asked.put(_Inside(self._answer_message, scope, one(message), message))
        except Exception as error:
            logger.info("a stream of messages broke off: %s", error)
        await asked.put(None)

    async def _answer_message(self, scope: dict[str, Any], body: Body, message: bytes) -> bytes:
        """Return the answer to a message of a stream, be it that it has none."""
        own = again(scope, self._clock)
        try:
            own["state"]["principal"] = self._gate.admit(own)
            found = pb.ModelInferResponse.FromString(await self._answer(own, body))
            return _serialized(pb.ModelStreamInferResponse(infer_response=found))
        except Exception as error:
            answer = pb.ModelStreamInferResponse(error_message=error_to_text(_told(error)))
            with suppress(DecodeError):
                answer.infer_response.id = pb.ModelInferRequest.FromString(message).id
            return _serialized(answer)

    async def _answer(self, scope: dict[str, Any], body: Body) -> bytes:
        response = await self._detector.serve(HttpRequest(scope, body.receive), self._messages)
        return bytes(response.body)

    # -- questions -------------------------------------------------------------------------------

    def _answering(
        self, question: Any, answer: Answer, is_public: bool
    ) -> Callable[[bytes, Context], Awaitable[Any]]:
        """Return the method that answers messages of a class, for anybody if it is public."""

        async def method(message: bytes, context: Context) -> Any:
            try:
                if not is_public:
                    self._gate.admit(scope_of(context, f"/{SERVICE}", self._clock))
                return answer(read_message(question, message))
            except Exception as error:
                await _abort(context, error)

        return method

    def _live(self, _: pb.ServerLiveRequest) -> Any:
        return pb.ServerLiveResponse(live=self._backend.alive)

    def _ready(self, _: pb.ServerReadyRequest) -> Any:
        return pb.ServerReadyResponse(ready=self._lifecycle.ready)

    def _model_ready(self, request: pb.ModelReadyRequest) -> Any:
        check_model(self._backend.family, request.name, request.version)
        return pb.ModelReadyResponse(ready=self._lifecycle.ready)

    def _server_metadata(self, _: pb.ServerMetadataRequest) -> Any:
        version = metadata.version("punctual")
        return pb.ServerMetadataResponse(name=PLATFORM, version=version, extensions=EXTENSIONS)

    def _model_metadata(self, request: pb.ModelMetadataRequest) -> Any:
        family = self._backend.family
        check_model(family, request.name, request.version)
        return ParseDict(describe_model(family), pb.ModelMetadataResponse())

    def _model_config(self, request: pb.ModelConfigRequest) -> Any:
        family = self._backend.family
        check_model(family, request.name, request.version)
        return ParseDict({"config": describe_config(family)}, pb.ModelConfigResponse())

    def _statistics(self, request: pb.ModelStatisticsRequest) -> Any:
        family, totals = self._backend.family, self._totals
        if request.name:
            check_model(family, request.name, request.version)
        last_ms = last_inference_ms(totals, self._clock, self._wall_clock)
        statistics = describe_statistics(family, totals, last_ms)
        return ParseDict({"model_stats": [statistics]}, pb.ModelStatisticsResponse())

    def _index(self, _: pb.RepositoryIndexRequest) -> Any:
        family = self._backend.family
        response = pb.RepositoryIndexResponse()
        state = "READY" if self._backend.ready else "UNAVAILABLE"
        response.models.add(name=family.name, version=family.version, state=state)
        return response


class _Inside:
    """A request that is being answered, with its body."""

    def __init__(
        self,
        answer: Callable[..., Coroutine[Any, Any, bytes]],
        scope: dict[str, Any],
        messages: AsyncIterator[bytes],
        *more: bytes,
    ) -> None:
        self.body = Body(messages)
        self.task = asyncio.create_task(answer(scope, self.body, *more))


def _told(error: Exception) -> ServingError:
    """Return what a client is told of an error."""
    if isinstance(error, ServingError):
        return error
    logger.error("a request over gRPC failed", exc_info=error)
    return ServingError(DEFECT)


async def _abort(context: Context, error: Exception) -> NoReturn:
    """End a call with the status that says which problem ``error`` is."""
    told = _told(error)
    await context.abort(code_of(told), told.detail, metadata_of(told))
    raise AssertionError("it raises an error of its own")


def _serialized(message: Message) -> bytes:
    return bytes(message.SerializeToString())
