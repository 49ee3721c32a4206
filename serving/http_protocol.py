"""Connections of HTTP/1.1 within bounds: what uvicorn's protocol leaves open.

    connected ---> head ---> body ---> reply ---> next head ---> ... ---> hung up ---> closed
        |           |          |         |                                   |
     in all and   bytes,    chunks,    read in              what is still sent is read and
    per address   lines,    trailers   time                 dropped for a while, so that the
                  time                                      last reply arrives

Who breaks a bound gets a problem and is hung up on, after the replies to what was asked before.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from serving.access.addresses import Network, parse_address, site_of
from serving.api.connection import DEPARTURE, Departure
from serving.api.problems import refusal
from serving.api.stream_session import STREAM_PREFIX
from serving.core.errors import (
    HeadTimeout,
    HeadTooLarge,
    InvalidRequest,
    Overloaded,
    ServingError,
    ShedReason,
    UnservedVersion,
)
from serving.http_transport import Flow, ReplyTransport, WebSocketTransport
from serving.observability.metrics import UNREAD

if TYPE_CHECKING:
    from serving.websocket_protocol import WebSocketConnection

MAX_PIPELINED = 16
"""Most requests of one connection that wait for the reply to the one before."""

MAX_HELD_BYTES = 64 * 2**10
"""Most bytes after those that are read, and held; then no more are taken, and whether the client is
still there is not known until the next reply."""

NUM_FREE_CHUNKS = 1024
"""Number of pieces that a body may come in whatever their size."""
MIN_CHUNK_BYTES = 128
"""Fewest bytes of a piece on average, in a body of more pieces: each costs as much as a small one.
"""

LINGER_S = 2.0
LINGER_BYTES = 32 * 2**20
"""Most seconds and bytes for which what a client still sends is dropped.

A socket that is closed with unread bytes is reset, and the client may never see the last reply.
"""

MAX_REFUSED_CONNECTIONS = 64
"""Most connections beyond the bound that are told so at once; others are reset."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of one server's connections; durations in seconds."""

    max_connections: int
    max_per_address: int
    max_head_bytes: int
    """Most bytes of a request's head, with its first line."""
    max_head_lines: int
    """Most header lines of a request."""
    head_timeout_s: float
    """Time for a head, from the connection or its first byte; and for a body that nobody wants."""
    unread_timeout_s: float
    """Time for a client to read what has been written."""
    proxies: tuple[Network, ...] = ()
    """Networks of proxies, for which ``max_per_address`` does not hold."""


class Connections:
    """All connections of one server, by the address of who is at the other end.

    ``observe`` is told the slug of each refusal. Not thread-safe: the event loop owns it.
    """

    def __init__(
        self, limits: ConnectionLimits, observe: Callable[[str], None] = lambda _: None
    ) -> None:
        self.limits = limits
        self.observe = observe
        self._by_address: dict[str, set[BoundedProtocol]] = {}
        self._refused: set[BoundedProtocol] = set()
        self._num_connections = 0

    def enter(self, connection: BoundedProtocol, peer: str) -> bool:
        """Return whether there is room for another connection, and count it if so.

        Room is made by hanging up on whoever has asked for nothing for longest: of that address if
        it has too many, or else of all.
        """
        connection.address, is_proxy = self._address(peer)
        limits, own = self.limits, self._by_address.get(connection.address, set())
        if not is_proxy and len(own) >= limits.max_per_address:
            has_room = self._hang_up_idle(own)
        elif self._num_connections >= limits.max_connections:
            has_room = self._hang_up_idle(
                each for members in self._by_address.values() for each in members
            )
        else:
            has_room = True
        if has_room:
            self._by_address.setdefault(connection.address, set()).add(connection)
            self._num_connections += 1
        return has_room

    def refuse(self, connection: BoundedProtocol) -> bool:
        """Return whether one that has no room can be told so."""
        if len(self._refused) >= MAX_REFUSED_CONNECTIONS:
            return False
        self._refused.add(connection)
        return True

    def leave(self, connection: BoundedProtocol) -> None:
        """Count a connection no longer."""
        self._refused.discard(connection)
        members = self._by_address.get(connection.address, set())
        if connection in members:
            members.remove(connection)
            self._num_connections -= 1
            if not members:
                del self._by_address[connection.address]

    def _hang_up_idle(self, connections: Iterable[BoundedProtocol]) -> bool:
        idle = (each for each in connections if each.is_idle)
        longest = min(idle, key=lambda each: each.idle_since_s, default=None)
        if longest is None:
            return False
        self.leave(longest)
        longest.evict()
        return True

    def _address(self, peer: str) -> tuple[str, bool]:
        """Return what stands for one client, and whether it is a proxy."""
        address = parse_address(peer)
        if address is None:  # of a socket that has none
            return peer, True
        return site_of(address), any(address in network for network in self.limits.proxies)


