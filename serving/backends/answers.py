"""Answers to one request, as they come from a backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from serving.core.ports import Clock
from serving.core.request import Answered

T = TypeVar("T")


async def deepest(answers: AsyncGenerator[Answered, None]) -> Answered:
    """Return the last of ``answers``, of which there is at least one. Raises what they do."""
    async with aclosing(answers):
        async for answered in answers:
            last = answered
    return last


async def next_by(deadline_s: float, messages: asyncio.Queue[T], clock: Clock) -> T | None:
    """Return the next of ``messages``, or None if there is none by ``deadline_s`` of ``clock``.

    Whoever has an answer in hand waits so for a better one: it needs nothing of the engine but the
    messages, and keeps its deadline also while the engine stands still.
    """
    try:
        async with asyncio.timeout(deadline_s - clock()):
            return await messages.get()
    except TimeoutError:
        return None if messages.empty() else messages.get_nowait()
