"""A gateway's streams over a real socket, spoken to by a client that others wrote."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from serving.api.body import BodyRoom
from serving.http_protocol import BoundedProtocol, ConnectionLimits, Connections
from serving.websocket_protocol import WebSocketConnection
from tests.serving.gateway import Gateway

LIMITS = ConnectionLimits(
    max_connections=50,
    max_per_address=50,
    max_head_bytes=1000,
    max_head_lines=20,
    head_timeout_s=600.0,
    unread_timeout_s=600.0,
)
MAX_MESSAGE_BYTES = 2**16


@dataclass
class Stream:
    """A client's end of one stream."""

    connection: ClientConnection

    async def send(self, *messages: bytes | str) -> None:
        for message in messages:
            await self.connection.send(message)

    async def next(self) -> dict[str, Any]:
        """What the server says next."""
        told = json.loads(await self.connection.recv())
        assert isinstance(told, dict)
        return told

    async def outcomes(self, number: int) -> dict[int, str]:
        """Outcomes of the next frames that are told of, by their numbers."""
        told = [await self.next() for _ in range(number)]
        return {each["frame"]: each["outcome"] for each in told}

    async def closed(self) -> tuple[int | None, str | None]:
        """The code and the reason that the server closes with, without another word."""
        with contextlib.suppress(ConnectionClosed):
            raise AssertionError(await self.connection.recv())
        return self.connection.close_code, self.connection.close_reason


@dataclass
class StreamServer:
    """A gateway that listens."""

    gateway: Gateway
    connections: Connections
    bodies: BodyRoom
    state: ServerState = field(default_factory=ServerState)
    port: int = 0
    refused: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def stream(self, path: str = "cam", **options: Any) -> AsyncIterator[Stream]:
        """A stream at ``/v1/streams/``."""
        url = f"ws://127.0.0.1:{self.port}/v1/streams/{path}"
        async with connect(url, compression=None, proxy=None, **options) as connection:
            yield Stream(connection)

    def shut_down(self) -> None:
        """What the HTTP server does when it is told to end."""
        self.gateway.lifecycle.close()
        for connection in list(self.state.connections):
            connection.shutdown()


@contextlib.asynccontextmanager
async def serving_streams(
    gateway: Gateway, *, max_bodies_bytes: int = 2**20, limits: ConnectionLimits = LIMITS
) -> AsyncIterator[StreamServer]:
    """Let a gateway listen."""
    refused: list[str] = []
    bodies = BodyRoom(max_bodies_bytes)
    served = StreamServer(gateway, Connections(limits, refused.append), bodies, refused=refused)
    config = Config(
        gateway.app,
        interface="asgi3",
        ws="none",
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    config.load()
    server = await asyncio.get_running_loop().create_server(
        lambda: BoundedProtocol(
            served.connections,
            config,
            served.state,
            {},
            open_websocket=lambda *about: WebSocketConnection(bodies, *about),
        ),
        "127.0.0.1",
        0,
    )
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        for connection in list(served.state.connections):
            connection.transport.abort()
        await asyncio.gather(*served.state.tasks, return_exceptions=True)
