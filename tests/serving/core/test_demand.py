"""What is measured of arrivals: literal series, and running sums against sums over the window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.demand import (
    MAX_IDLE_BUDGETS,
    MIN_ARRIVALS,
    NUM_BUDGETS,
    UNKNOWN,
    WINDOW,
    Demand,
    DemandMeter,
)


def measured(instants: list[float], budgets: list[float], now_s: float) -> Demand:
    meter = DemandMeter()
    for instant_s, budget_s in zip(instants, budgets, strict=True):
        meter.arrived(instant_s, budget_s, True)
    return meter.measure(now_s)


def recomputed(instants: list[float], budgets: list[float], now_s: float) -> Demand:
    """As ``DemandMeter`` has it, over the window at once."""

    def silence(end: int, until_s: float, size: int) -> float:
        """After the arrival before ``end``, which ``size - 1`` others are remembered with."""
        longest_s = max(budgets[max(0, end - size) : end])
        return min(until_s - instants[end - 1], MAX_IDLE_BUDGETS * longest_s)

    ends = range(max(1, len(instants) - WINDOW + 1), len(instants))
    gaps = np.array([silence(end, instants[end], WINDOW - 1) for end in ends])
    if (last_s := silence(len(instants), now_s, WINDOW)) > gaps.mean():
        gaps = np.append(gaps, last_s)
    budgets = budgets[-WINDOW:]
    mean_s = float(gaps.mean())
    ordered = sorted(budgets)
    middles = [int((i + 0.5) * len(ordered) / NUM_BUDGETS) for i in range(NUM_BUDGETS)]
    budgets_s = tuple(ordered[middle] for middle in middles)
    return Demand(1 / mean_s, float(gaps.var()) / mean_s**2, budgets_s)


def close(demand: Demand) -> object:
    return pytest.approx(values(demand), rel=1e-6, abs=1e-6)


def values(demand: Demand) -> tuple[float, ...]:
    return demand.rate_hz, demand.cv2, *demand.budgets_s


@pytest.mark.parametrize("count", range(MIN_ARRIVALS))
def test_few_arrivals_tell_nothing(count):
    assert measured([0.1 * i for i in range(count)], [1.0] * count, 1.0) is UNKNOWN


@pytest.mark.parametrize(
    ("gaps", "rate_hz", "cv2"),
    [
        ([0.1] * 20, 10.0, 0.0),
        ([0.1, 0.3] * 10, 5.0, 0.25),  # mean .2, deviation .1
        ([0.0, 0.0, 0.0, 0.4] * 5, 10.0, 3.0),  # in groups of four
        ([0.5] * 100 + [0.1] * (WINDOW - 1), 10.0, 0.0),  # long ago does not count
    ],
)
def test_rate_and_unevenness(gaps, rate_hz, cv2):
    instants = np.cumsum([0.0, *gaps]).tolist()
    demand = measured(instants, [0.2] * len(instants), instants[-1])
    assert values(demand) == pytest.approx((rate_hz, cv2, *[0.2] * NUM_BUDGETS))


def test_a_poisson_process_has_a_variation_near_one():
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(200):
        instants = np.cumsum(rng.exponential(0.1, WINDOW)).tolist()
        seen.append(measured(instants, [0.2] * WINDOW, instants[-1]).cv2)
    assert np.mean(seen) == pytest.approx(1.0, abs=0.1)


def test_budgets_are_those_in_the_window_each_for_its_share():
    instants = [0.1 * i for i in range(2 * WINDOW)]
    budgets = [9.0] * WINDOW + [0.1, 0.3] * (WINDOW // 2)
    demand = measured(instants, budgets, instants[-1])
    assert demand.budgets_s == (0.1,) * 3 + (0.3,) * 3
    assert demand.budget_s == pytest.approx(0.2)


def test_silence_counts_once_it_is_longer_than_the_usual_gap():
    meter = DemandMeter()
    for i in range(11):
        meter.arrived(i * 0.1, 1.0, True)
    for silence_s, rate_hz in (
        (0.0, 10.0),
        (0.099, 10.0),
        (0.2, 11 / 1.2),
        (7.0, 11 / 8),
        (MAX_IDLE_BUDGETS * 1.0, 11 / 9),
        (1e6, 11 / 9),  # no more than so many budgets
    ):
        assert meter.measure(1.0 + silence_s).rate_hz == pytest.approx(rate_hz)
    assert meter.measure(1.0).rate_hz == pytest.approx(10.0), "measuring changes nothing"


def test_the_rate_falls_with_silence_as_far_as_budgets_reach():
    meter = DemandMeter()
    for i in range(MIN_ARRIVALS):
        meter.arrived(i * 0.01, 1.0, True)
    rates = [meter.measure(0.07 + silence_s).rate_hz for silence_s in np.geomspace(0.001, 1e6)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(MIN_ARRIVALS / (0.07 + MAX_IDLE_BUDGETS))


def test_a_lull_does_not_hide_how_fast_they_come_after_it():
    meter = DemandMeter()
    for start_s in (0.0, 3600.0):
        for i in range(WINDOW // 2):
            meter.arrived(start_s + i * 0.01, 0.05, True)
    now_s = 3600.0 + 0.01 * (WINDOW // 2 - 1)
    assert meter.measure(now_s).rate_hz == pytest.approx(
        (WINDOW - 1) / (0.62 + MAX_IDLE_BUDGETS * 0.05)
    )


def test_who_comes_too_late_for_anything_does_not_turn_time_back():
    meter = DemandMeter()
    for i in range(MIN_ARRIVALS):
        meter.arrived(i * 0.01, -1.0, True)
    assert meter.measure(1.0) is UNKNOWN


def test_all_at_one_instant_is_no_rate_until_time_has_passed():
    meter = DemandMeter()
    for _ in range(MIN_ARRIVALS):
        meter.arrived(5.0, 1.0, True)
    assert meter.measure(5.0) is UNKNOWN
    assert meter.measure(6.0).rate_hz == pytest.approx(MIN_ARRIVALS)


@given(
    gaps=st.lists(st.floats(1e-4, 10.0), min_size=MIN_ARRIVALS, max_size=3 * WINDOW),
    start_s=st.sampled_from([0.0, 1e6]),
    budget_s=st.floats(1e-3, 10.0),
    silence_s=st.floats(0, 100.0),
)
def test_the_running_sums_are_those_over_the_window(gaps, start_s, budget_s, silence_s):
    instants = (start_s + np.cumsum(gaps)).tolist()
    budgets = [budget_s * (1 + i % 7) for i in range(len(gaps))]
    now_s = instants[-1] + silence_s
    assert values(measured(instants, budgets, now_s)) == close(recomputed(instants, budgets, now_s))


def test_the_sums_do_not_drift():
    """Long gaps that have left the window leave nothing of themselves in it."""
    rng = np.random.default_rng(1)
    gaps = rng.exponential(1.0, 30_000) * rng.choice([1e-3, 1.0, 300.0], 30_000)
    gaps[-WINDOW:] = 0.001
    instants = np.cumsum(gaps).tolist()
    budgets = rng.uniform(0.01, 10.0, len(gaps)).tolist()
    demand = measured(instants, budgets, instants[-1])
    assert values(demand) == close(recomputed(instants, budgets, instants[-1]))


@pytest.mark.parametrize(
    ("busy", "share"),
    [
        ([False] * 8, 0.0),
        ([False] * 64, 0.0),
        ([False] * 61 + [True] * 3, (3 + 2 * 3**0.5) / 64),
        ([True] * 64 + [False] * 64, 0.0),  # the former have left the window
        ([True] * 48 + [False] * 16, (48 + 2 * 48**0.5) / 64),
        ([True] * 64, 1.0),
    ],
)
def test_how_many_may_have_found_the_engine_at_work(busy: list[bool], share: float):
    """What was seen and two standard deviations of a Poisson count."""
    meter = DemandMeter()
    for number, each in enumerate(busy):
        meter.arrived(0.01 * number, 0.1, each)
    assert meter.measure(0.01 * len(busy)).busy_share == pytest.approx(share)
