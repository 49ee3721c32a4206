"""Means of few values with 95 % intervals, by Student's t distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Two-sided 95 % of Student's t distribution, by degrees of freedom from 1 on.
_STUDENT_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """A mean and how far its 95 % interval reaches to either side; infinitely with one value."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> MeanInterval:
        """Compute the interval by Student's t; from 31 values on with the t of 31.

        Raises ValueError for no values.
        """
        if not values:
            raise ValueError("no values have no mean")
        count, mean = len(values), math.fsum(values) / len(values)
        if count == 1:
            return cls(mean, math.inf)
        variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
        t = _STUDENT_T[min(count - 1, len(_STUDENT_T)) - 1]
        return cls(mean, t * math.sqrt(variance / count))

    def to_json(self) -> dict[str, float | None]:
        """Return the interval as JSON; ``half`` is null if it is infinite."""
        return {"mean": self.mean, "half": self.half if math.isfinite(self.half) else None}
