"""Streams over WebSockets: each binary message is one frame, each frame is told of once.

    handshake -> messages ---> a request for each frame ---> one text message for each frame
                    |               (as POST /v1/detect)
                    '--> {"deadline_ms": 120}   the budget of the frames that follow

A frame is a request like any other: by the same limits, counted once. From a client that does not
read, nothing more is read, so that nothing piles up here.

    1000   the client has said so
    1001   the server is shutting down; every frame that it has read has been answered
    1002   what came is no WebSocket (RFC 6455)
    1007   text that is not UTF-8
    1008   the key is no longer one that is known here, or messages come in too small pieces
    1009   a message is too large
    1011   no answer to a ping
    1013   there is no room for messages of this size now
    4408   no frame for too long
    4409   another connection sends the stream's frames now
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.budget import DEADLINE_PARAMETER, deadline_parameter, parse_budget
from serving.api.connection import DEPARTURE, Departure
from serving.api.detect import DetectionService
from serving.api.frames import FRAME_PARAMETER, STREAM_PARAMETER, stream_name
from serving.api.handshake import http_request
from serving.api.lifecycle import Lifecycle
from serving.api.numbers import LARGEST, SMALLEST, decimal, shown
from serving.api.problems import details_of, respond
from serving.api.protocol_adapter import ProtocolAdapter
from serving.core.errors import (
    InvalidParameter,
    RequestCancelled,
    ServingError,
    TooManyRequests,
)
from serving.core.ports import Clock
from serving.core.principals import Principal
from serving.core.streams import Session, StreamKey, Streams

logger = logging.getLogger(__name__)

STREAM_PREFIX = "/v1/streams/"
"""Prefix of the paths of streams, which their names follow."""
STREAM_PATH = STREAM_PREFIX + "{name}"

SUBPROTOCOL = "punctual"
"""What is spoken, for browsers, which have to be told if they offer a subprotocol."""

ANSWERED = "answered"
"""Outcome of a frame whose boxes are there. Others are slugs of problems."""

SHUTDOWN = "websocket.shutdown"
"""Type of the message by which the HTTP server tells a session that it is about to end."""

RATE_PARAMETER = "rate"
MAX_RATE_HZ = 1000.0
"""Largest rate, in frames a second, that a stream may state."""
MAX_UNREAD_ANSWERS = 16
"""Number of answers that may wait for a client to read them before its messages are not read any
longer."""
MAX_TEXT = 4096
"""Number of characters of a text message; one budget takes some twenty."""

_KEPT_HEADERS = frozenset(
    (b"grpc-timeout", b"x-envoy-expected-rq-timeout-ms", b"prefer", b"traceparent")
)
"""Headers of the handshake that hold for every frame."""
_CONTENT_TYPE = (b"content-type", b"image/jpeg")
"""What a frame is said to be; what it is its first bytes say."""


class Close(NamedTuple):
    """A code and a reason to close a connection with."""

    code: int
    reason: str


GOING_AWAY = Close(1001, "the server is shutting down")
NOT_ALLOWED = Close(1008, "the key is no longer known here")
IDLE = Close(4408, "no frame for too long")
TAKEN_OVER = Close(4409, "another connection sends this stream now")

AdmitFrame = Callable[[], Principal]
"""Function that returns on whose behalf a frame comes. Raises ServingError."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Limits of one session."""

    idle_s: float
    """Seconds without a frame after which it ends."""
    max_open: int
    """Number of frames, answered or not, that the client has not been told of."""


class StreamSessions:
    """ASGI application that serves the streams of a server, and leaves all else to ``app``."""

    def __init__(
        self,
        app: ASGIApp,
        detector: DetectionService,
        adapter: ProtocolAdapter,
        streams: Streams,
        lifecycle: Lifecycle,
        limits: SessionLimits,
        clock: Clock,
    ) -> None:
        self._app = app
        self._detector = detector
        self._adapter = adapter
        self._streams = streams
        self._lifecycle = lifecycle
        self._limits = limits
        self._clock = clock
        self._running: dict[Session, _Session] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event stream of any type."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        await receive()  # the wish to connect
        try:
            frames = _Frames(scope, self._detector, self._adapter, self._clock)
            self._lifecycle.check_ready()
            promise = self._promise(frames)
        except ServingError as error:
            await respond(http_request(scope), error)(scope, receive, send)
            return
        with promise:
            await self._serve(scope, frames, receive, send)

    def _promise(self, frames: _Frames) -> contextlib.ExitStack:
        """Return what keeps the session's promise, if it asks for one. Raises Overloaded."""
        with contextlib.ExitStack() as promise:
            if frames.rate_hz is not None:
                admission = self._detector.admission
                principal, _ = frames.key
                promise.enter_context(
                    admission.promise(frames.rate_hz, frames.min_depth, principal)
                )
            return promise.pop_all()

    async def _serve(self, scope: Scope, frames: _Frames, receive: Receive, send: Send) -> None:
        """Serve one session, from its handshake on."""
        try:
            session, before = self._streams.connect(frames.key, self._clock(), frames.rate_hz)
        except ServingError as error:
            await respond(http_request(scope), error)(scope, receive, send)
            return
        if before is not None and (older := self._running.get(before)) is not None:
            older.end(TAKEN_OVER)
        running = self._running[session] = _Session(
            frames, receive, send, self._limits, lambda: self._lifecycle.leaving
        )
        try:
            await running.run()
        finally:
            del self._running[session]
            self._streams.disconnect(session, self._clock())


