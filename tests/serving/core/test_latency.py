import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core import segment as segments
from serving.core.latency import (
    EXCESS_WINDOW,
    MAX_OWN_EXCESS,
    MIN_BASE_SAMPLES,
    MIN_TAIL_SAMPLES,
    NO_HOLD_UPS,
    LatencyModel,
)
from serving.core.latency_profile import LatencyProfile, Quantiles
from serving.core.quantiles import quantile
from serving.core.segment import Segment

PROFILE = LatencyProfile(
    runtime="test 1",
    machine="a desk",
    date="2026-01-01",
    threads=2,
    table={
        (segments.STEM, 1): Quantiles(0.010, 0.011, 0.012),
        (segments.STEM, 4): Quantiles(0.030, 0.031, 0.034),
        (segments.stack(1), 1): Quantiles(0.004, 0.0042, 0.005),
        (segments.head(1), 1): Quantiles(0.003, 0.0031, 0.004),
    },
)


def test_profile_round_trips_through_json():
    assert LatencyProfile.from_json(json.loads(json.dumps(PROFILE.to_json()))) == PROFILE


def test_quantile_is_an_observed_value():
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([3.0, 1.0, 2.0], 1.0) == 3.0
    assert quantile([3.0], 0.0) == 3.0


def test_starts_from_the_profile():
    model = LatencyModel(PROFILE)
    assert model.typical(segments.STEM, 1) == 0.010
    assert model.predict(segments.STEM, 1) == 0.012
    assert model.slowdown == 1.0


def test_batches_between_and_beyond_the_measured_ones():
    model = LatencyModel(PROFILE)
    assert model.typical(segments.STEM, 2) == pytest.approx(0.030), "as the next larger one"
    assert model.typical(segments.STEM, 8) == pytest.approx(0.060)
    assert model.typical(segments.stack(1), 3) == pytest.approx(0.012)


def test_an_unknown_segment_is_an_error_that_names_it():
    model = LatencyModel(PROFILE)
    with pytest.raises(KeyError, match="head_2"):
        model.predict(segments.head(2), 1)


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_a_profile_from_another_machine_is_forgotten_after_a_few_runs(factor):
    """Two dozen runs of some segments correct all of them, also those that were not run."""
    model = LatencyModel(PROFILE)
    for _ in range(12):
        model.observe(segments.STEM, 1, 0.010 * factor)
        model.observe(segments.stack(1), 1, 0.004 * factor)
    assert model.slowdown == pytest.approx(factor, rel=0.05)
    assert model.typical(segments.STEM, 1) == pytest.approx(0.010 * factor, rel=0.05)
    assert model.predict(segments.head(1), 1) == pytest.approx(0.004 * factor, rel=0.05)


def test_follows_a_slowdown_and_the_way_back():
    model = LatencyModel(PROFILE)
    for factor in (1.0, 3.0, 1.0):
        for _ in range(60):
            model.observe(segments.STEM, 1, 0.010 * factor)
        assert model.typical(segments.STEM, 1) == pytest.approx(0.010 * factor, rel=0.05)
        assert model.typical(segments.head(1), 1) == pytest.approx(0.003 * factor, rel=0.05)


def test_one_hiccup_does_not_move_the_typical_time():
    model = LatencyModel(PROFILE)
    for seconds in (0.010, 0.010, 0.200, 0.010, 0.010):
        model.observe(segments.STEM, 1, seconds)
    assert model.typical(segments.STEM, 1) == pytest.approx(0.010)


def test_learns_without_any_profile():
    model = LatencyModel(None)
    for _ in range(5):
        model.observe(segments.STEM, 1, 0.020)
    assert model.predict(segments.STEM, 1) == pytest.approx(0.020)


@given(st.lists(st.floats(1e-5, 10.0), min_size=1, max_size=200))
def test_the_tail_is_never_below_the_median(seconds):
    model = LatencyModel(None)
    for value in seconds:
        model.observe(segments.STEM, 1, value)
    assert model.predict(segments.STEM, 1) >= model.typical(segments.STEM, 1) > 0


def test_the_tail_of_what_has_not_run_here_is_that_of_what_has():
    """In the profile it has a hiccup; what ran exceeded its typical time by a ms at most."""
    table = {**PROFILE.table, (segments.STEM, 4): Quantiles(0.030, 0.031, 0.300)}
    model = LatencyModel(replace(PROFILE, table=table))
    assert model.predict(segments.STEM, 4) == 0.300
    for run in range(MIN_BASE_SAMPLES + MIN_TAIL_SAMPLES):
        model.observe(segments.STEM, 1, 0.011 if run % 10 == 0 else 0.010)
    assert model.predict(segments.STEM, 4) == pytest.approx(0.030 + 0.001)


# ---- the odds to be late ------------------------------------------------------------------------


def observed(runs: list[float], segment: Segment = segments.STEM) -> LatencyModel:
    model = LatencyModel(None)
    for seconds in runs:
        model.observe(segment, 1, seconds)
    return model


