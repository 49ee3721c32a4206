"""A minimum over a sliding window: the least of what was measured lately."""

from __future__ import annotations

from collections.abc import Sequence


class WindowedMinimum:
    """The smallest of each of several values over a sliding window of time.

    It reaches over the last ``period_s`` seconds at least, and twice as many at most.
    """

    def __init__(self, period_s: float, now_s: float, values: Sequence[float]) -> None:
        self._period_s = period_s
        self._since_s = now_s
        self._before = self._now = tuple(values)

    def add(self, now_s: float, values: Sequence[float]) -> None:
        """Take in one new value for each of the values.

        ``now_s`` never falls.
        """
        age_s = now_s - self._since_s
        if age_s < self._period_s:
            self._now = tuple(map(min, self._now, values))
            return
        self._before = self._now if age_s < 2 * self._period_s else tuple(values)
        self._now = tuple(values)
        self._since_s = now_s

    @property
    def values(self) -> tuple[float, ...]:
        """Smallest of each value, in the order in which they are given."""
        return tuple(map(min, self._before, self._now))
