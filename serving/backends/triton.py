"""Triton backend: the executor runs inside Triton; one gRPC stream carries all requests.

    stream -> outgoing ---> writer task ---> Triton
         ^                                             |
         '------ pending[id] <----- reader task <------'

A session is one stream. When it ends, whatever waits on it fails at once and another is attempted,
for as long as the gateway lives. A heartbeat on the same stream brings the executor's predictions;
without one for ``STALE_S`` the backend is not ready, whatever the connection looks like.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from serving.artifacts.model_folders import MODEL_SUFFIX
from serving.backends.answers import MAX_UNREAD, Mailbox
from serving.backends.silence import Silence
from serving.core.errors import (
    BackendError,
    BackendUnavailable,
    FrameSuperseded,
    Overloaded,
    ServingError,
    ShedReason,
)
from serving.core.fair_shares import refusal
from serving.core.family import Family
from serving.core.latency import TAIL_QUANTILE
from serving.core.model_entry import ModelEntry
from serving.core.ports import Clock, Image, Observer
from serving.core.quantiles import quantile
from serving.core.request import Answered, Cancelled, Failed, Request, Shed, Superseded
from serving.execution.engine import error_of
from serving.triton import wire
from serving.triton.answer import read_answer
from serving.triton.registered_memory import TritonMemory
from serving.triton.rpc import CHANNEL_OPTIONS, RPC_TIMEOUT_S, add_images, arrays, infer_request
from serving.triton.shared_memory import SharedImages, Slot

log = logging.getLogger(__name__)

HEARTBEAT_S = 0.25
STALE_S = 1.0
"""Seconds of silence after which a Triton is not sent anything new."""
SILENT_S = 10.0
"""Seconds of silence after which the connection to a Triton is given up."""
RETRY_S = 0.2
SHARED_SLOTS = 32
"""Number of images in shared memory at once; more go through the stream."""
TRANSPORT_WINDOW = 128
TRANSPORT_SEED_S = 0.002

_HEARTBEAT = "heartbeat"
_STATUS: dict[str, tuple[str, int | None]] = {wire.STATUS: ("INT64", 1)}


class _Lost(Exception):
    """Error of a stream that is lost; the message says why."""


@dataclass(frozen=True, slots=True)
class _Arrived:
    """One response with boxes, and when it came: whoever takes it may be slow to."""

    response: pb.ModelInferResponse
    arrived_s: float
    final: bool


@dataclass(slots=True)
class _Pending:
    """One request that Triton has not ended, though its sender may have left."""

    messages: Mailbox[_Arrived | ServingError | None]
    """The responses, then an error or, at the end of all, None."""
    shared: SharedImages | None
    slot: Slot | None
    principal: str
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class TritonBackend:
    """``Backend`` over ``<model>_anytime`` in the Triton at ``url`` (host:port of its gRPC)."""

    def __init__(
        self,
        entry: ModelEntry,
        url: str,
        clock: Clock,
        observer: Observer,
        max_pending: int,
        use_shared_memory: bool,
    ) -> None:
        self.family = Family((entry,))
        self._points = self.family.ladder.points
        self._digest = wire.short_digest(entry.digest)
        self._model = f"{entry.name}{MODEL_SUFFIX}"
        self._url = url
        self._clock = clock
        self._observer = observer
        self._max_pending = max_pending
        image_bytes = self.family.input_height * self.family.input_width * 3
        self._memory = TritonMemory(image_bytes, SHARED_SLOTS, use_shared_memory)
        self._status: wire.EngineStatus | None = None
        self._silence = Silence(clock, HEARTBEAT_S)
        self._transport_s = TRANSPORT_SEED_S
        self._transports: deque[float] = deque(maxlen=TRANSPORT_WINDOW)
        self._pending: dict[str, _Pending] = {}
        self._outgoing: asyncio.Queue[pb.ModelInferRequest] = asyncio.Queue()
        self._token = secrets.token_hex(4)
        self._numbers = itertools.count()
        self._became_ready = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._stopping = False

    # -- Backend -------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether this gateway is in touch with an executor that is warm."""
        fresh = self._silence.seconds < STALE_S
        return self._status is not None and fresh and not self._stopping

    @property
    def absence(self) -> BackendUnavailable:
        """Error of a request that comes while there is no executor."""
        return BackendUnavailable("The engine is not ready.")

    @property
    def alive(self) -> bool:
        """True: it tries on for as long as the gateway lives."""
        return True

    @property
    def num_waiting(self) -> int:
        """Number of waiting requests as of the last heartbeat, but no more than are pending now."""
        return min(self._status.num_waiting, len(self._pending)) if self._status else 0

    @property
    def num_in_flight(self) -> int:
        """Number of requests in flight as of the last heartbeat."""
        return self._status.num_in_flight if self._status else 0

    @property
    def num_instances(self) -> int:
        """Number of runs that may be under way at a time: one, in Triton."""
        return 1

    @property
    def num_held(self) -> int:
        """Number of requests with an answer in hand as of the last heartbeat."""
        return self._status.num_held if self._status else 0

    def predicted_s(self, depth: int, model: int | None = None) -> float:
        """Return the executor's prediction for exit ``depth``, plus a tail of the transport's time.

        The transport is the way to the executor and back. ``model`` is the number of an input size;
        None: of the one that is there first. Raises BackendUnavailable before the first heartbeat.
        """
        return self._soonest(self._heard_status().exits_s, depth, model) + self._transport_s

    def tail_s(self, depth: int, model: int | None = None) -> float:
        """Return what the executor seldom exceeds to exit ``depth``, plus the transport's tail.

        ``model`` is as for ``predicted_s``. Raises BackendUnavailable before the first heartbeat.
        """
        return self._soonest(self._heard_status().tails_s, depth, model) + self._transport_s

    def _soonest(self, seconds: Sequence[float], depth: int, model: int | None) -> float:
        """Return the least of the ``seconds`` to exit ``depth``, of one input size or of any."""
        return min(
            each
            for (size, exit_depth), each in zip(self._points, seconds, strict=True)
            if exit_depth == depth and model in (None, size)
        )

    def _heard_status(self) -> wire.EngineStatus:
        if self._status is None:
            raise BackendUnavailable("Triton is not there.")
        return self._status

    async def start(self) -> None:
        """Connect, and return once a heartbeat has come; until then, keep trying."""
        self._memory.open()
        self._running = asyncio.create_task(self._run())
        await self._became_ready.wait()

    async def stop(self, grace_s: float) -> None:
        """Let what is pending end for up to ``grace_s`` seconds, then hang up."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                for entry in tuple(self._pending.values()):
                    await entry.ended.wait()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._memory.close(self._url)

    async def stream(self, image: Image, request: Request) -> AsyncGenerator[Answered, None]:
        """Yield each answer to one image as it comes; see ``Backend.stream``."""
        answered: Answered | None = None
        try:
            async with contextlib.aclosing(self._answers(image, request)) as answers:
                async for answered in answers:
                    yield answered
            if answered is None:
                raise BackendError("Triton ended the request without an answer.")
        except (asyncio.CancelledError, GeneratorExit):
            self._observer.ended(Cancelled(request, self._clock()))
            raise
        except FrameSuperseded:
            self._observer.ended(Superseded(request, self._clock()))
            raise
        except Overloaded as error:
            now_s = self._clock()
            self._observer.ended(Shed(request, error.reason, now_s, error.retry_after_s))
            raise
        except Exception as error:  # a defect as well: it ends the request all the same
            self._observer.ended(Failed(request, error, self._clock()))
            raise
        self._observer.ended(answered)

    # -- requests ------------------------------------------------------------------------------

    async def _answers(self, image: Image, request: Request) -> AsyncGenerator[Answered, None]:
        sent_s = self._clock()
        name, entry = self._send(image, request, sent_s)
        answered: Answered | None = None
        command = wire.COMMAND_CANCEL
        try:
            while True:
                if answered is None:
                    message = await entry.messages.get()
                else:
                    message = await entry.messages.get_by(request.conclude_by_s, self._clock)
                if isinstance(message, _Arrived):
                    arrived_s = message.arrived_s
                    try:
                        answer, in_triton_s = read_answer(
                            request,
                            message.response,
                            arrived_s,
                            self._points,
                            self.family.find_fault,
                        )
                    except BackendError as error:
                        if answered is None:
                            raise
                        log.error("a later answer is of no use: %s", error)
                        continue
                    self._transports.append(arrived_s - sent_s - in_triton_s)
                    if not request.streaming:
                        before = 0 if answered is None else answered.upgrades + 1
                        answer = replace(answer, held=not message.final, upgrades=before)
                    answered = answer
                    yield answered
                elif message is None or answered is not None:
                    command = wire.COMMAND_CONCLUDE  # if it has not ended, but has to be sent
                    return
                else:
                    raise message
        finally:
            if name in self._pending:
                target = {wire.COMMAND: command, wire.TARGET: name}
                self._outgoing.put_nowait(infer_request(self._model, "", target))

    def _send(self, image: Image, request: Request, now_s: float) -> tuple[str, _Pending]:
        if not self.ready:
            raise BackendUnavailable("Triton is not there.")
        reason = refusal(
            self._num_pending_of, request.principal, len(self._pending), self._max_pending
        )
        if reason is not None:
            raise error_of(Shed(request, reason, now_s, 0.0))
        left_us = round((request.deadline_s - now_s - self._transport_s) * wire.MICROSECONDS)
        if left_us <= 0:
            raise Overloaded(
                "The budget ran out before the image could be sent to the engine.",
                ShedReason.REJECTED_EXPIRED,
                0.0,
            )
        name = f"{self._token}-{next(self._numbers)}"
        parameters: dict[str, bool | int | str] = {
            "timeout": left_us,
            wire.MIN_DEPTH: request.min_depth,
            wire.MAX_DEPTH: request.max_depth,
            wire.CANCEL_BY_ID: True,
            wire.ANSWERS_IN_HAND: True,
            wire.EMPTY_FINAL: True,
            wire.PRINCIPAL: request.principal,
            wire.SHARE_THOUSANDTHS: max(1, round(request.share * 1e3)),
            wire.IN_HAND_RESERVE_US: max(1, round(request.in_hand_reserve_s * wire.MICROSECONDS)),
            **({wire.EVERY_EXIT: True} if request.streaming else {}),
            **({wire.STREAM: request.stream} if request.stream else {}),
            **({wire.PROMISED: True} if request.is_promised else {}),
        }
        message = infer_request(self._model, name, parameters)
        shared = self._memory.registered
        slot = add_images(message, wire.IMAGE, image.shape, [image], shared)
        entry = _Pending(Mailbox(MAX_UNREAD), shared, slot, request.principal)
        self._pending[name] = entry
        self._outgoing.put_nowait(message)
        return name, entry

    def _num_pending_of(self, principal: str) -> int:
        """Return how many requests of ``principal`` Triton has not ended."""
        return sum(entry.principal == principal for entry in self._pending.values())

    # -- the session ---------------------------------------------------------------------------

    async def _run(self) -> None:
        """Run one session after the other, and say once why there is none."""
        complaint = ""
        while True:
            try:
                async with grpc.aio.insecure_channel(self._url, CHANNEL_OPTIONS) as channel:
                    await self._session(GRPCInferenceServiceStub(channel))
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            except _Lost as error:
                reason = str(error)
            except Exception as error:  # whatever breaks one session must not prevent the next
                log.exception("a session with Triton broke")
                reason = repr(error)
            self._end_session()
            if reason != complaint:
                log.warning("no engine in Triton at %s (trying on): %s", self._url, reason)
                complaint = reason
            await asyncio.sleep(RETRY_S)

    async def _session(self, stub: Any) -> None:
        """Serve over one stream until something breaks: raises AioRpcError or _Lost."""
        ready = await stub.ModelReady(pb.ModelReadyRequest(name=self._model), timeout=RPC_TIMEOUT_S)
        if not ready.ready:
            raise _Lost(f"model {self._model} is not loaded")
        await self._memory.register(stub)
        self._outgoing = asyncio.Queue()
        self._silence.heard()
        stream = stub.ModelStreamInfer()
        try:
            await _first_to_end(self._write(stream), self._read(stream), self._beat())
        finally:
            stream.cancel()

    def _end_session(self) -> None:
        self._status = None
        self._memory.lose()
        error = BackendUnavailable("The connection to Triton was lost.")
        for name in tuple(self._pending):
            self._end(name, error)

    async def _write(self, stream: Any) -> None:
        try:
            while True:
                await stream.write(await self._outgoing.get())
        except asyncio.InvalidStateError as error:  # gRPC's way to say so
            raise _Lost("the stream has ended") from error

    async def _beat(self) -> None:
        """Ask how the executor is doing; keep the transport's prediction up to date."""
        command = {wire.COMMAND: wire.COMMAND_STATUS}
        while True:
            self._outgoing.put_nowait(infer_request(self._model, _HEARTBEAT, command))
            self._silence.asked()
            await asyncio.sleep(HEARTBEAT_S)
            if self._silence.seconds > SILENT_S:
                raise _Lost(f"nothing was heard for {SILENT_S:.0f} s")
            if self._transports:
                self._transport_s = quantile(self._transports, TAIL_QUANTILE)

    async def _read(self, stream: Any) -> None:
        async for response in stream:
            name = response.infer_response.id
            if name == _HEARTBEAT:
                self._heard(response)
            elif name in self._pending:
                self._take(name, response)
        raise _Lost("Triton closed the stream")

    def _take(self, name: str, response: pb.ModelStreamInferResponse) -> None:
        entry = self._pending[name]
        if response.error_message:
            self._end(name, wire.error_from_text(response.error_message))
            return
        answer = response.infer_response
        final = answer.parameters[wire.FINAL].bool_param
        if answer.outputs:
            entry.messages.put(_Arrived(answer, self._clock(), final))
        if final:
            self._end(name, None)

    def _end(self, name: str, error: ServingError | None) -> None:
        entry = self._pending.pop(name)
        if entry.shared is not None and entry.slot is not None:
            entry.shared.free(entry.slot)
        entry.messages.put(error)
        entry.ended.set()

    def _heard(self, response: pb.ModelStreamInferResponse) -> None:
        if response.error_message:
            raise _Lost(response.error_message)
        try:
            numbers = arrays(response.infer_response, _STATUS)[wire.STATUS]
            status = wire.EngineStatus.from_numbers(numbers.tolist())
        except (BackendError, ValueError) as error:
            raise _Lost(f"the executor's status is malformed: {error}") from error
        if status.digest != self._digest:
            raise _Lost(f"{self._model} there has other weights than the catalogue here")
        if len(status.exits_s) != len(self._points):
            raise _Lost(f"{self._model} there predicts {len(status.exits_s)} operating points")
        if self._status is None:
            log.info("in touch with %s in Triton at %s", self._model, self._url)
        self._status = status
        self._silence.heard()
        self._became_ready.set()


async def _first_to_end(*parts: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends, then cancel the rest; raises what that one raised."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if error is not None and not isinstance(error, asyncio.CancelledError):
            raise error