OpenWebSocket = Callable[[Config, ServerState, dict[str, Any]], "WebSocketConnection"]
"""Function that makes the protocol of a connection that becomes a WebSocket."""

_WEBSOCKET_PREFIX = STREAM_PREFIX.encode()
_HANDSHAKE_PREFIX = b"sec-websocket-"

_VERSIONS = ("1.0", "1.1")
_HOST = re.compile(rb"(\[[\w.:~!$&'()*+,;=%-]+\]|[\w.~!$&'()*+,;=%-]*)(:[0-9]*)?")
"""What ``Host`` may be (RFC 3986, section 3.2): nothing, too."""
_WRONG_VERSION = "Invalid HTTP version"
"""What the parser says of versions that it does not know."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection of HTTP/1.1, within the limits of ``connections``.

    It may become a WebSocket, if there is ``open_websocket``, where streams are served.
    """

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        open_websocket: OpenWebSocket | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._open_websocket = open_websocket
        self._websocket: WebSocketConnection | None = None  # which has taken over
        self.address = ""
        """Address that it counts for, once it is connected."""
        self.idle_since_s = 0.0
        """Instant of the event loop's clock since when nothing has been asked, if that is so."""
        self._connections = connections
        self._limits = connections.limits
        self._socket: asyncio.Transport
        self._replies: ReplyTransport
        self._flow: Flow
        self._running: RequestResponseCycle | None = None
        self._departure: Departure
        self._held = bytearray()  # what came after requests that wait for their turn
        self._refusal: ServingError | None = None
        self._cause: ServingError | None = None  # of what the parser is about to report
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._num_dropped_bytes = 0
        # Of the message that is being read.
        self._num_complete = 0
        self._in_head = True  # or before it
        self._has_begun = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._num_chunks = 0
        self._fed_bytes = 0  # since the head ended, but for what came with its end

    # ---- a connection's life --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, if there is room for it."""
        self._socket = transport
        self._replies = ReplyTransport(self.loop.call_soon, transport, self._hang_up)
        super().connection_made(self._replies)
        self.flow = self._flow = Flow(self.transport)
        # Reading is paused while a long body is taken, and would stay so.
        self._departure = Departure(self._flow.resume_reading)
        self.idle_since_s = self.loop.time()
        if self._connections.enter(self, self.client[0] if self.client else ""):
            self._start("late", self._limits.head_timeout_s, self._late)
        elif self._connections.refuse(self):
            self._refuse(
                Overloaded("Too many connections are open.", ShedReason.REJECTED_SATURATED)
            )
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever serves this connection that nobody is there any longer."""
        self._departure.leave()
        if self._websocket is not None:
            self._websocket.connection_lost(exc)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()
        self._held.clear()
        self._connections.leave(self)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being served, nor a WebSocket."""
        has_replied = self.cycle is None or self.cycle.response_complete
        return has_replied and self._websocket is None

    @property
    def has_asked_nothing(self) -> bool:
        """Whether its first request is still to come."""
        return self.cycle is None and self.is_idle and not self.transport.is_closing()

    def evict(self) -> None:
        """End the connection at once, in favour of another."""
        if self._is_between and not self._socket.get_write_buffer_size():
            self._socket.close()
        else:
            self._socket.abort()

    def _hang_up(self) -> None:
        """Close the connection such that what was written can be read."""
        self._start("unread", self._limits.unread_timeout_s, self._socket.abort)
        has_more = self._websocket is not None and not self._websocket.has_said_goodbye
        if self._is_between and self._refusal is None and not self._held and not has_more:
            self._socket.close()
            return
        self._socket.write_eof()
        self._socket.resume_reading()
        self._start("linger", LINGER_S, self._socket.close)

    def _start(self, name: str, seconds: float, act: Callable[[], None]) -> None:
        """Let ``act`` happen after a while, unless it is stopped."""
        self._stop(name)
        self._timers[name] = self.loop.call_later(seconds, act)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    # ---- what the client sends ------------------------------------------------------------------

    @property
    def _is_between(self) -> bool:
        """Whether the client has begun nothing that it has not ended."""
        return self._in_head and not self._has_begun and not self._head_bytes

    def data_received(self, data: bytes) -> None:
        """Read what has come, or drop it after a refusal."""
        if self._websocket is not None and not self.transport.is_closing():
            self._websocket.data_received(data)
            return
        if self._refusal is None and not self.transport.is_closing():
            self._read(memoryview(data))
            return
        self._num_dropped_bytes += len(data)
        if self._num_dropped_bytes <= LINGER_BYTES:
            return
        if self.transport.is_closing():
            self._socket.close()
        else:  # those who wait for their replies get them first
            self._flow.bar()

    def _read(self, left: memoryview) -> None:
        self._unset_keepalive_if_required()
        while left:
            if self.pipeline:
                self._held += left
                if len(self._held) > MAX_HELD_BYTES:
                    self._flow.bar()
                return
            # A head is read in pieces of its bound; with a body, all that has come.
            room = self._limits.max_head_bytes - self._head_bytes
            piece = left[:room] if self._in_head else left
            left = left[len(piece) :]
            if not self._feed(piece):
                if left and self._websocket is not None and not self.transport.is_closing():
                    self._websocket.data_received(bytes(left))
                return
        if self._in_head and not self._is_between and "late" not in self._timers:
            self._start("late", self._limits.head_timeout_s, self._late)

    def _feed(self, piece: memoryview) -> bool:
        """Have a piece parsed; return whether the next may follow."""
        in_body, num_complete = not self._in_head, self._num_complete
        rest: memoryview | None = None
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            rest = piece[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            self._refuse(self._cause or _reason(error))
            return False
        if rest is not None:
            asks = self._asks_for_websocket
            return self._become_websocket(rest) if asks else self._ignore_upgrade(rest)
        if not self._in_head:
            if in_body and self._num_complete == num_complete:  # all of it is of this body
                self._fed_bytes += len(piece)
                framing = self._fed_bytes - self._body_bytes
                if framing > self._limits.max_head_bytes + self._body_bytes:
                    self._refuse(HeadTooLarge("There is too much around the parts of the body."))
                    return False
            return True
        if self._num_complete == num_complete:
            self._head_bytes += len(piece)
        if self._head_bytes >= self._limits.max_head_bytes:  # and it has not ended
            self._refuse(
                HeadTooLarge(
                    f"The request's head is larger than {self._limits.max_head_bytes} bytes."
                )
            )
            return False
        return True

    @property
    def _asks_for_websocket(self) -> bool:
        """Whether a head that has been read asks for a WebSocket where there is one.

        It is none while an earlier request waits for its reply.
        """
        return (
            self._open_websocket is not None
            and self.url.startswith(_WEBSOCKET_PREFIX)
            and self.parser.get_method() == b"GET"
            and self._get_upgrade() == b"websocket"
            and self.is_idle
        )

    def _become_websocket(self, rest: memoryview) -> bool:
        """Leave the connection to the other protocol, which reads the head again."""
        assert self._open_websocket is not None, "there is none"
        if not all(v.isascii() for n, v in self.headers if n.startswith(_HANDSHAKE_PREFIX)):
            self._refuse(InvalidRequest("The headers of a WebSocket's handshake are ASCII."))
            return False
        self._stop("late")
        self._in_head, self._has_begun, self._head_bytes = True, False, 0
        self.connections.discard(self)
        state = {**self.app_state, DEPARTURE: self._departure}
        self._websocket = self._open_websocket(self.config, self.server_state, state)
        self.transport = transport = WebSocketTransport(self._socket, self._hang_up)
        self._websocket.connection_made(transport)
        lines = [b"GET %b HTTP/1.1" % self.url]
        lines += [b"%b: %b" % header for header in self.headers]
        self._websocket.data_received(b"\r\n".join([*lines, b"", b""]))
        if (reason := self._websocket.unreadable) is not None:
            self._write_refusal(InvalidRequest(f"This is no handshake of a WebSocket: {reason}."))
        elif rest:
            self._websocket.data_received(bytes(rest))
        return False

    def _ignore_upgrade(self, rest: memoryview) -> bool:
        """Read a request to change to another protocol as if it did not ask for that.

        That is for the server to choose (RFC 9110, section 7.8). The parser takes what follows the
        head for the other protocol, so it gets the head again without those lines.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(InvalidRequest("CONNECT is not served here."))
            return False
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            kept = value
            if name == b"connection":
                options = (each.strip() for each in value.split(b","))
                kept = b", ".join(o for o in options if o.lower() in (b"close", b"keep-alive"))
            if name not in (b"upgrade", b"http2-settings") and kept:
                lines.append(b"%b: %b" % (name, kept))
        self.parser = httptools.HttpRequestParser(self)
        self._in_head, self._has_begun, self._head_bytes = True, False, 0
        return self._feed(memoryview(b"\r\n".join([*lines, b"", b""]))) and (
            not rest or self._feed(rest)
        )

    def _end_parsing(self, error: ServingError) -> NoReturn:
        """End what the parser is doing, which calls this, because of ``error``."""
        self._cause = error
        raise error

    def on_message_begin(self) -> None:
        """Note the first byte of a request."""
        super().on_message_begin()
        self.scope["state"][DEPARTURE] = self._departure
        self._has_begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header line; those after the body are dropped."""
        if not self._in_head:
            return
        if len(self.headers) >= self._limits.max_head_lines:
            self._end_parsing(
                HeadTooLarge(
                    f"The request's head has more than {self._limits.max_head_lines} lines."
                )
            )
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to serve a request, or let it wait for the reply to the one before."""
        self._check_head()
        if self.parser.should_upgrade():
            return  # see _ignore_upgrade
        if len(self.pipeline) >= MAX_PIPELINED:
            self._end_parsing(
                InvalidRequest(
                    f"More than {MAX_PIPELINED} requests were sent ahead of their replies."
                )
            )
        if not httptools.parse_url(self.url).path:
            self._end_parsing(InvalidRequest("The target of the request has no path."))
        self._stop("late")
        self._in_head = False
        self._head_bytes = self._body_bytes = self._num_chunks = self._fed_bytes = 0
        is_next = self.is_idle
        super().on_headers_complete()
        if is_next:
            self._running = self.cycle

    def _check_head(self) -> None:
        """End the parsing of a request in another version, or without its host (RFC 9112, 3.2)."""
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            self._end_parsing(UnservedVersion(f"HTTP/{version} is not served, but HTTP/1.1."))
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1:
            self._end_parsing(InvalidRequest("The request names more than one host."))
        if not hosts and version == _VERSIONS[-1]:
            self._end_parsing(InvalidRequest("The request has no header Host."))
        if hosts and not _HOST.fullmatch(hosts[0]):
            self._end_parsing(InvalidRequest("The header Host names no host."))

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._num_chunks += 1
        self._body_bytes += len(body)
        if (
            self._num_chunks > NUM_FREE_CHUNKS
            and self._body_bytes < self._num_chunks * MIN_CHUNK_BYTES
        ):
            self._end_parsing(
                InvalidRequest(
                    f"The body comes in pieces of less than {MIN_CHUNK_BYTES} bytes on average."
                )
            )
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the last byte of a request."""
        if self.parser.should_upgrade():
            return
        self._num_complete += 1
        self._in_head, self._has_begun, self._head_bytes = True, False, 0
        self._stop("late")
        super().on_message_complete()

    def _late(self) -> None:
        """Hang up on a client that does not finish what it has begun."""
        if self._in_head and not self._is_between:
            self._refuse(
                HeadTimeout(
                    "The request's head had not arrived after "
                    f"{self._limits.head_timeout_s:g} seconds."
                )
            )
        else:  # it has asked for nothing, or its reply came before the end of its body
            self.transport.close()

    # ---- what it gets ---------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Go on with what the client has sent meanwhile."""
        self._replies.flush()
        following = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if following is not None:
            self._running = following
        if self.pipeline:
            return
        held, self._held = self._held, bytearray()
        self._flow.lift()
        if held:
            self._read(memoryview(held))
        if self.is_idle:
            self.idle_since_s = self.loop.time()
            if self._refusal is not None:
                self._write_refusal(self._refusal)
            elif not self._in_head:
                self._start("late", self._limits.head_timeout_s, self._late)

    def _refuse(self, error: ServingError) -> None:
        """Answer with ``error`` and hang up, after the replies to what was asked before."""
        self._refusal = error
        self._held.clear()
        self._stop("late")
        cycle = self.cycle
        if self.is_idle and self._in_head:
            self._write_refusal(error)
        elif self.is_idle:  # the reply has been sent; what was wrong is the rest of a body
            self.transport.close()
        elif cycle.more_body and cycle is self._running:
            # What is wrong is its body, and the application must not take it for whole.
            if cycle.response_started:
                self._connections.observe(error.slug)
                self.transport.close()
            else:
                self._write_refusal(error)
            cycle.disconnected = True
            cycle.message_event.set()
        elif cycle.more_body and self._running is not None:  # the same of one that waits
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else self._running

    def _write_refusal(self, error: ServingError) -> None:
        self._connections.observe(error.slug)
        self.transport.write(refusal(error))
        self.transport.close()

    def pause_writing(self) -> None:
        """Give the client time to read."""
        super().pause_writing()
        if isinstance(self.transport, WebSocketTransport):
            assert self._websocket is not None
            self._websocket.pause_writing()
            self.transport.pause(UNREAD)  # or it would have to be answered: pings are
        self._start("unread", self._limits.unread_timeout_s, self._unread)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        super().resume_writing()
        if isinstance(self.transport, WebSocketTransport):
            assert self._websocket is not None
            self._websocket.resume_writing()
            self.transport.resume(UNREAD)
        if not self.transport.is_closing():
            self._stop("unread")

    def _unread(self) -> None:
        self._connections.observe(UNREAD)
        self._socket.abort()


def _reason(error: httptools.HttpParserError) -> ServingError:
    """Return what a parser has found wrong."""
    if isinstance(error, httptools.HttpParserCallbackError):
        return InvalidRequest("The target of the request cannot be read.")
    said = str(error).rstrip(".")
    kind = UnservedVersion if said == _WRONG_VERSION else InvalidRequest
    return kind(f"This is not HTTP/1.1: {said}.")