def test_the_odds_to_be_late_are_counted():
    """Of the first runs nothing is known that they could be compared with."""
    runs = [0.010] * (MIN_BASE_SAMPLES + 196) + [0.050, 0.030, 0.050, 0.010]
    model = observed(runs)
    times = model.times(segments.STEM, 1)
    seen = len(runs) - MIN_BASE_SAMPLES
    for limit_s, late in ((0.020, 3), (0.040, 2), (0.060, 0)):
        assert model.late_odds(times, limit_s) == pytest.approx((late + 1) / (seen + 2))


def test_what_was_never_seen_may_come_and_is_likelier_where_little_was_seen():
    few, many = observed([0.010] * 20), observed([0.010] * 400)
    odds = [model.late_odds((0.01, 0.01), 1.0) for model in (LatencyModel(None), few, many)]
    assert odds[0] == odds[1] == 1 / (MIN_TAIL_SAMPLES + 2)
    assert odds[2] == 1 / (EXCESS_WINDOW + 2)


def test_of_factor_and_seconds_the_rarer_excess_counts():
    """10 ms were exceeded by 40: a run of 1 ms by as much is no 5 times itself, one of 100 ms is
    not likely to take 400 more."""
    model = observed([0.010] * 100 + [0.050] * 2)
    seldom = model.late_odds((0.1, 0.1), 0.200)
    assert seldom < model.late_odds((0.1, 0.1), 0.130)
    assert model.late_odds((0.001, 0.001), 0.030) < model.late_odds((0.001, 0.001), 0.003)


# ---- the tail of what is seldom run -------------------------------------------------------------

SELDOM, OFTEN = segments.stack(1), segments.STEM
TYPICAL_S, HICCUP_S = 0.006, 0.054


def warmed_up(*seconds: float) -> LatencyModel:
    """A model of an engine whose warm-up ran one segment so, and has just ended."""
    return observed([*seconds], SELDOM)


def test_one_hiccup_of_the_warm_up_is_no_tail():
    model = warmed_up(*[TYPICAL_S] * MIN_BASE_SAMPLES, HICCUP_S, TYPICAL_S)
    assert model.predict(SELDOM, 1) == pytest.approx(TYPICAL_S)


@pytest.mark.parametrize("num_hiccups", [1, 2, 3])
def test_hiccups_of_the_warm_up_age_as_others_run(num_hiccups):
    """What a seldom run segment is predicted to take is what the others say of this engine."""
    model = warmed_up(*[TYPICAL_S] * MIN_BASE_SAMPLES, *[HICCUP_S] * num_hiccups)
    for _ in range(EXCESS_WINDOW // 10):
        for ratio in (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.2):
            model.observe(OFTEN, 1, 0.010 * ratio)
    assert model.predict(SELDOM, 1) == pytest.approx(1.2 * TYPICAL_S)
    for _ in range(EXCESS_WINDOW):
        model.observe(OFTEN, 1, 0.030)
    assert model.slowdown == pytest.approx(3.0)
    assert model.predict(SELDOM, 1) == pytest.approx(3.0 * TYPICAL_S)


def test_what_is_run_often_has_a_tail_of_its_own():
    model = observed([*[TYPICAL_S] * 9, HICCUP_S] * MIN_TAIL_SAMPLES, SELDOM)
    for _ in range(EXCESS_WINDOW):
        model.observe(OFTEN, 1, 0.010)
    assert model.predict(SELDOM, 1) == pytest.approx(HICCUP_S)


@pytest.mark.parametrize(
    ("num_runs", "num_held_up", "is_its_own"), [(40, 2, False), (120, 6, False), (120, 12, True)]
)
def test_a_few_hold_ups_are_no_tail_where_others_have_none(num_runs, num_held_up, is_its_own):
    """Else a batch that was held up twice would look too slow to be ever run again."""
    gap = num_runs // num_held_up
    model = observed([*[TYPICAL_S] * (gap - 1), HICCUP_S] * num_held_up, SELDOM)
    for _ in range(EXCESS_WINDOW // 10 + 1):
        for ratio in (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.2):
            model.observe(OFTEN, 1, 0.010 * ratio)
    bound_s = TYPICAL_S + MAX_OWN_EXCESS * 0.002
    assert bound_s < HICCUP_S
    assert model.predict(SELDOM, 1) == pytest.approx(HICCUP_S if is_its_own else bound_s)


def test_runs_that_were_held_up_are_told_of_while_they_are_recent():
    model = LatencyModel(None)
    for _ in range(10):
        model.observe(segments.STEM, 1, 0.004)
    assert model.hold_ups == NO_HOLD_UPS
    model.observe(segments.STEM, 1, 0.004 + 0.050)
    model.observe(segments.STEM, 1, 0.004 + 0.030)
    lengths_s, run_s = model.hold_ups
    assert lengths_s == pytest.approx((0.030, 0.050))
    assert run_s == pytest.approx(0.054 + 0.034 + 0.004 * (10 - MIN_BASE_SAMPLES))
    for _ in range(EXCESS_WINDOW):
        model.observe(segments.STEM, 1, 0.004)
    assert model.hold_ups == NO_HOLD_UPS
