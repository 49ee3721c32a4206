from __future__ import annotations

import pytest

from serving.api.reply_times import (
    MAX_RESERVE_SHARE,
    QUANTILE,
    REFRESH_S,
    SEED_S,
    WINDOW,
    WINDOW_S,
    ReplyTimes,
)
from tests.serving.fakes import FakeClock

BUDGET_S = 1.0
NUM_ABOVE = int(WINDOW * (1 - QUANTILE))
"""Number of replies of a full window that may take longer than the reserve."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def took(times: ReplyTimes, clock: FakeClock, seconds: float, count: int = 1) -> None:
    for _ in range(count):
        times.observe(clock.now - seconds, clock.now)


def reserve_s(times: ReplyTimes, clock: FakeClock) -> float:
    clock.now += REFRESH_S
    return times.reserve_s(BUDGET_S)


def test_nothing_is_known_at_first(clock: FakeClock) -> None:
    assert ReplyTimes(clock).reserve_s(BUDGET_S) == SEED_S


def test_nearly_all_replies_of_late_would_have_been_in_time(clock: FakeClock) -> None:
    times = ReplyTimes(clock)
    took(times, clock, 0.002, WINDOW - NUM_ABOVE)
    took(times, clock, 0.009, NUM_ABOVE)
    assert reserve_s(times, clock) == pytest.approx(0.002)
    took(times, clock, 0.009)
    assert reserve_s(times, clock) == pytest.approx(0.009)


def test_it_is_bounded_and_what_is_old_is_forgotten(clock: FakeClock) -> None:
    times = ReplyTimes(clock)
    took(times, clock, 1.0)
    assert reserve_s(times, clock) == MAX_RESERVE_SHARE * BUDGET_S
    clock.now += WINDOW_S
    assert reserve_s(times, clock) == SEED_S


def test_it_is_found_anew_now_and_then(clock: FakeClock) -> None:
    times = ReplyTimes(clock)
    took(times, clock, 0.009)
    assert times.reserve_s(BUDGET_S) == SEED_S
    assert reserve_s(times, clock) == pytest.approx(0.009)


def test_a_timer_that_is_early_counts_as_in_time(clock: FakeClock) -> None:
    times = ReplyTimes(clock)
    took(times, clock, -0.5)
    assert reserve_s(times, clock) == SEED_S
