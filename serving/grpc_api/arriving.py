"""Bytes of the messages that are arriving over gRPC, among the bodies of all requests.

gRPC shows a message once it is whole, and the kernel how much has come over a connection. What has
come while messages are read from it, less those that have become whole, is held for them: at most
so much is counted as one body that arrives. It gives way as others do, with all that is arriving
over the connection, since nobody can tell which of its calls the bytes are of.
"""

from __future__ import annotations

import asyncio
from typing import Any

from serving.api.body import BodyPlace, BodyRoom, no_room
from serving.core.errors import Overloaded
from serving.grpc_api.call import next_message
from serving.grpc_api.sockets import AcceptedSockets, Peer


class ArrivingMessages:
    """The messages that are being read at one port. Not thread-safe: the event loop owns it."""

    def __init__(self, room: BodyRoom, max_message_bytes: int, sockets: AcceptedSockets) -> None:
        self._room = room
        self._max_message_bytes = max_message_bytes
        self._sockets = sockets
        self._connections: dict[Peer, _Connection] = {}

    async def read(self, peer: Peer | None, context: Any) -> bytes | None:
        """Return the next message of a call over that connection, None after the last.

        ``context`` is gRPC's ``ServicerContext``. Raises Overloaded if it has to give way.
        """
        if peer is None:
            return await next_message(context)
        task = asyncio.current_task()
        assert task is not None, "there is no task to cancel"
        num_bytes = self._sockets.received(peer)
        connection = self._connections.get(peer)
        if connection is None or connection.gives_way:
            connection = self._connections[peer] = _Connection(self._room, num_bytes)
        connection.reads[task] = num_bytes
        message: bytes | None = None
        try:
            message = await next_message(context)
        except asyncio.CancelledError:
            if connection.gives_way and task.uncancel() == 0:  # by nobody else
                raise no_room() from None
            raise
        finally:
            self._end(peer, connection, task, len(message or b""))
        return message

    def look(self) -> None:
        """Count what has come since the last look."""
        self._sockets.find(self._connections)
        for peer, connection in list(self._connections.items()):
            if not connection.gives_way:  # in favour of one before it
                self._count(connection, self._sockets.received(peer))

    def _count(self, connection: _Connection, num_received: int) -> None:
        held = connection.held(num_received, self._max_message_bytes)
        if held < connection.num_bytes:
            self._room.give_back(connection)
        try:
            if held > connection.num_bytes:
                self._room.take(connection, held - connection.num_bytes)
        except Overloaded:
            self._room.give_back(connection)
            connection.give_way()

    def _end(
        self, peer: Peer, connection: _Connection, task: asyncio.Task[Any], num_bytes: int
    ) -> None:
        """Count one message less, which had so many bytes once it was whole, and 0 if it is not.

        It may have come compressed, in fewer.
        """
        began = connection.reads.pop(task)
        if connection.reads:
            num_received = self._sockets.received(peer)
            connection.num_taken += min(num_bytes, num_received - began)
            if not connection.gives_way:
                self._count(connection, num_received)
            return
        self._room.give_back(connection)
        if self._connections.get(peer) is connection:
            del self._connections[peer]


class _Connection(BodyPlace):
    """One connection's part of the room for bodies.

    ``num_taken`` counts the bytes that came over it and are held for no message.
    """

    def __init__(self, room: BodyRoom, num_taken: int) -> None:
        super().__init__(room)
        self.num_taken = num_taken
        self.gives_way = False
        self.reads: dict[asyncio.Task[Any], int] = {}
        """What reads a message -> the bytes that had come over the connection when it began."""

    def held(self, num_received: int, max_message_bytes: int) -> int:
        """Return how many bytes are held for its messages, at most.

        No message has more than came since it was first waited for: so what is counted too much,
        as the frames around messages are, does not add up for ever.
        """
        bounds = (min(max_message_bytes, num_received - began) for began in self.reads.values())
        return max(0, min(num_received - self.num_taken, sum(bounds)))

    def give_way(self) -> None:
        """End the reading of all its messages."""
        self.gives_way = True
        for task in self.reads:
            task.cancel()
