"""Intervals against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from reporting.intervals import MeanInterval


def test_an_interval_is_students() -> None:
    # Mean 3, standard deviation sqrt(2.5), t of 4 degrees of freedom 2.776.
    interval = MeanInterval.of([1, 2, 3, 4, 5])
    assert interval.mean == 3
    assert interval.half == pytest.approx(2.776 * math.sqrt(2.5 / 5))
    assert MeanInterval.of([7.0]) == MeanInterval(7.0, math.inf)
    assert MeanInterval.of([7.0]).to_json() == {"mean": 7.0, "half": None}
    assert MeanInterval.of([1.0] * 50) == MeanInterval(1.0, 0.0)
    with pytest.raises(ValueError, match="no values"):
        MeanInterval.of([])
