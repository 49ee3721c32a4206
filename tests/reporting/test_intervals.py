"""Intervals against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from reporting.intervals import Interval


def test_an_interval_is_students() -> None:
    # Mean 3, standard deviation sqrt(2.5), t of 4 degrees of freedom 2.776.
    interval = Interval.of([1, 2, 3, 4, 5])
    assert interval.mean == 3
    assert interval.half == pytest.approx(2.776 * math.sqrt(2.5 / 5))
    assert Interval.of([7.0]) == Interval(7.0, math.inf)
    assert Interval.of([7.0]).to_json() == {"mean": 7.0, "half": None}
    assert Interval.of([1.0] * 50) == Interval(1.0, 0.0)
    with pytest.raises(ValueError, match="no values"):
        Interval.of([])
