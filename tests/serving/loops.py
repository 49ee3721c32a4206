"""The event loop of a test, for gRPC's sake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class TolerantLoop(asyncio.SelectorEventLoop):
    """A loop to which gRPC may tell of a call that its test has left behind.

    gRPC's events go through one queue a process. Whichever loop looks at it hands an event to the
    loop in which its call began. In a process of many tests that one may have been closed, and the
    test that looked would fail for another one's call, of which nobody waits for the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_late = 0
        """Callbacks that came after it had been closed."""

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle | None:
        """Schedules ``callback``; None, and nothing but a count, in a loop that is closed."""
        if self.is_closed():
            self.num_late += 1
            return None
        return super().call_soon_threadsafe(callback, *args, context=context)
