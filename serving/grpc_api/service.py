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
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeAlias

import grpc.aio
from google.protobuf.message import Message
from starlette.requests import Request as HttpRequest
from tritonclient.grpc import service_pb2 as pb
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from serving.access.addresses import Network
from serving.api.access_gate import AccessGate
from serving.api.connection import DEPARTURE
from serving.api.detect import DetectionService
from serving.api.problems import DEFECT
from serving.api.protocol_adapter import ProtocolAdapter
from serving.core.errors import BodyTimeout, Overloaded, ServingError
from serving.core.ports import Clock
from serving.grpc_api.call import Body, again, scope_of
from serving.grpc_api.callers import Call, Callers
from serving.grpc_api.messages import InferMessages, MessageInHand, read_message
from serving.grpc_api.questions import Question, Questions
from serving.grpc_api.status import code_of, metadata_of
from serving.triton.wire import error_to_text

logger = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
MAX_STREAM_MESSAGES = 16
"""Messages of one stream that are inside at once, until the client takes their answers; the next is
read when the first is gone."""

Context: TypeAlias = Any
"""gRPC's ``ServicerContext``, which has no types."""
Messages: TypeAlias = AsyncIterator[bytes]
"""An iterator over the messages of a call, which nobody uses: see ``next_message``."""


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Limits of one service; durations in seconds."""

    question_timeout_s: float
    """Time for the message of a call that asks for no boxes: those have a budget."""
    idle_s: float
    """Time without a message after which a stream ends."""
    proxies: tuple[Network, ...] = ()
    """Networks of those whose ``x-forwarded-for`` is believed."""


class InferenceService:
    """The methods of the service, over the service of HTTP."""

    def __init__(
        self,
        gate: AccessGate,
        detector: DetectionService,
        messages: InferMessages,
        questions: Questions,
        callers: Callers,
        limits: ServiceLimits,
        clock: Clock,
    ) -> None:
        self._gate = gate
        self._detector = detector
        self._messages = messages
        self._questions = questions
        self._callers = callers
        self._limits = limits
        self._clock = clock
        # The rule of the HTTP server; it changes a scope that leads nowhere else.
        proxies = [str(proxy) for proxy in limits.proxies]
        self._forwarded: Any = ProxyHeadersMiddleware(_nowhere, proxies)

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what answers calls of the service."""
        # As a stream of one message each is the same on the wire, and read when it is to be.
        methods = {
            name: grpc.stream_unary_rpc_method_handler(partial(self._tell, question))
            for name, question in self._questions.by_method().items()
        }
        methods["ModelInfer"] = grpc.stream_unary_rpc_method_handler(self._infer)
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream_infer)
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _head(self, context: Context, method: str) -> tuple[Call, dict[str, Any]]:
        """Return a call that has come, and its head as that of a request."""
        scope = scope_of(context, f"/{SERVICE}/{method}", self._clock)
        await self._forwarded(scope, None, None)
        return Call(self._callers, context, scope), scope

    # -- inference -------------------------------------------------------------------------------

    async def _infer(self, _: Messages, context: Context) -> bytes:
        call, scope = await self._head(context, "ModelInfer")
        left_s = context.time_remaining()
        due_s = math.inf if left_s is None else scope["state"]["arrival_s"] + left_s
        try:
            call.enter()
            scope["state"]["principal"] = self._gate.admit(scope)
            body = Body(partial(call.read, context))
            inside = _Inside(body, self._answer(scope, body, self._messages))
            response = await self._answered(inside, due_s)
        except Exception as error:
            await _abort(call, context, error)
        context.set_trailing_metadata((("x-request-id", scope["state"]["request_id"]),))
        call.write()
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
                inside.body.departure.leave()
            with suppress(ServingError):
                await inside.task
            raise

    async def _stream_infer(self, _: Messages, context: Context) -> None:
        """Write an answer to each message, in their order."""
        call, scope = await self._head(context, "ModelStreamInfer")
        try:
            call.enter()
            with call.streaming():
                async with aclosing(self._answers(call, context, scope)) as answers:
                    async for answer in answers:
                        with call.writing():
                            await context.write(answer)
        except ServingError as error:
            await _abort(call, context, error)
        except grpc.aio.InternalError:
            logger.info("a client has left a stream without reading its answers")
            return
        call.write()

    async def _answers(
        self, call: Call, context: Context, scope: dict[str, Any]
    ) -> AsyncGenerator[bytes]:
        """Yield an answer to each message.

        Raises BodyTimeout where none comes for too long, Overloaded where there is no room for it.
        """
        asked: asyncio.Queue[_Inside | ServingError | None] = asyncio.Queue()
        room = asyncio.Semaphore(MAX_STREAM_MESSAGES)
        reading = asyncio.ensure_future(self._read(call, context, scope, asked, room))
        try:
            while (inside := await asked.get()) is not None:
                if isinstance(inside, ServingError):
                    raise inside
                yield await self._answered(inside)
                room.release()
        finally:
            reading.cancel()
            while not asked.empty():
                if isinstance(inside := asked.get_nowait(), _Inside):
                    inside.body.departure.leave()

    async def _read(
        self,
        call: Call,
        context: Context,
        scope: dict[str, Any],
        asked: asyncio.Queue[_Inside | ServingError | None],
        room: asyncio.Semaphore,
    ) -> None:
        """Read the messages of a stream as there is room, and put None when there are no more."""
        end: ServingError | None = None
        try:
            while await room.acquire():
                if (message := await self._next(call, context)) is None:
                    break
                in_hand = MessageInHand(message, self._messages)
                del message  # it is let go of as soon as it is read
                body = Body(in_hand.message)
                asked.put_nowait(_Inside(body, self._answer_message(scope, body, in_hand)))
        except TimeoutError:
            end = BodyTimeout(f"No message had come for {self._limits.idle_s:g} seconds.")
        except Overloaded as error:
            end = error
        except Exception as error:
            logger.info("a stream of messages broke off: %s", error)
        asked.put_nowait(end)

    async def _next(self, call: Call, context: Context) -> bytes | None:
        """Return the next message of a stream, None after the last.

        Raises TimeoutError, and Overloaded where there is no room for it.
        """
        async with asyncio.timeout(self._limits.idle_s):
            return await call.next_message(context)

    async def _answer_message(
        self, scope: dict[str, Any], body: Body, in_hand: MessageInHand
    ) -> bytes:
        """Return the answer to a message of a stream, be it that it has none."""
        own = again(scope, self._clock)
        try:
            own["state"]["principal"] = self._gate.admit(own)
            found = pb.ModelInferResponse.FromString(await self._answer(own, body, in_hand))
            return _serialized(pb.ModelStreamInferResponse(infer_response=found))
        except Exception as error:
            answer = pb.ModelStreamInferResponse(error_message=error_to_text(_told(error)))
            answer.infer_response.id = in_hand.end()
            return _serialized(answer)

    async def _answer(self, scope: dict[str, Any], body: Body, messages: ProtocolAdapter) -> bytes:
        scope["state"][DEPARTURE] = body.departure
        response = await self._detector.serve(HttpRequest(scope, body.receive), messages)
        return bytes(response.body)

    # -- questions -------------------------------------------------------------------------------

    async def _tell(self, question: Question, _: Messages, context: Context) -> bytes:
        """Return the answer to a question, for anybody if it is public."""
        call, scope = await self._head(context, question.kind.DESCRIPTOR.name)
        try:
            call.enter()
            if not question.is_public:
                self._gate.admit(scope)
            message = await self._question(call, context)
            answer = _serialized(question.answer(read_message(question.kind, message)))
        except Exception as error:
            await _abort(call, context, error)
        call.write()
        return answer

    async def _question(self, call: Call, context: Context) -> bytes:
        """Return the message of a question. Raises BodyTimeout, and Overloaded."""
        timeout_s = self._limits.question_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                with call.observed():
                    return await call.read(context)
        except TimeoutError as error:
            raise BodyTimeout(f"No message had come after {timeout_s:g} seconds.") from error


class _Inside:
    """A request that is being answered, with its body."""

    def __init__(self, body: Body, answering: Coroutine[Any, Any, bytes]) -> None:
        self.body = body
        self.task = asyncio.create_task(answering)


async def _nowhere(*_: object) -> None:
    """Serve nothing, as an application."""


def _told(error: Exception) -> ServingError:
    """Return what a client is told of an error."""
    if isinstance(error, ServingError):
        return error
    logger.error("a request over gRPC failed", exc_info=error)
    return ServingError(DEFECT)


async def _abort(call: Call, context: Context, error: Exception) -> NoReturn:
    """End a call with the status that says which problem ``error`` is."""
    told = _told(error)
    call.write()
    await context.abort(code_of(told), told.detail, metadata_of(told))
    raise AssertionError("it raises an error of its own")


def _serialized(message: Message) -> bytes:
    return bytes(message.SerializeToString())
