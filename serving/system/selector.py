"""How often the event loop asks the kernel which connections can be read from and written to.

The loop asks before each turn, also where callbacks are ready and it would not wait, several times
for each request; and to ask costs as much as a short callback.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable

LOOK_EVERY_S = 0.0002
"""Seconds within which a busy loop does not ask again. Nobody notices so short a wait."""

Events = list[tuple[selectors.SelectorKey, int]]


class FrugalSelector(selectors.DefaultSelector):
    """A selector that asks the kernel at most every ``LOOK_EVERY_S``, unless it is to wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._look_at_s = clock()

    def select(self, timeout: float | None = None) -> Events:
        """Return what is ready, as any selector; nothing where that was just asked."""
        is_busy = timeout is not None and timeout <= 0.0
        if is_busy and self._clock() < self._look_at_s:
            return []
        found = super().select(timeout)
        self._look_at_s = self._clock() + LOOK_EVERY_S
        return found


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop of asyncio's over such a selector."""
    return asyncio.SelectorEventLoop(FrugalSelector())
