"""The least of what was measured lately."""

from __future__ import annotations

from collections.abc import Sequence


class WindowedMinimum:
    """The smallest of each of several values, over the last ``period_s`` seconds at least and
    twice as many at most."""

    def __init__(self, period_s: float, now_s: float, values: Sequence[float]) -> None:
        self._period_s = period_s
        self._since_s = now_s
        self._before = self._now = tuple(values)

    def add(self, now_s: float, values: Sequence[float]) -> None:
        """As many values as there were. ``now_s`` never falls."""
        age_s = now_s - self._since_s
        if age_s < self._period_s:
            self._now = tuple(map(min, self._now, values))
            return
        self._before = self._now if age_s < 2 * self._period_s else tuple(values)
        self._now = tuple(values)
        self._since_s = now_s

    @property
    def values(self) -> tuple[float, ...]:
        """In the order in which they are given."""
        return tuple(map(min, self._before, self._now))
