"""The trend of something that is sampled over time: its slope, with an interval.

The slope is Theil's and Sen's: the median of the slopes between all pairs of points. A few samples
that stand out do not move it, and it asks nothing of how values are distributed. Sen (1968),
"Estimates of the regression coefficient based on Kendall's tau", has the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

NUM_STRETCHES = 24
"""Number of stretches of equal length that samples are put into.

Samples that follow each other are alike, and would make an interval by far too narrow; the medians
of long stretches are nearly independent.
"""
Z95 = 1.959964
"""Quantile of the normal distribution for an interval of 95 %."""
SECONDS_AN_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Trend:
    """The slope of a value, in its unit per hour, and the ends of its 95 % interval."""

    slope: float
    low: float
    high: float


def trend(at_s: Sequence[float], values: Sequence[float]) -> Trend:
    """Return the trend of ``values``, sampled at instants in seconds that only grow.

    Raises ValueError for samples in fewer than three stretches.
    """
    points = _medians(at_s, values)
    if len(points) < 3:
        raise ValueError(f"{len(points)} stretches with samples are too few for a trend")
    slopes = sorted(
        SECONDS_AN_HOUR * (then - now) / (then_s - now_s)
        for (now_s, now), (then_s, then) in combinations(points, 2)
    )
    num_points = len(points)
    # Half of the interval's width, in ranks: Kendall's statistic is nearly normal.
    variance = num_points * (num_points - 1) * (2 * num_points + 5) / 18
    half = Z95 * math.sqrt(variance) / 2
    low = max(0, math.floor(len(slopes) / 2 - half) - 1)
    high = min(len(slopes) - 1, math.ceil(len(slopes) / 2 + half))
    return Trend(median(slopes), slopes[low], slopes[high])


def _medians(at_s: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """Return the median instant and value of each stretch with samples."""
    if not at_s:
        return []
    start_s, length_s = at_s[0], (at_s[-1] - at_s[0]) / NUM_STRETCHES
    stretches: dict[int, list[tuple[float, float]]] = {}
    for instant_s, value in zip(at_s, values, strict=True):
        number = int((instant_s - start_s) / length_s) if length_s else 0
        # The last instant is the end of the last stretch.
        stretches.setdefault(min(number, NUM_STRETCHES - 1), []).append((instant_s, value))
    return [
        (median(instant_s for instant_s, _ in pairs), median(value for _, value in pairs))
        for _, pairs in sorted(stretches.items())
    ]
