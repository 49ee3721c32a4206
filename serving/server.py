"""HTTP server's process: it listens, drains when told to end, and resets nobody."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from serving.api.body import BodyRoom
from serving.api.lifecycle import Lifecycle
from serving.core.command_errors import CommandFailed
from serving.http_protocol import MAX_REFUSED_CONNECTIONS, BoundedProtocol, Connections
from serving.system.selector import new_event_loop

if TYPE_CHECKING:
    from serving.websocket_protocol import WebSocketConnection

logger = logging.getLogger(__name__)

BACKLOG = 512
KEEP_ALIVE_S = 75
PING_S = 20.0
"""Seconds between two pings of a WebSocket, and until it is closed because none is answered."""
# For one who has connected and not yet sent: longer than a client needs, short beside any grace
# period. A balancer's idle connection holds up the end by so much.
FIRST_REQUEST_S = 1.0
TICK_S = 0.01
NUM_OTHER_DESCRIPTORS = 256
"""Number of file descriptors that a server may need besides those of its connections."""
END_MARGIN_S = 3.0
"""Seconds that the end may take beyond waiting for requests: to free the engine, and so on."""


def listen(host: str, *ports: int | None) -> list[socket.socket]:
    """Return sockets that listen on each of ``ports``, at each address of ``host``.

    0 picks a free one; None is none. Who connects waits until a server takes the sockets over.
    Raises CommandFailed where it cannot be listened on.
    """
    sockets: list[socket.socket] = []
    for port in ports:
        try:
            if port is not None:
                sockets += _listeners(host, port)
        except OSError as error:
            for listener in sockets:
                listener.close()
            why = (error.strerror or str(error)).lower()
            raise CommandFailed(f"cannot listen on {host}, port {port}: {why}") from error
    return sockets


def _listeners(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on one port. Raises OSError."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with contextlib.ExitStack() as opened:
        sockets = []
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = opened.enter_context(socket.socket(family, kind, protocol))
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setblocking(False)
            listener.bind(address)
            listener.listen(BACKLOG)
        opened.pop_all()
    return sockets


def end_within(seconds: float) -> None:
    """Let the kernel end this process after so many seconds, whatever any thread of it does.

    It ends by SIGALRM, which a shell shows as exit code 142.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds)


def end_now(exit_code: int) -> None:
    """End this process at once, without waiting for any thread of it, nor for any lock.

    Logs and standard output are flushed line by line, so nothing is in a buffer.
    """
    os._exit(exit_code)


