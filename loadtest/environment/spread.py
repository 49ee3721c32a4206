"""The spread of some numbers, as the three figures that a table has room for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serving.core.quantiles import quantile


@dataclass(frozen=True, slots=True)
class Spread:
    """Three quantiles of some values; of three or less the smallest, middle and largest."""

    p10: float
    p50: float
    p90: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Compute the quantiles of ``values``. Raises ValueError if there are none."""
        ordered = sorted(values)
        if not ordered:
            raise ValueError("no values have no quantiles")
        return cls(*(quantile(ordered, q) for q in (0.1, 0.5, 0.9)))

    def text(self, digits: int) -> str:
        """Return ``p50 (p10 .. p90)``, each with so many digits after the point."""
        p10, p50, p90 = (f"{value:.{digits}f}" for value in (self.p10, self.p50, self.p90))
        return f"{p50} ({p10} .. {p90})"
