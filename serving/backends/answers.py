"""Answers to one request, as they come from a backend."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from serving.core.request import Answered


async def deepest(answers: AsyncGenerator[Answered, None]) -> Answered:
    """Return the last of ``answers``, of which there is at least one. Raises what they do."""
    async with aclosing(answers):
        async for answered in answers:
            last = answered
    return last
