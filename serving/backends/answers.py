"""Answers to one request, as they come from a backend."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from serving.core.ports import Clock

T = TypeVar("T")

MAX_UNREAD = 32
"""Number of messages about one request that may wait to be read. There are seldom more than the
request may have answers, one of each operating point at most."""


class Mailbox(Generic[T]):
    """Messages about one request, for one reader. For the event loop.

    It holds ``max_unread``: a further one takes the place of the oldest, since a later answer is
    better than those before.
    """

    def __init__(self, max_unread: int) -> None:
        self._unread: deque[T] = deque(maxlen=max_unread)
        self._waking: asyncio.Future[None] | None = None

    def put(self, message: T) -> None:
        """Put a message in."""
        self._unread.append(message)
        self._wake()

    async def get(self) -> T:
        """Return the next message."""
        while not self._unread:
            await self._wait()
        return self._unread.popleft()

    async def get_by(self, until_s: float, clock: Clock) -> T | None:
        """Return the next message, or None if there is none by ``until_s`` of ``clock``.

        Whoever has an answer in hand waits so for a better one: it needs nothing of the engine but
        the messages, and is sent in time also while the engine stands still.
        """
        if not self._unread:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(until_s - clock(), self._wake)
            try:
                await self._wait()
            finally:
                timer.cancel()
        return self._unread.popleft() if self._unread else None

    async def _wait(self) -> None:
        self._waking = asyncio.get_running_loop().create_future()
        try:
            await self._waking
        finally:
            self._waking = None

    def _wake(self) -> None:
        if self._waking is not None and not self._waking.done():
            self._waking.set_result(None)
