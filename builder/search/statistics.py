"""The few statistics that searches are judged by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = Sequence[float] | NDArray[np.float64]


def kendall(one: Values, other: Values) -> float:
    """Return Kendall's tau-b of two orders of the same things; 0 where one of them has no order."""
    tau = float(stats.kendalltau(one, other).statistic)
    return 0.0 if math.isnan(tau) else tau


@dataclass(frozen=True, slots=True)
class BootstrapInterval:
    """One estimate with its 95 % interval by the bootstrap, which need not be even."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.4f} [{self.low:.4f}, {self.high:.4f}]"


def rank_agreement(
    one: Values, other: Values, resamples: int = 2000, seed: int = 0
) -> BootstrapInterval:
    """Return Kendall's tau-b with an interval over the things that are ordered (bootstrap)."""
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    random = np.random.default_rng(seed)
    drawn = random.integers(len(a), size=(resamples, len(a)))
    low, high = np.percentile([kendall(a[of], b[of]) for of in drawn], (2.5, 97.5))
    return BootstrapInterval(kendall(a, b), float(low), float(high))


def bootstrap(
    values: Values | Sequence[Values],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> BootstrapInterval:
    """Return the mean of independent values, or a ``statistic``, with its interval.

    ``values`` are (N,) or (N, K), of which whole rows are drawn, with replacement. The statistic
    takes them, and (resamples, N) or (resamples, N, K), and gives a number for each sample.
    """
    data = np.asarray(values, dtype=np.float64)
    of = statistic or (lambda drawn: drawn.mean(axis=-1))
    random = np.random.default_rng(seed)
    drawn = of(data[random.integers(len(data), size=(resamples, len(data)))])
    low, high = np.percentile(drawn, (2.5, 97.5))
    return BootstrapInterval(float(of(data)), float(low), float(high))


def rank_sum(one: Values, other: Values) -> tuple[float, float]:
    """Return how often a value of one sample is above one of the other, and how surely.

    Ties count half; the second figure is the two-sided p of Mann and Whitney's test, by its normal
    approximation with ties.
    """
    found = stats.mannwhitneyu(one, other, method="asymptotic")
    return float(found.statistic) / (len(one) * len(other)), float(found.pvalue)


def agreement(groups: Sequence[Values] | NDArray[np.float64]) -> BootstrapInterval:
    """Return ICC(1) of groups of equal size, with an interval over groups (bootstrap)."""
    return bootstrap(groups, _agreement)


def consistency(groups: Sequence[Values] | NDArray[np.float64]) -> BootstrapInterval:
    """Return the same where the n-th values of all groups have something in common, ICC(C,1).

    What they have in common counts for nothing (Shrout and Fleiss, 1979: ICC(3,1)).
    """
    return bootstrap(groups, _consistency)


def _agreement(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ICC(1) of (..., groups, values)."""
    return _share(tables, tables.var(axis=-1, ddof=1).mean(axis=-1))


def _consistency(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ICC(C,1) of (..., groups, values)."""
    count, size = tables.shape[-2:]
    rest = tables - tables.mean(axis=-1, keepdims=True)
    rest = rest - rest.mean(axis=-2, keepdims=True)
    return _share(tables, (rest**2).sum(axis=(-2, -1)) / max(1, (count - 1) * (size - 1)))


def _share(tables: NDArray[np.float64], within: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share between groups, given the mean square within them; 0 without variance."""
    size = tables.shape[-1]
    between = size * _variance(tables.mean(axis=-1))
    total = between + (size - 1) * within
    return np.divide(between - within, total, out=np.zeros_like(total), where=total > 0)


def _variance(values: NDArray[np.float64]) -> NDArray[np.float64]:
    count = values.shape[-1]
    return values.var(axis=-1) * count / max(1, count - 1)


def running_best(values: Values) -> list[int]:
    """Return, for each value, where the best up to it is."""
    best = 0
    places = []
    for place, value in enumerate(values):
        best = place if value > values[best] else best
        places.append(best)
    return places