class _Frames:
    """The frames of one session, each a request to detect."""

    def __init__(
        self, scope: Scope, detector: DetectionService, adapter: ProtocolAdapter, clock: Clock
    ) -> None:
        """Read what the handshake asks for. Raises InvalidRequest."""
        self._scope = scope
        self._detector = detector
        self._adapter = adapter
        self._clock = clock
        self.departure: Departure = scope["state"][DEPARTURE]
        """The client's, which ends all of its frames; so does the end of the session."""
        self._admit: AdmitFrame = scope["state"]["admit_frame"]
        self._name = stream_name(scope["path"].removeprefix(STREAM_PREFIX))
        self.key: StreamKey = (scope["state"]["principal"].name, self._name)
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        for name, _ in query:
            if name in (STREAM_PARAMETER, FRAME_PARAMETER):
                raise InvalidParameter(
                    f"There is no parameter {name} here: the path names the stream, and its frames "
                    "are numbered as they come."
                )
        budget = parse_budget(
            Headers(scope=scope),
            default_s=1.0,
            max_s=1.0,
            deadlines_ms=[value for name, value in query if name == DEADLINE_PARAMETER],
        )
        self._wish_s = budget.wish_s
        self.rate_hz = _rate([value for name, value in query if name == RATE_PARAMETER])
        """Frames a second that it asks a promise of; None if it asks for none."""
        own = (DEADLINE_PARAMETER, RATE_PARAMETER)
        self._query = [item for item in query if item[0] not in own]
        self._headers = [each for each in scope["headers"] if each[0] in _KEPT_HEADERS]
        options = adapter.read_head(self._request(1, _nothing))
        self.min_depth = options.min_depth
        self._num_frames = 0

    @property
    def subprotocol(self) -> str | None:
        """What the client is told to be spoken, if it offers it."""
        return SUBPROTOCOL if SUBPROTOCOL in self._scope["subprotocols"] else None

    def next(self, data: bytes) -> HttpRequest:
        """Return the request of the next frame, which has just come."""
        self._num_frames += 1
        return self._request(self._num_frames, _body(data))

    def configure(self, text: str) -> None:
        """Do what a text message says. Raises InvalidParameter."""
        try:
            given = json.loads(text) if len(text) <= MAX_TEXT else None
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict) or given.keys() != {DEADLINE_PARAMETER}:
            raise InvalidParameter(
                'A text message must be {"deadline_ms": N}, the budget of the frames that follow; '
                f"it is {shown(text)}."
            )
        self._wish_s = deadline_parameter(given[DEADLINE_PARAMETER])

    def refusal(self, error: ServingError) -> str:
        """Return what the client is told of a text message that makes no sense."""
        http = self._request(self._num_frames, _nothing)
        return _encode({"outcome": error.slug, **details_of(http, error)})

    async def serve(self, http: HttpRequest) -> tuple[str, bool]:
        """Return what the client is told of a frame, and whether it may send more.

        Raises RequestCancelled once it has left.
        """
        number = int(http.query_params[FRAME_PARAMETER])
        try:
            http.scope["state"]["principal"] = self._admit()
        except ServingError as error:
            return _told(number, http, error), isinstance(error, TooManyRequests)
        try:
            response = await self._detector.serve(http, self._adapter)
        except RequestCancelled:
            raise
        except Exception as error:
            if not isinstance(error, ServingError):
                logger.error("frame %d of a stream failed", number, exc_info=error)
            return _told(number, http, error), True
        head = f'{{"{FRAME_PARAMETER}":{number},"outcome":"{ANSWERED}",'
        return head + bytes(response.body[1:]).decode(), True

    def _request(self, number: int, receive: Receive) -> HttpRequest:
        query = [*self._query, (STREAM_PARAMETER, self._name), (FRAME_PARAMETER, str(number))]
        if self._wish_s is not None:
            # JSON may state what no parameter can; beyond these it makes no difference.
            wish_ms = min(max(self._wish_s * 1e3, SMALLEST), LARGEST)
            query.append((DEADLINE_PARAMETER, f"{wish_ms:.6f}"))
        state = self._scope["state"]
        scope = {
            **self._scope,
            "type": "http",
            "method": "POST",
            "query_string": urlencode(query).encode(),
            "headers": [_CONTENT_TYPE, *self._headers],
            "state": {
                **state,
                "arrival_s": self._clock(),
                "request_id": f"{state['request_id']}-{number}",
            },
        }
        return HttpRequest(scope, receive)


