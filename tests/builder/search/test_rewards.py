"""Rewards: what they count, and that a slow child is not excused."""

from __future__ import annotations

import numpy as np
import pytest

from builder.search import in_time
from builder.search.controls import reference
from builder.search.latency_table import synthetic_table
from builder.search.rewards import NUM_DEADLINES, REWARDS, Anytime
from builder.search.space import SPACES

LEVELS = SPACES["nas-fpn"].levels
TABLE, REFERENCE = synthetic_table(), reference(LEVELS)
TIMES = TABLE.exits(REFERENCE, 3)
APS = (0.40, 0.45, 0.48)


@pytest.fixture(autouse=True)
def few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_time, "NUM_REQUESTS", 150)


every_reward = pytest.mark.parametrize("name", REWARDS)
those_of_time = pytest.mark.parametrize("name", ["anytime", "in-time"])


def test_anytime_is_the_area_under_the_staircase() -> None:
    reward = Anytime([1.0, 2.0, 3.0, 4.0])
    assert reward([0.4, 0.6], [1.5, 3.0]) == pytest.approx((0 + 0.4 + 0.6 + 0.6) / 4)


def test_anytime_keeps_the_better_of_the_exits_that_are_reached() -> None:
    reward = Anytime([1.0, 2.0])
    assert reward([0.5, 0.3], [1.0, 2.0]) == pytest.approx(0.5)


def test_deadlines_are_about_the_exits_of_the_reference() -> None:
    low, high, count = REWARDS["anytime"](TABLE, REFERENCE, 3).describe()["deadlines"]
    assert (low, high) == (pytest.approx(0.9 * TIMES[0]), pytest.approx(1.2 * TIMES[-1]))
    assert count == NUM_DEADLINES


@those_of_time
def test_a_slow_child_is_worth_less(name: str) -> None:
    reward = REWARDS[name](TABLE, REFERENCE, 3)
    rewards = [reward(APS, tuple(factor * t for t in TIMES)) for factor in (0.8, 1.0, 1.3)]
    assert rewards == sorted(rewards, reverse=True)
    assert rewards[0] > rewards[-1] + 0.01


def test_the_reward_of_the_paper_does_not_see_time() -> None:
    reward = REWARDS["ap"](TABLE, REFERENCE, 3)
    assert reward(APS, TIMES) == reward(APS, tuple(2 * t for t in TIMES)) == APS[-1]


@every_reward
def test_an_accurate_child_is_worth_more(name: str) -> None:
    reward = REWARDS[name](TABLE, REFERENCE, 3)
    better = tuple(np.add(APS, 0.05))
    assert reward(better, TIMES) > reward(APS, TIMES) + 0.02


@every_reward
def test_the_same_child_is_worth_the_same(name: str) -> None:
    one, other = (REWARDS[name](TABLE, REFERENCE, 3) for _ in range(2))
    assert one(APS, TIMES) == one(APS, TIMES) == other(APS, TIMES)
    assert one.describe() == other.describe()
    assert one.describe()["name"] == name


def test_rates_and_budgets_are_those_of_the_reference() -> None:
    described = REWARDS["in-time"](TABLE, REFERENCE, 3).describe()
    capacity_hz = 1e3 / TIMES[0]
    assert described["rates_hz"] == pytest.approx(
        [0.3 * capacity_hz, 0.6 * capacity_hz, 0.9 * capacity_hz]
    )
    assert described["budgets_s"][0] == pytest.approx(1.2 * TIMES[-1] / 1e3)


def test_of_one_exit_too() -> None:
    for name, make in REWARDS.items():
        reward = make(TABLE, REFERENCE, 1)
        assert 0 < reward((0.4,), TIMES[:1]) <= 0.4, name


def test_accuracy_in_time_is_told_apart_by_load_and_arrivals() -> None:
    reward = in_time.InTime(TIMES, TABLE.stem, TABLE.head, (0.2, 2.0), ("poisson", "constant"))
    found = reward.by_condition(APS, TIMES)
    assert list(found) == ["0.2, poisson", "0.2, constant", "2, poisson", "2, constant"]
    assert found["0.2, poisson"] > found["2, poisson"]
    assert reward(APS, TIMES) == pytest.approx(np.mean(list(found.values())))
    assert len(reward.describe()["rates_hz"]) == 2
