"""A handful of numbers, as the three that a table has room for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serving.core.latency import quantile


@dataclass(frozen=True, slots=True)
class Spread:
    """Quantiles of some values; of three or less, the smallest, the middle and the largest."""

    p10: float
    p50: float
    p90: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Raises ValueError for no values."""
        ordered = sorted(values)
        if not ordered:
            raise ValueError("no values have no quantiles")
        return cls(*(quantile(ordered, q) for q in (0.1, 0.5, 0.9)))

    def text(self, digits: int) -> str:
        """``p50 (p10 .. p90)``"""
        p10, p50, p90 = (f"{value:.{digits}f}" for value in (self.p10, self.p50, self.p90))
        return f"{p50} ({p10} .. {p90})"
