"""Outermost layer of the server: what every request and every reply passes through.

Pure ASGI, since wrapping ``receive`` any other way hides a client's leaving. It stamps the instant
a request's head had been read, gives the request its identity, and takes leave politely of clients
that are still sending when the reply is written.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.numbers import integer
from serving.core.ports import Clock

_REQUEST_ID = re.compile(rb"[\x21-\x7e][\x20-\x7e]{0,127}")
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)

# Closing a socket with unread bytes resets it, and the client never sees why it was refused. So
# the rest of its body is read and dropped, within these bounds.
LINGER_S = 1.0
LINGER_BYTES = 4 * 2**20
# A body this small is left to the HTTP layer to skip, and the connection lives on.
SKIPPABLE_BYTES = 2**20


class Middleware:
    """ASGI middleware that stamps each request to ``app`` with ``arrival_s`` and ``request_id``.

    Both are in the state of the request.

    While ``leaving`` says so, every reply is the last of its connection: a client that keeps one to
    a server that is about to end would lose what it sends as that closes, and a Service moves new
    connections only.
    """

    def __init__(
        self, app: ASGIApp, clock: Clock, leaving: Callable[[], bool] = lambda: False
    ) -> None:
        self._app = app
        self._clock = clock
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event stream of any type."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrival_s = self._clock()
        echoed = _identity(scope["headers"])
        scope.setdefault("state", {}).update(
            arrival_s=arrival_s, request_id=echoed[0][1].decode("ascii")
        )
        exchange = _Exchange(scope, receive, send, echoed, self._leaving)
        await self._app(scope, exchange.receive, exchange.send)


def _identity(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers that a reply gets: ``x-request-id`` and, if any, ``traceparent``.

    The id is the client's or a new one.
    """
    sent = {name: value for name, value in headers if name in (b"x-request-id", b"traceparent")}
    request_id = sent.get(b"x-request-id", b"")
    if not _REQUEST_ID.fullmatch(request_id):
        request_id = uuid.uuid4().hex.encode("ascii")
    echoed = [(b"x-request-id", request_id)]
    traceparent = sent.get(b"traceparent", b"")
    if _TRACEPARENT.fullmatch(traceparent):
        echoed.append((b"traceparent", traceparent))
    return echoed


class _Exchange:
    """One request and its reply, with the events in between."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        echoed: list[tuple[bytes, bytes]],
        leaving: Callable[[], bool],
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._echoed = echoed
        self._leaving = leaving
        self._body_ended = False
        self._closing = False

    async def receive(self) -> Message:
        message = await self._receive()
        if not message.get("more_body", False):  # its last part, or the client has left
            self._body_ended = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._closing = not self._body_ended and self._must_close(message["status"])
            last = self._closing or self._leaving()
            close = [(b"connection", b"close")] if last else []
            message["headers"] = [*message.get("headers", ()), *self._echoed, *close]
        elif self._closing and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body"}
        await self._send(message)

    def _must_close(self, status: int) -> bool:
        """Return whether the connection is no use after this reply.

        That is so if too much of a body is under way.
        """
        headers = Headers(scope=self._scope)
        if "transfer-encoding" in headers:
            return True
        length = integer(headers.get("content-length", "0"))
        return length is None or length > SKIPPABLE_BYTES or (length > 0 and status == 408)

    async def _linger(self) -> None:
        remaining = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_S):
                while not self._body_ended and remaining > 0:
                    remaining -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass
