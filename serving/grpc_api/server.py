"""The port that gRPC is spoken at, within bounds, and its drain."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import grpc.aio

from serving.core.command_errors import CommandFailed

logger = logging.getLogger(__name__)

IDLE_MS = 300_000
"""Milliseconds after which a connection without calls is closed."""


@dataclass(frozen=True, slots=True)
class GrpcLimits:
    """Limits of one port."""

    max_connections: int
    max_calls: int
    """Calls at once, over all connections; a stream of messages is one."""
    max_message_bytes: int
    max_metadata_bytes: int


class GrpcServer:
    """One port for calls, without TLS: on an event loop, from ``start`` to ``stop``."""

    def __init__(
        self, handler: grpc.GenericRpcHandler, host: str, port: int, limits: GrpcLimits
    ) -> None:
        self._address = f"[{host}]:{port}" if ":" in host else f"{host or '[::]'}:{port}"
        self._handler = handler
        self._limits = limits
        self._server: grpc.aio.Server | None = None
        self.port = port
        """Port that it listens on, once it does."""

    async def start(self) -> None:
        """Listen. Raises CommandFailed for a port that cannot be had."""
        limits = self._limits
        server = grpc.aio.server(
            handlers=(self._handler,),
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_allowed_incoming_connections", limits.max_connections),
                ("grpc.max_concurrent_streams", limits.max_calls),
                ("grpc.max_receive_message_length", limits.max_message_bytes),
                ("grpc.max_metadata_size", limits.max_metadata_bytes),
                ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),
                ("grpc.max_connection_idle_ms", IDLE_MS),
            ),
            maximum_concurrent_rpcs=limits.max_calls,
        )
        try:
            self.port = server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise CommandFailed(f"gRPC cannot be served at {self._address}: {error}") from error
        await server.start()
        self._server = server
        logger.info("gRPC at port %d", self.port)

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, let those inside end for up to ``grace_s``, then cut them off."""
        if self._server is not None:
            await self._server.stop(grace_s)
