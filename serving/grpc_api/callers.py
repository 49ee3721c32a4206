"""Who is calling over gRPC, and what each address may have of it.

    connection -> call -> message -> answer
        |          |         |          |
    of each     places,   turns at   time to
    address     shared    sending    read it

Places and turns are shared as those of requests are: an address by itself may have all of them, and
for others there is an eighth more.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from serving.access.identity import by_address
from serving.api.body import BodyRoom
from serving.core.errors import Overloaded
from serving.core.fair_shares import FREE_MULTIPLE, Places
from serving.grpc_api.arriving import ArrivingMessages
from serving.grpc_api.call import peer_of
from serving.grpc_api.sockets import AcceptedSockets, Peer, SocketLimits
from serving.grpc_api.turns import MessageTurns

MAX_REFUSED_CALLS = 64
"""Most calls beyond the bound that are told so with a problem; gRPC itself refuses others."""


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """Limits of those who call."""

    max_calls: int
    """Calls at once, over all connections; a stream of messages is one."""
    max_arriving: int
    """Messages that arrive at once; and streams, each of which may send one at any time."""
    max_message_bytes: int
    unread_timeout_s: float
    """Seconds for a client to read an answer."""

    @property
    def max_inside(self) -> int:
        """Calls in all, with those of others and those that are being refused."""
        return self.max_calls + math.ceil(self.max_calls / FREE_MULTIPLE) + MAX_REFUSED_CALLS


class Callers:
    """Everybody who calls at one port. Not thread-safe: the event loop owns it.

    What arrives has its room in ``bodies``. ``observe`` is told why a call was refused or a
    connection ended.
    """

    def __init__(
        self,
        limits: CallerLimits,
        sockets: SocketLimits,
        bodies: BodyRoom,
        observe: Callable[[str], None],
    ) -> None:
        self.limits = limits
        self.observe = observe
        self.places = Places(limits.max_calls, "calls")
        self.streams = Places(limits.max_arriving, "streams of messages")
        self.turns = MessageTurns(limits.max_arriving)
        self.peers: Counter[Peer] = Counter()
        """Number of calls on each connection."""
        self.sockets = AcceptedSockets(sockets, self.peers.__contains__, observe)
        self.arriving = ArrivingMessages(bodies, limits.max_message_bytes, self.sockets)


class Call:
    """One call that has come, from its head on until gRPC is done with it.

    ``scope`` is its head, as of a request; ``context`` gRPC's ``ServicerContext``.
    """

    def __init__(self, callers: Callers, context: Any, scope: dict[str, Any]) -> None:
        self._callers = callers
        self._caller = by_address(scope)
        self._peer = peer_of(context)
        self._has_place = False
        self._unread: asyncio.TimerHandle | None = None
        if self._peer is not None:
            callers.peers[self._peer] += 1
        context.add_done_callback(self._ended)

    def enter(self) -> None:
        """Take a place. Raises Overloaded where none is left for the caller."""
        with self.observed():
            self._callers.places.take(self._caller)
        self._has_place = True

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Let it be a stream of messages. Raises Overloaded where there are too many."""
        with self.observed():
            self._callers.streams.take(self._caller)
        try:
            yield
        finally:
            self._callers.streams.leave(self._caller)

    async def read(self, context: Any) -> bytes:
        """Return the only message, once it has had its turn; nothing if there is none.

        Raises Overloaded as ``next_message``.
        """
        async with self._callers.turns.turn(self._caller):
            return await self._arriving(context) or b""

    async def next_message(self, context: Any) -> bytes | None:
        """Return the next message of a stream, None after the last.

        Raises Overloaded where there is no room for what is arriving.
        """
        with self.observed():
            return await self._arriving(context)

    async def _arriving(self, context: Any) -> bytes | None:
        return await self._callers.arriving.read(self._peer, context)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Give the client time to read what is written in the context."""
        self.write()
        try:
            yield
        finally:
            self._read()

    def write(self) -> None:
        """Give the client time to read what gRPC is about to write, until it is done with this."""
        self._read()
        if self._peer is not None:
            hang_up = self._callers.sockets.hang_up
            timeout_s = self._callers.limits.unread_timeout_s
            loop = asyncio.get_running_loop()
            self._unread = loop.call_later(timeout_s, hang_up, self._peer)

    def _read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _ended(self, _: Any) -> None:
        self._read()
        if self._has_place:
            self._callers.places.leave(self._caller)
        if self._peer is not None:
            peers = self._callers.peers
            peers[self._peer] -= 1
            if not peers[self._peer]:
                del peers[self._peer]

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Count a refusal for want of room, which is not the end of a request."""
        try:
            yield
        except Overloaded as error:
            self._callers.observe(error.slug)
            raise