class Server(uvicorn.Server):
    """One server process: HTTP until told to end, then a drain.

    SIGTERM   /readyz says no; requests are served for ``drain_delay_s``
    then      it no longer listens; new requests are refused, those in flight end, the process
              exits with 0
    again     a second signal ends it at once
    at last   the kernel ends what has not ended ``END_MARGIN_S`` after all that it waits for
    """

    def __init__(
        self,
        app: ASGIApp,
        lifecycle: Lifecycle,
        *,
        host: str,
        port: int,
        admin_port: int | None,
        connections: Connections,
        bodies: BodyRoom,
        max_message_bytes: int,
        drain_delay_s: float,
        shutdown_grace_s: float,
        log_level: str,
        end_within: Callable[[float], None] = end_within,
        end_now: Callable[[int], None] = end_now,
    ) -> None:
        # uvicorn only ever calls it, as it would the class.
        protocol: Any = partial(
            BoundedProtocol, connections, open_websocket=partial(_open_websocket, bodies)
        )
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=protocol,
            ws="none",  # BoundedProtocol knows where there are WebSockets
            ws_max_size=max_message_bytes,
            ws_ping_interval=PING_S,
            ws_ping_timeout=PING_S,
            # Images are compressed, and a bound on what is sent would be none on what it becomes.
            ws_per_message_deflate=False,
            lifespan="on",
            log_config=None,
            log_level=log_level,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            forwarded_allow_ips=[str(proxy) for proxy in connections.limits.proxies],
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=math.ceil(shutdown_grace_s),
        )
        super().__init__(config)
        self.failure: Exception | None = None
        self.listening = asyncio.Event()
        self._connections = connections
        self._create_protocol = partial(protocol, config, self.server_state)
        self._lifecycle = lifecycle
        self._admin_port = admin_port
        self._drain_delay_s = drain_delay_s
        # Connections are waited for, and then what they have left in the engine.
        self._end_s = drain_delay_s + FIRST_REQUEST_S + 2 * shutdown_grace_s + END_MARGIN_S
        self._end_within = end_within
        self._end_now = end_now
        self._draining = False

    @property
    def url(self) -> str:
        """URL where the server listens, once it does."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to end, on an event loop that asks the kernel less often."""
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(self.serve(sockets))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, unless ``sockets`` do, and start the application. Raises CommandFailed."""
        _allow_descriptors(
            self._connections.limits.max_connections
            + MAX_REFUSED_CONNECTIONS
            + NUM_OTHER_DESCRIPTORS
        )
        ports = (self.config.port, self._admin_port)
        await super().startup(listen(self.config.host, *ports) if sockets is None else sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer whoever has connected, then end.

        uvicorn's own closes connections whose request it has not read yet, and the kernel resets
        those that it has not accepted.
        """
        if not self.force_exit:
            await self._stop_listening()
            await self._read_first_requests()
        await super().shutdown(sockets)

    def fail(self, error: Exception) -> None:
        """End because the backend will never be ready, by ``error``."""
        self.failure = error
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on the first signal, and end at once on the second.

        It is called between any two bytecodes of the main thread. uvicorn's own would raise the
        signal again after the shutdown, and the exit code would not be 0.
        """
        if self._draining:
            self.should_exit = self.force_exit = True
            self._end_now(128 + sig)
            return
        self._draining = True
        self._end_within(self._end_s)
        asyncio.get_running_loop().call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        logger.info("draining for %.1f s", self._drain_delay_s)
        self._lifecycle.drain()
        asyncio.get_running_loop().call_later(self._drain_delay_s, self._close)

    def _close(self) -> None:
        self._lifecycle.close()
        self.should_exit = True

    async def _stop_listening(self) -> None:
        """Close the listening sockets, and take over what waits in them to be accepted.

        Who comes between the last look and the close, microseconds, is reset.
        """
        loop = asyncio.get_running_loop()
        of_asyncio = [listener for server in self.servers for listener in server.sockets]
        listeners = [listener.dup() for listener in of_asyncio]
        for listener in of_asyncio:
            loop.remove_reader(listener.fileno())
        # asyncio has accepted some in this turn of its loop, and would drop them if their server
        # were closed before the next.
        await asyncio.sleep(TICK_S)
        for server in self.servers:
            server.close()
        waiting = [connection for listener in listeners for connection in _close_listener(listener)]
        for connection in waiting:
            await loop.connect_accepted_socket(
                partial(self._create_protocol, self.lifespan.state), connection
            )

    async def _read_first_requests(self) -> None:
        """Wait until each connection has had a request, FIRST_REQUEST_S at most."""
        deadline_s = time.monotonic() + FIRST_REQUEST_S
        while not self.force_exit and time.monotonic() < deadline_s:
            if not any(
                isinstance(each, BoundedProtocol) and each.has_asked_nothing
                for each in self.server_state.connections
            ):
                return
            await asyncio.sleep(TICK_S)


def _open_websocket(
    bodies: BodyRoom, config: uvicorn.Config, state: ServerState, app_state: dict[str, Any]
) -> WebSocketConnection:
    """Return the protocol of a connection that becomes a WebSocket."""
    # Few have streams, and only they need what it is made of.
    from serving import websocket_protocol  # noqa: PLC0415

    return websocket_protocol.WebSocketConnection(bodies, config, state, app_state)


def _allow_descriptors(number: int) -> None:
    """Let this process have so many file descriptors, or say that it cannot.

    Without one, nobody new could connect, whoever has taken the others.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= number:
        return
    allowed = number if hard == resource.RLIM_INFINITY else min(number, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < number:
        logger.warning(
            "only %d files may be open (ulimit -n); max_connections needs %d", allowed, number
        )


def _close_listener(listener: socket.socket) -> list[socket.socket]:
    """Close a listening socket that does not block; return the connections that waited in it."""
    waiting = []
    with listener, contextlib.suppress(OSError):
        while True:
            waiting.append(listener.accept()[0])
    return waiting
