"""An HTTP/1.1 client that sends each request when it is told to, however many are still open.

    idle connections, most recently used first   -->  one is taken, or else another is opened
    MAX_CONNECTIONS are open                     -->  the request is not sent, and says so

A client that waits for a free connection slows down with the server that it measures, and then does
not see the waits. This one may share the cores of that server, so it is callbacks over a parser in
C: no task, no future and no header dictionary for a request on a connection that is there.

Replies must state their length or be chunked, as those of every server of today are.
"""

from __future__ import annotations

import asyncio
import enum
import select
import selectors
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import httptools

from serving.core.command_errors import InvalidArgument
from serving.core.server_options import server_url_parts

MAX_CONNECTIONS = 4096
MAX_IDLE_S = 2.0
"""Seconds after which an idle connection is not used any more. Servers close idle ones, most after
5 s, and a request should not meet one that is about to be closed."""
MAX_REPLY_BYTES = 4 << 20


class Failure(enum.StrEnum):
    """The kinds of failure for which a request has no reply."""

    CONNECTION = "connection"
    TIMEOUT = "timeout"
    UNSENT = "unsent"


@dataclass(frozen=True, slots=True)
class HttpReply:
    """How one request ended. Instants are in seconds by the event loop's clock."""

    sent_s: float
    """Instant at which the request was given to a connection, or one was asked for.

    Connecting is the server's time.
    """
    finished_s: float
    """Instant of the last byte, or at which the client gave up."""
    status: int = 0
    body: bytes = b""
    failure: Failure | None = None
    reason: str = ""
    """Slug that says why the request failed; empty for a reply."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, as its URL says."""

    host: str
    port: int
    encrypted: bool
    prefix: str
    """The URL's path, put before the path of every request."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Parse http://HOST[:PORT][/PREFIX], or the same with https.

        Raises ValueError for anything else.
        """
        parts = server_url_parts(url)
        if parts is None or parts.hostname is None:
            raise InvalidArgument(f"expected http://host:port, not {url!r}")
        encrypted = parts.scheme == "https"
        port = parts.port or (443 if encrypted else 80)
        return cls(parts.hostname, port, encrypted, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """Return the value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(slots=True, eq=False)
class _Exchange:
    """One request on its way, until ``done`` has been told how it ended."""

    data: bytes
    sent_s: float
    done: Callable[[HttpReply], None]
    connection: _Connection | None = None
    timer: asyncio.TimerHandle | None = None
    ended: bool = False

    def end(self, finished_s: float, status: int, body: bytes) -> None:
        self._end(HttpReply(self.sent_s, finished_s, status, body))

    def fail(self, finished_s: float, failure: Failure, reason: str) -> None:
        self._end(HttpReply(self.sent_s, finished_s, failure=failure, reason=reason))

    def _end(self, reply: HttpReply) -> None:
        if not self.ended:
            self.ended = True
            if self.timer is not None:
                self.timer.cancel()
            self.done(reply)


class Client:
    """A client of one server that opens connections as it needs them, all on ``loop``."""

    def __init__(
        self,
        address: Address,
        loop: asyncio.AbstractEventLoop,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._address = address
        self._loop = loop
        self._max_connections = max_connections
        self._tls = ssl.create_default_context() if address.encrypted else None
        self._target: tuple[str, int] = (address.host, address.port)
        self._connecting: dict[_Exchange, asyncio.Task[None]] = {}
        self._open: set[_Connection] = set()
        self._idle: list[_Connection] = []
        self._all_closed = asyncio.Event()
        self.peak_connections = 0

    async def resolve(self) -> None:
        """Look up the host's address once, not for each connection. Raises OSError."""
        found = await self._loop.getaddrinfo(*self._target, type=socket.SOCK_STREAM)
        self._target = str(found[0][4][0]), self._address.port

    def send(self, data: bytes, give_up_s: float, done: Callable[[HttpReply], None]) -> None:
        """Send a request, head and body, and call ``done`` once with how it ended.

        That is at the latest at the instant ``give_up_s`` by the loop's clock.
        """
        now_s = self._loop.time()
        exchange = _Exchange(data, now_s, done)
        connection = self._take_idle(now_s)
        num_connections = len(self._connecting) + len(self._open)
        if connection is None and num_connections >= self._max_connections:
            exchange.fail(now_s, Failure.UNSENT, "all-connections-in-use")
            return
        exchange.timer = self._loop.call_at(give_up_s, self._give_up, exchange)
        if connection is not None:
            connection.start(exchange)
        else:
            self._connecting[exchange] = self._loop.create_task(self._connect(exchange))
            self.peak_connections = max(self.peak_connections, num_connections + 1)

    async def close(self) -> None:
        """Close every connection; requests that are still open fail."""
        tasks = tuple(self._connecting.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._all_closed.clear()
        for connection in tuple(self._open):
            connection.abort()
        if self._open:
            await self._all_closed.wait()

    def _take_idle(self, now_s: float) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if now_s - connection.idle_since_s <= MAX_IDLE_S and connection.is_usable():
                return connection
            connection.abort()
        return None

    async def _connect(self, exchange: _Exchange) -> None:
        try:
            await self._loop.create_connection(
                lambda: _Connection(self, self._loop, exchange),
                *self._target,
                ssl=self._tls,
                server_hostname=self._address.host if self._tls else None,
            )
        except OSError as error:
            exchange.fail(self._loop.time(), Failure.CONNECTION, _slug(error))
        finally:
            self._connecting.pop(exchange, None)
            if exchange.connection is None:  # cancelled
                exchange.fail(self._loop.time(), Failure.CONNECTION, "closed")

    def _give_up(self, exchange: _Exchange) -> None:
        exchange.fail(self._loop.time(), Failure.TIMEOUT, "no-reply-in-time")
        if exchange.connection is not None:
            exchange.connection.abort()
        else:
            self._connecting[exchange].cancel()

    # -- called by connections

    def opened(self, connection: _Connection, exchange: _Exchange) -> None:
        """Note that ``connection`` was opened, for ``exchange``."""
        self._connecting.pop(exchange, None)
        self._open.add(connection)

    def release(self, connection: _Connection) -> None:
        """Note that ``connection`` is idle: its exchange has ended and another may follow."""
        connection.idle_since_s = self._loop.time()
        self._idle.append(connection)

    def closed(self, connection: _Connection) -> None:
        """Note that ``connection`` is gone."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._open:
            self._all_closed.set()


class _Connection(asyncio.Protocol):
    """One connection to the server, with one request on it at most."""

    def __init__(
        self, client: Client, loop: asyncio.AbstractEventLoop, exchange: _Exchange
    ) -> None:
        self._client = client
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: _Exchange | None = exchange
        self._body: list[bytes] = []
        self._num_bytes = 0
        self._status = 0  # of a complete reply
        self._keep_alive = False
        self.idle_since_s = 0.0

    def is_usable(self) -> bool:
        """Return whether a request can be sent on this connection."""
        return not self._transport.is_closing()

    def start(self, exchange: _Exchange) -> None:
        """Send a request on this connection, which is idle."""
        self._exchange = exchange
        exchange.connection = self
        self._transport.write(exchange.data)

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    # -- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        exchange = self._exchange
        assert exchange is not None
        self._client.opened(self, exchange)
        if exchange.ended:  # given up on in this very moment
            self._exchange = None
            self.abort()
        else:
            self.start(exchange)

    def data_received(self, data: bytes) -> None:
        now_s = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(now_s, "not-http")
            return
        if self._exchange is None:
            self.abort()  # nobody asked
        elif self._num_bytes > MAX_REPLY_BYTES:
            self._fail(now_s, "reply-too-large")
        elif self._status:
            self._complete(now_s, self._exchange)

    def connection_lost(self, error: Exception | None) -> None:
        if self._exchange is not None:
            self._fail(self._loop.time(), "closed" if error is None else _slug(error))
        self._client.closed(self)

    # -- called by the parser

    def on_message_begin(self) -> None:
        self._body.clear()
        self._num_bytes = 0

    def on_body(self, data: bytes) -> None:
        self._body.append(data)
        self._num_bytes += len(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # others announce a reply
            self._status = status
            self._keep_alive = self._parser.should_keep_alive()  # forgotten after this call

    def _complete(self, now_s: float, exchange: _Exchange) -> None:
        body, status = b"".join(self._body), self._status
        self._exchange, self._status = None, 0
        if self._keep_alive:
            self._client.release(self)
        else:
            self.abort()
        exchange.end(now_s, status, body)

    def _fail(self, now_s: float, reason: str) -> None:
        exchange, self._exchange = self._exchange, None
        self.abort()
        if exchange is not None:
            exchange.fail(now_s, Failure.CONNECTION, reason)


def _slug(error: BaseException) -> str:
    """Return an exception's name as a slug: ``ConnectionResetError`` -> ``connection-reset``."""
    name = type(error).__name__.removesuffix("Error")
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")


class _PreciseSelector(selectors.EpollSelector):
    """A selector that waits to the microsecond.

    ``epoll_wait`` takes whole milliseconds, which Python rounds up, so every request would be sent
    up to one of them late; but epoll's descriptor can itself be waited for.
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select((self.fileno(),), (), (), timeout)
            timeout = 0
        return super().select(timeout)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop whose timers are exact enough to send by."""
    return asyncio.SelectorEventLoop(_PreciseSelector())
