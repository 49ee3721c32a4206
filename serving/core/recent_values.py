"""Recent values of a quantity that changes, and their quantiles."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from serving.core.latency import quantile


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

    def add(self, now_s: float, value: float) -> None:
        """Add a value, as of ``now_s``."""
        self._values.append((now_s, value))

    def quantile(self, now_s: float, q: float) -> float:
        """Return the ``quantile`` of the values that are not forgotten at ``now_s``."""
        oldest_s = now_s - self._period_s
        recent = [value for added_s, value in self._values if added_s >= oldest_s]
        return quantile([*self._seeds, *recent], q)