class _Session:
    """One connection: it reads frames, and tells the client of each."""

    def __init__(
        self,
        frames: _Frames,
        receive: Receive,
        send: Send,
        limits: SessionLimits,
        is_leaving: Callable[[], bool],
    ) -> None:
        self._frames = frames
        self._receive = receive
        self._send = send
        self._limits = limits
        self._is_leaving = is_leaving
        self._open: set[asyncio.Task[None]] = set()
        self._end: asyncio.Future[Close | None] = asyncio.get_running_loop().create_future()
        """What it ends with; None if the client has left."""

    def end(self, close: Close | None) -> None:
        """Read no more frames, and close once the client has been told of all."""
        if not self._end.done():
            self._end.set_result(close)

    async def run(self) -> None:
        """Serve the client until one of both ends it."""
        await self._send({"type": "websocket.accept", "subprotocol": self._frames.subprotocol})
        reading = asyncio.create_task(self._read())
        try:
            close = await self._end
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            if close is None:
                self._frames.departure.leave()
            else:
                reading = asyncio.create_task(self._drop())
            while self._open:
                await asyncio.wait(self._open)
            if close is not None and not self._frames.departure.has_left:
                with contextlib.suppress(OSError):
                    await self._send({"type": "websocket.close", **close._asdict()})
        finally:
            self._frames.departure.leave()
            reading.cancel()
            for task in self._open:
                task.cancel()
            await asyncio.gather(reading, *self._open, return_exceptions=True)

    async def _read(self) -> None:
        """Begin to serve frames as they come."""
        try:
            while not self._end.done():
                async with asyncio.timeout(self._limits.idle_s):
                    await self._take_next()
                if self._is_leaving():
                    self.end(GOING_AWAY)
                while len(self._open) >= self._limits.max_open:
                    await asyncio.wait(self._open, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            self.end(IDLE)
        except Exception as error:
            self.end(None)
            logger.error("a stream's messages could not be read", exc_info=error)

    async def _take_next(self) -> None:
        """Take messages until one is a frame, or the last."""
        while True:
            message = await self._receive()
            if message["type"] == SHUTDOWN:
                self.end(GOING_AWAY)
            elif message["type"] == "websocket.disconnect":
                self.end(None)
            elif (data := message.get("bytes")) is not None:
                task = asyncio.create_task(self._tell(self._frames.next(data)))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
            else:
                try:
                    self._frames.configure(message["text"])
                except InvalidParameter as error:
                    await self._write(self._frames.refusal(error))
                # Texts may have come by the hundreds, and then nothing of this waits for anything.
                await asyncio.sleep(0)
                continue
            return

    async def _drop(self) -> None:
        """Drop messages, until the client has left."""
        while (await self._receive())["type"] != "websocket.disconnect":
            pass
        self._frames.departure.leave()

    async def _tell(self, frame: HttpRequest) -> None:
        """Serve one frame, and tell the client of it."""
        try:
            text, may_send_more = await self._frames.serve(frame)
        except RequestCancelled:
            return  # there is nobody to be told
        await self._write(text)
        if not may_send_more:
            self.end(NOT_ALLOWED)

    async def _write(self, text: str) -> None:
        """Write a message, once the client has read enough of those before."""
        with contextlib.suppress(OSError):  # it has left
            await self._send({"type": "websocket.send", "text": text})


def _rate(given: list[str]) -> float | None:
    """Return the frames a second that a query states. Raises InvalidParameter."""
    if not given:
        return None
    rate_hz = decimal(given[0]) if len(given) == 1 else None
    if rate_hz is None or not 0.0 < rate_hz <= MAX_RATE_HZ:
        raise InvalidParameter(
            f"{RATE_PARAMETER} must be one decimal number of frames a second, above 0 and at most "
            f"{MAX_RATE_HZ:g}; it is {shown(', '.join(given))}."
        )
    return rate_hz


def _body(data: bytes) -> Receive:
    """Return what a frame's request receives: its body, which is all that there is."""

    async def receive() -> Message:
        return {"type": "http.request", "body": data, "more_body": False}

    return receive


async def _nothing() -> Message:
    raise AssertionError("nobody reads the body of this request")


def _told(number: int, http: HttpRequest, error: Exception) -> str:
    details = details_of(http, error)
    outcome = error.slug if isinstance(error, ServingError) else ServingError.slug
    return _encode({FRAME_PARAMETER: number, "outcome": outcome, **details})


def _encode(message: Mapping[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":"))
