"""Turns at sending a message, which gRPC holds, and says nothing of, until it is whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from serving.core.errors import Overloaded
from serving.core.fair_shares import Places
from serving.core.principals import Principal


class MessageTurns:
    """Turns of ``capacity`` messages at once, shared as ``Places`` are; who has none waits.

    Not thread-safe: the event loop owns it.
    """

    def __init__(self, capacity: int) -> None:
        self._places = Places(capacity)
        self._waiting: dict[asyncio.Future[None], Principal] = {}

    @asynccontextmanager
    async def turn(self, caller: Principal) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the context lasts."""
        if not self._take(caller):
            await self._wait(caller)
        try:
            yield
        finally:
            self._leave(caller)

    async def _wait(self, caller: Principal) -> None:
        """Wait until whoever leaves has taken a place for this caller."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = caller
        try:
            await turn
        except asyncio.CancelledError:
            if self._waiting.pop(turn, None) is None:
                self._leave(caller)  # it had come
            raise

    def _take(self, caller: Principal) -> bool:
        try:
            self._places.take(caller)
        except Overloaded:
            return False
        return True

    def _leave(self, caller: Principal) -> None:
        self._places.leave(caller)
        for turn, next_caller in list(self._waiting.items()):
            # Who has been cancelled is about to take itself out.
            if not turn.done() and self._take(next_caller):
                del self._waiting[turn]
                turn.set_result(None)
