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
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.api.detect import DetectionService
from serving.api.handshake import http_request
from serving.api.lifecycle import Lifecycle
from serving.api.problems import respond
from serving.api.protocol_adapter import ProtocolAdapter
from serving.api.stream_frames import SessionFrames
from serving.core.errors import (
    InvalidParameter,
    RequestCancelled,
    ServingError,
)
from serving.core.ports import Clock
from serving.core.streams import Session, Streams

logger = logging.getLogger(__name__)

STREAM_PREFIX = "/v1/streams/"
"""Prefix of the paths of streams, which their names follow."""
STREAM_PATH = STREAM_PREFIX + "{name}"

SHUTDOWN = "websocket.shutdown"
"""Type of the message by which the HTTP server tells a session that it is about to end."""

MAX_UNREAD_ANSWERS = 16
"""Number of answers that may wait for a client to read them before its messages are not read any
longer."""


class Close(NamedTuple):
    """A code and a reason to close a connection with."""

    code: int
    reason: str


GOING_AWAY = Close(1001, "the server is shutting down")
NOT_ALLOWED = Close(1008, "the key is no longer known here")
IDLE = Close(4408, "no frame for too long")
TAKEN_OVER = Close(4409, "another connection sends this stream now")


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
            name = scope["path"].removeprefix(STREAM_PREFIX)
            frames = SessionFrames(scope, name, self._detector, self._adapter, self._clock)
            self._lifecycle.check_ready()
            promise = self._promise(frames)
        except ServingError as error:
            await respond(http_request(scope), error)(scope, receive, send)
            return
        with promise:
            await self._serve(scope, frames, receive, send)

    def _promise(self, frames: SessionFrames) -> contextlib.ExitStack:
        """Return what keeps the session's promise, if it asks for one. Raises Overloaded."""
        with contextlib.ExitStack() as promise:
            if frames.rate_hz is not None:
                admission = self._detector.admission
                principal, _ = frames.key
                promise.enter_context(
                    admission.promise(frames.rate_hz, frames.min_depth, principal)
                )
            return promise.pop_all()

    async def _serve(
        self, scope: Scope, frames: SessionFrames, receive: Receive, send: Send
    ) -> None:
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


class _Session:
    """One connection: it reads frames, and tells the client of each."""

    def __init__(
        self,
        frames: SessionFrames,
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
