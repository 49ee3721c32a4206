"""The few statistics that searches are judged by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = Sequence[float] | NDArray[np.float64]


def kendall(one: Values, other: Values) -> float:
    """Return Kendall's tau-b of two orders of the same things; 0 where one of them has no order."""
    a, b = (np.sign(np.subtract.outer(np.asarray(v), np.asarray(v))) for v in (one, other))
    norm = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / norm if norm else 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """One estimate with its 95 % interval."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.4f} [{self.low:.4f}, {self.high:.4f}]"


def bootstrap(
    values: Values,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Return the mean of independent values, or a ``statistic`` along the last axis."""
    data = np.asarray(values, dtype=np.float64)
    of = statistic or (lambda drawn: drawn.mean(axis=-1))
    random = np.random.default_rng(seed)
    drawn = of(data[random.integers(len(data), size=(resamples, len(data)))])
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(float(of(data)), float(low), float(high))


def rank_sum(one: Values, other: Values) -> tuple[float, float]:
    """Return how often a value of one sample is above one of the other, and how surely.

    Ties count half; the second figure is the two-sided p of Mann and Whitney's test, by its normal
    approximation with ties.
    """
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    above = (np.sign(np.subtract.outer(a, b)) + 1) / 2
    share = float(above.mean())
    pooled = len(a) + len(b)
    _, counts = np.unique(np.concatenate([a, b]), return_counts=True)
    ties = float((counts**3 - counts).sum()) / (pooled * (pooled - 1))
    deviation = math.sqrt(len(a) * len(b) / 12 * (pooled + 1 - ties))
    if not deviation:
        return share, 1.0
    z = max(0.0, abs(above.sum() - len(a) * len(b) / 2) - 0.5) / deviation
    return share, math.erfc(z / math.sqrt(2))


def intraclass_correlation(groups: Sequence[Values] | NDArray[np.float64]) -> float:
    """Return the share of the variance that is between groups of equal size, ICC(1)."""
    table = np.asarray(groups, dtype=np.float64)
    count, size = table.shape
    between = size * table.mean(axis=1).var(ddof=1)
    within = table.var(axis=1, ddof=1).mean()
    total = between + (size - 1) * within
    return float((between - within) / total) if count > 1 and total else 0.0


def running_best(values: Values) -> list[int]:
    """Return, for each value, where the best up to it is."""
    best = 0
    places = []
    for place, value in enumerate(values):
        best = place if value > values[best] else best
        places.append(best)
    return places
