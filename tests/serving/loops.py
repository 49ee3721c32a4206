"""The event loop of a test: its time is that of the test alone, and it bears with gRPC."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from time import monotonic
from typing import Any

from tests.e2e.working_time import WorkingTime

LOOKS_EVERY_S = 0.01
"""Seconds after which a loop that waits for a timer looks at the clock at the latest."""
MOST_S = 2 * LOOKS_EVERY_S
"""Seconds between two looks that are counted at most: what is beyond, it stood still."""


class TolerantLoop(asyncio.SelectorEventLoop):
    """A loop whose time stands still while this process does, and which gRPC may tell of a call
    that its test has left behind.

    Budgets and bounds of a test are tens of milliseconds of this time, in which nothing happens;
    a machine that gives the process no processor for seconds, or a long collection, uses up none.

    gRPC's events go through one queue a process. Whichever loop looks at it hands an event to the
    loop in which its call began. In a process of many tests that one may have been closed, and the
    test that looked would fail for another one's call, of which nobody waits for the end.
    """

    def __init__(self) -> None:
        self._clock = WorkingTime(monotonic, MOST_S)
        super().__init__(_Looking())
        self.num_late = 0
        """Callbacks that came after it had been closed."""

    def time(self) -> float:
        """Seconds in which it did not stand still."""
        return self._clock()

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle | None:
        """Schedules ``callback``; None, and nothing but a count, in a loop that is closed."""
        if self.is_closed():
            self.num_late += 1
            return None
        return super().call_soon_threadsafe(callback, *args, context=context)


class _Looking(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Waits no longer than until the next look."""
        return super().select(timeout if timeout is None else min(timeout, LOOKS_EVERY_S))
