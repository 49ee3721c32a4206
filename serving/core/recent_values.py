"""Recent values of a quantity that changes, and their quantiles."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from serving.core.quantiles import quantile


class RecentValues:
    """The latest values of a quantity, and what is taken for it while there are none.

    Old ones are forgotten by time, not by number: were requests refused because of them, no newer
    ones would come.
    """

    def __init__(self, period_s: float, max_count: int, seeds: Sequence[float]) -> None:
        """Remember at most ``max_count`` values, for ``period_s`` seconds.

        ``seeds`` are counted with them at all times; at least one.
        """
        self._period_s = period_s
        self._seeds = tuple(seeds)
        self._values: deque[tuple[float, float]] = deque(maxlen=max_count)
        self._known: dict[float, float] = {}  # quantiles, until the next value or this instant
        self._known_until_s = -math.inf

    def add(self, now_s: float, value: float) -> None:
        """Add a value, as of ``now_s``."""
        self._values.append((now_s, value))
        self._known.clear()

    def quantile(self, now_s: float, q: float) -> float:
        """Return the ``quantile`` of the values that are not forgotten at ``now_s``."""
        # It is asked for several times in a row, and sorting takes some microseconds.
        if now_s > self._known_until_s:
            self._known.clear()
        if q not in self._known:
            period_s = self._period_s
            recent = [each for each in self._values if each[0] + period_s >= now_s]
            self._known_until_s = recent[0][0] + period_s if recent else math.inf
            self._known[q] = quantile([*self._seeds, *[value for _, value in recent]], q)
        return self._known[q]
