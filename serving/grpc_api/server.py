"""The port that gRPC is spoken at, within bounds, and its drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import grpc.aio

from serving.core.command_errors import CommandFailed
from serving.grpc_api.callers import Callers

logger = logging.getLogger(__name__)

IDLE_MS = 300_000
"""Milliseconds after which a connection without calls is closed."""
MAX_AGE_MS = 600_000
"""Milliseconds after which a connection takes no new calls, which then go to a new one: so clients
come to know of servers that were added. Calls that are inside end on the old one."""
KEEPALIVE_MS = 60_000
KEEPALIVE_TIMEOUT_MS = 20_000
"""Milliseconds between two pings of a client, and until its connection is closed because none is
answered: of a machine that is gone nothing else is heard."""
MAX_SPARE_CONNECTIONS = 64
"""Most connections beyond their bound, until the next look at who is to leave."""
WINDOW_BYTES = 2**16 - 1
"""Bytes of a message that a client may send before it is read: what HTTP/2 begins with. By itself
gRPC takes four megabytes, and more of a fast client."""
LOOK_EVERY_S = 0.25
COUNT_EVERY_S = 0.02
"""Seconds between two looks at how much has come of the messages that are arriving."""


@dataclass(frozen=True, slots=True)
class GrpcLimits:
    """Limits of one port, beside those of who calls."""

    max_connections: int
    max_message_bytes: int
    max_metadata_bytes: int
    handshake_timeout_s: float
    """Seconds for a client to say that it speaks HTTP/2."""


class GrpcServer:
    """One port for calls, without TLS: on an event loop, from ``start`` to ``stop``."""

    def __init__(
        self,
        handler: grpc.GenericRpcHandler,
        host: str,
        port: int,
        limits: GrpcLimits,
        callers: Callers,
    ) -> None:
        self._address = f"[{host}]:{port}" if ":" in host else f"{host or '[::]'}:{port}"
        self._handler = handler
        self._limits = limits
        self._callers = callers
        self._server: grpc.aio.Server | None = None
        self._looking: list[asyncio.Task[None]] = []
        self.port = port
        """Port that it listens on, once it does."""

    async def start(self) -> None:
        """Listen. Raises CommandFailed for a port that cannot be had."""
        limits = self._limits
        server = grpc.aio.server(
            handlers=(self._handler,),
            options=(
                ("grpc.so_reuseport", 0),
                (
                    "grpc.max_allowed_incoming_connections",
                    limits.max_connections + MAX_SPARE_CONNECTIONS,
                ),
                ("grpc.max_concurrent_streams", self._callers.limits.max_calls),
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
                ("grpc.max_receive_message_length", limits.max_message_bytes),
                ("grpc.max_metadata_size", limits.max_metadata_bytes),
                ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),
                ("grpc.server_handshake_timeout_ms", round(limits.handshake_timeout_s * 1e3)),
                ("grpc.max_connection_idle_ms", IDLE_MS),
                ("grpc.max_connection_age_ms", MAX_AGE_MS),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ),
            maximum_concurrent_rpcs=self._callers.limits.max_inside,
        )
        try:
            self.port = server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise CommandFailed(f"gRPC cannot be served at {self._address}: {error}") from error
        await server.start()
        self._server = server
        self._callers.sockets.port = self.port
        looks = {
            self._callers.sockets.look: LOOK_EVERY_S,
            self._callers.arriving.look: COUNT_EVERY_S,
        }
        self._looking = [asyncio.create_task(_repeat(*each)) for each in looks.items()]
        logger.info("gRPC at port %d", self.port)

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, let those inside end for up to ``grace_s``, then cut them off."""
        if self._server is not None:
            await self._server.stop(grace_s)
        for each in self._looking:
            each.cancel()


async def _repeat(look: Callable[[], None], every_s: float) -> None:
    """Look again and again, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        look()
