"""The liveness of an executor's thread: by when it ought to be back, and whether it was given up.

What a runtime raises is an error; what hangs in it is seen by another thread alone. So each step
says by when it ought to be over. A thread that is given up cannot be ended: it ends by itself if it
ever returns (``Abandoned``).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from serving.core.ports import Clock

EXECUTOR_THREAD = "executor"
"""Name of the thread that an executor's loop runs in."""
STALL_FACTOR = 20.0
"""Multiple of what a run seldom exceeds after which it is taken to hang. Run times have heavy
tails, and an engine that is given up in vain costs all requests inside."""
STALL_FLOOR_S = 2.0
"""Seconds before which nothing is taken to hang: a machine that does other things first may stand
still for so long."""


class Abandoned(BaseException):
    """The end of a thread that was given up while it hung: others have taken its place."""


class Liveness:
    """The liveness of one executor's thread."""

    def __init__(self, clock: Clock, lock: threading.Condition) -> None:
        """Make that of a thread which is not started; ``lock`` guards ``given_up``."""
        self._clock = clock
        self._lock = lock
        self._due_s = math.inf  # when the step under way ought to be over
        self._thread: threading.Thread | None = None
        self.given_up: Exception | None = None
        """Error that everybody inside ended with."""

    # -- from any thread ----------------------------------------------------------------------

    def start(self, loop: Callable[[], None]) -> None:
        """Run ``loop`` in a thread of its own."""
        self._thread = threading.Thread(target=loop, name=EXECUTOR_THREAD, daemon=True)
        self._thread.start()

    def join(self, within_s: float) -> bool:
        """Return whether the thread has ended, or never began; wait for that unless given up."""
        if self._thread is not None and self.given_up is None:
            self._thread.join(within_s)
        return not self.is_running

    @property
    def is_running(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def has_ended(self) -> bool:
        """Whether the thread was started and is no longer there."""
        return self._thread is not None and not self._thread.is_alive()

    @property
    def is_overdue(self) -> bool:
        """Whether the step under way ought to be over."""
        return self._clock() > self._due_s

    # -- from the thread itself ------------------------------------------------------------------

    def expect(self, seconds: float = STALL_FLOOR_S) -> None:
        """Say that the thread ought to be back within so many seconds."""
        self._due_s = self._clock() + seconds

    def expect_run(self, predicted_s: float) -> None:
        """Say that a run ought to be over after a multiple of what it seldom exceeds."""
        self.expect(max(STALL_FLOOR_S, STALL_FACTOR * predicted_s))

    def back(self) -> None:
        """Say that the thread is back. Raises Abandoned if it was given up meanwhile."""
        with self._lock:
            if self.given_up is not None:
                raise Abandoned
            self._due_s = math.inf
