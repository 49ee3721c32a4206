"""Answers to one request, as they come from a backend."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from serving.core.ports import Clock

T = TypeVar("T")

MAX_UNREAD = 32
"""Number of messages about one request that may wait to be read. There are seldom more than the
request may have answers, one of each operating point at most."""


def put_latest(messages: asyncio.Queue[T], message: T) -> None:
    """Put a message of one request; if the queue is full, it takes the place of the oldest.

    A later answer is better than those before.
    """
    if messages.full():
        messages.get_nowait()
    messages.put_nowait(message)


async def next_by(until_s: float, messages: asyncio.Queue[T], clock: Clock) -> T | None:
    """Return the next of ``messages``, or None if there is none by ``until_s`` of ``clock``.

    Whoever has an answer in hand waits so for a better one: it needs nothing of the engine but the
    messages, and is sent in time also while the engine stands still.
    """
    try:
        async with asyncio.timeout(until_s - clock()):
            return await messages.get()
    except TimeoutError:
        return None if messages.empty() else messages.get_nowait()
