"""Outermost layer of the server: what every request and every reply passes through.

Pure ASGI. It stamps the instant a request's head had been read, gives the request its identity,
refuses what is for another host, and ends the connections of clients that are still sending when
the reply is written.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.access_gate import HEALTH_PATHS
from serving.api.connection import DEPARTURE, Departure
from serving.api.handshake import http_request
from serving.api.numbers import integer, shown
from serving.api.problems import respond
from serving.core.errors import MisdirectedRequest
from serving.core.ports import Clock

_NUMBERS = random.Random()
"""Source of the ids of requests that have none: they are told apart by them, and nothing more."""
_REQUEST_ID = re.compile(rb"[\x21-\x7e][\x20-\x7e]{0,127}")
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)

SKIPPABLE_BYTES = 2**20
"""Most bytes of a body that are skipped after a reply, so that the connection lives on."""

ANY_HOST = "*"
# A reply is what its Content-Type says and nothing that a browser would rather see in it.
_ALWAYS = ((b"x-content-type-options", b"nosniff"),)
_HANDSHAKE = frozenset(("websocket.accept", "websocket.http.response.start"))
"""Types of the messages that a handshake ends with."""


class Middleware:
    """ASGI middleware that stamps each request to ``app`` with ``arrival_s`` and ``request_id``.

    Both are in the state of the request. HEAD is asked of ``app`` as GET; that no body is sent is
    the HTTP server's matter.

    While ``leaving`` says so, every reply is the last of its connection: a client that keeps one to
    a server that is about to end would lose what it sends as that closes, and a Service moves new
    connections only.

    ``hosts`` are those that are served: names, ``*.example.com`` for all below, or ``ANY_HOST``.
    """

    def __init__(
        self,
        app: ASGIApp,
        clock: Clock,
        leaving: Callable[[], bool] = lambda: False,
        hosts: Iterable[str] = (ANY_HOST,),
    ) -> None:
        self._app = app
        self._clock = clock
        self._leaving = leaving
        self._hosts = frozenset(host.lower() for host in hosts)
        self._takes_any_host = ANY_HOST in self._hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event stream of any type."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        arrival_s = self._clock()
        echoed = identity_of(scope["headers"])
        state = scope.setdefault("state", {})
        state.update(arrival_s=arrival_s, request_id=echoed[0][1].decode("ascii"))
        if DEPARTURE not in state:
            state[DEPARTURE] = Departure()  # of one that nobody says has left
        if scope.get("method") == "HEAD":
            scope = {**scope, "method": "GET"}
        exchange = _Exchange(scope, receive, send, echoed, self._leaving)
        # Probes ask for an address.
        if not self._takes_any_host and scope["path"] not in HEALTH_PATHS:
            host = Headers(scope=scope).get("host", "")
            if not self._is_served(host):
                error = MisdirectedRequest(f"The host {shown(host)} is not served here.")
                await respond(http_request(scope), error)(scope, exchange.receive, exchange.send)
                return
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:
            if not exchange.started:
                await respond(http_request(scope), error)(scope, exchange.receive, exchange.send)
            raise

    def _is_served(self, host: str) -> bool:
        name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
        name = name.lower()
        return name in self._hosts or any(
            f"*{name[dot:]}" in self._hosts for dot, each in enumerate(name) if each == "."
        )


def identity_of(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers that a reply gets: ``x-request-id`` and, if any, ``traceparent``.

    The id is the client's or a new one.
    """
    sent = {name: value for name, value in headers if name in (b"x-request-id", b"traceparent")}
    request_id = sent.get(b"x-request-id", b"")
    if not _REQUEST_ID.fullmatch(request_id):
        request_id = b"%032x" % _NUMBERS.getrandbits(128)
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
        self.started = False
        """Whether the reply has begun."""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._echoed = echoed
        self._leaving = leaving
        self._body_ended = False

    async def receive(self) -> Message:
        message = await self._receive()
        if not message.get("more_body", False):  # its last part, or the client has left
            self._body_ended = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] in _HANDSHAKE:
            self.started = True
            message["headers"] = [*message.get("headers", ()), *_ALWAYS, *self._echoed]
        elif message["type"] == "http.response.start":
            self.started = True
            is_cut = not self._body_ended and self._must_close(message["status"])
            close = [(b"connection", b"close")] if is_cut or self._leaving() else []
            message["headers"] = [*message.get("headers", ()), *_ALWAYS, *self._echoed, *close]
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
