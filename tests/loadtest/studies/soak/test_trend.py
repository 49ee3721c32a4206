"""Slopes and their intervals, where what is right is known."""

from __future__ import annotations

import random
from statistics import median

import pytest

from loadtest.studies.soak.trend import NUM_STRETCHES, SECONDS_AN_HOUR, trend

AT_S = [5.0 * number for number in range(720)]


def noisy(slope: float, seed: int) -> list[float]:
    """Values that grow by ``slope`` an hour, with noise in which neighbours are alike."""
    rng, noise, values = random.Random(seed), 0.0, []
    for at_s in AT_S:
        noise = 0.8 * noise + rng.gauss(0.0, 1.0)
        values.append(100.0 + slope * at_s / SECONDS_AN_HOUR + noise)
    return values


def test_a_line_has_its_slope() -> None:
    found = trend(AT_S, [7.0 + 2.0 * at_s / SECONDS_AN_HOUR for at_s in AT_S])
    assert (found.slope, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_what_stays_has_none() -> None:
    found = trend(AT_S, [3.0] * len(AT_S))
    assert (found.slope, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_few_samples_that_stand_out_move_nothing() -> None:
    values = [3.0] * len(AT_S)
    values[-3:] = [1e9] * 3
    assert trend(AT_S, values).slope == 0.0


@pytest.mark.parametrize("slope", [0.0, 1.5, -4.0])
def test_the_interval_holds_the_slope_as_often_as_it_says(slope: float) -> None:
    found = [trend(AT_S, noisy(slope, seed)) for seed in range(200)]
    covered = sum(each.low <= slope <= each.high for each in found) / len(found)
    assert covered >= 0.9
    assert all(each.low <= each.slope <= each.high for each in found)
    assert median(each.high - each.low for each in found) < 4.0, "it says something"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_samples_have_no_trend(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} stretches"):
        trend(AT_S[:count], [1.0] * count)


def test_the_last_sample_is_of_the_last_stretch() -> None:
    at_s = [float(number) for number in range(NUM_STRETCHES + 1)]
    assert trend(at_s, at_s).slope == pytest.approx(SECONDS_AN_HOUR)
