"""The simulator beside a live run."""

import numpy as np
import pytest

from loadtest.load.open_loop import Schedule
from loadtest.simulation.profiles import load_profile
from loadtest.studies.live.simulation import STEPS, ReplaySettings, simulate_schedule

PROFILE = load_profile("cpu-lite")
FULL_S = PROFILE.full_depth_s
TWIN = ReplaySettings(PROFILE, reserve_s=0.2 * FULL_S, slowdown=2.0)


def schedule(count: int, gap_s: float, budget_s: float) -> Schedule:
    return Schedule(
        gap_s * np.arange(count, dtype=np.float64),
        np.full(count, budget_s),
        np.zeros(count, dtype=np.int64),
    )


def test_an_idle_engine_gives_everybody_everything() -> None:
    twin = TWIN.steps()["engine"]
    found = simulate_schedule(schedule(50, 10 * FULL_S, 4 * FULL_S), "fixed:max", twin, 0)
    assert found.attainment == 1.0
    assert found.mean_depth == PROFILE.ladder.num_exits
    assert found.in_time_accuracy == pytest.approx(PROFILE.ladder.ap(PROFILE.best_point))


def test_each_step_takes_away_what_it_is_named_after() -> None:
    steps = TWIN.steps()
    assert tuple(steps) == STEPS

    def attained(budget_s: float) -> list[float]:
        """After each step."""
        requests = schedule(50, 10 * FULL_S, budget_s)
        found = [simulate_schedule(requests, "fixed:max", twin, 0) for twin in steps.values()]
        return [one.attainment for one in found]

    # What the gateway keeps leaves .95 of the time that an idle engine takes, and then 1.6 of it,
    # which is not enough where segments take twice as long.
    assert attained(1.15 * FULL_S) == [pytest.approx(1.0, abs=0.05), 0.0, 0.0]
    assert attained(1.8 * FULL_S) == [1.0, 1.0, 0.0]


def test_nobody_in_time_has_no_depth() -> None:
    found = simulate_schedule(schedule(5, FULL_S, 1e-4), "deadline", TWIN, 0)
    assert (found.attainment, found.in_time_accuracy, found.mean_depth) == (0.0, 0.0, None)
