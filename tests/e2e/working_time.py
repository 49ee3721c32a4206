"""A monotonic clock that stands still while its process does.

On a machine that gives a process no processor for seconds, a server would miss the budgets of
requests that it had no chance to answer, and a test of something else would fail for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LOOKS_EVERY_S = 0.01
MOST_S = 0.1
"""Seconds between two looks that are counted at most: what is beyond, the process stood still."""


class WorkingTime:
    """Seconds by another clock, of which each step counts up to ``most_s``. Thread-safe."""

    def __init__(self, clock: Callable[[], float], most_s: float = MOST_S) -> None:
        self._clock, self._most_s = clock, most_s
        self._lock = threading.Lock()
        self._looked_s = self._time_s = clock()

    def __call__(self) -> float:
        with self._lock:
            now_s = self._clock()
            self._time_s += min(self._most_s, now_s - self._looked_s)
            self._looked_s = now_s
            return self._time_s

    def look_on(self) -> None:
        """Look now and then, for ever."""
        while True:
            time.sleep(LOOKS_EVERY_S)
            self()


def adopt() -> None:
    """Let this process take it for ``time.monotonic``: whatever is imported from now on."""
    time.monotonic = working = WorkingTime(time.monotonic)
    threading.Thread(target=working.look_on, daemon=True).start()
