"""The processor time of an executor's thread, told to its observer by what it went to."""

from __future__ import annotations

from serving.core.observing import DECISION, EXECUTOR
from serving.core.ports import Clock, Observer


class ThreadTime:
    """The processor time of one thread, which alone may call this."""

    def __init__(self, clock: Clock, observer: Observer) -> None:
        """Make an account; ``clock`` gives the seconds that this thread has had a processor."""
        self.clock = clock
        self._observer = observer
        self._accounted_s = 0.0  # up to which the observer was told
        self._computed_s = 0.0  # since then, in decisions and in runs

    def decided(self, since_s: float) -> None:
        """Count the time since ``since_s`` as that of a decision."""
        seconds = self.clock() - since_s
        self._computed_s += seconds
        self._observer.spent(DECISION, seconds)

    def ran(self, since_s: float) -> None:
        """Count the time since ``since_s`` as that of a run, which is accounted for elsewhere."""
        self._computed_s += self.clock() - since_s

    def account(self) -> None:
        """Tell the observer what was spent outside decisions and runs since the last time."""
        now_s = self.clock()
        self._observer.spent(EXECUTOR, now_s - self._accounted_s - self._computed_s)
        self._accounted_s, self._computed_s = now_s, 0.0
