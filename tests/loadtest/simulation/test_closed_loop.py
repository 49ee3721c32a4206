"""A client that sends its next image when it has the answer to the last."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loadtest.policies.named import deadline
from loadtest.simulation.profiles import load_profile
from loadtest.simulation.simulator import ServiceTimes, SimulatedOutcome, SimulatedServer
from serving.core.latency import TAIL_QUANTILE, LatencyModel
from serving.core.request import Request

NUM_REQUESTS = 100


def closed_loop(profile_name: str, slowdown: float, budget_s: float) -> list[SimulatedOutcome]:
    """On an engine that is so many times slower than its profile."""
    profile = load_profile(profile_name)
    outcomes: list[SimulatedOutcome] = []
    policy = deadline(profile.segments, profile.ladder, profile.batch_sizes, 4)
    service = ServiceTimes(profile.latency, 0.01, np.random.default_rng(0))
    exact = service.seconds
    service.seconds = lambda *run: slowdown * exact(*run)
    server = SimulatedServer(policy, LatencyModel(profile.latency), service, outcomes.append)
    now_s = 0.0
    for number in range(NUM_REQUESTS):
        server.advance(now_s)
        server.submit(Request(number, now_s, now_s + budget_s, 1, profile.ladder.num_exits))
        server.advance(math.inf)
        now_s = outcomes[-1].finished_s + 1e-4
    return outcomes


@pytest.mark.parametrize("profile", ["wide", "bccd", "cpu-lite", "three-by-three"])
@pytest.mark.parametrize("slowdown", [1.0, 2.0])
def test_depth_follows_the_budget_however_slow_the_engine_is(profile: str, slowdown: float):
    """Nobody else is kept waiting, so that there is nothing to save time for."""
    model = load_profile(profile)
    for point in model.ladder.points:
        budget_s = 1.6 * slowdown * model.quickest_s(point)
        outcomes = closed_loop(profile, slowdown, budget_s)[40:]  # it knows the engine by then
        # A run exceeds what plans count with as seldom as that; of a segment that has not run here
        # they go by a profile and by what others have exceeded theirs by.
        assert np.mean([outcome.in_time for outcome in outcomes]) >= TAIL_QUANTILE
        # Points that are no better than a quicker one are nobody's.
        quicker = [p for p in model.ladder.points if model.quickest_s(p) <= model.quickest_s(point)]
        useful = max(map(model.ladder.ap, quicker)) - 0.005
        assert np.mean([model.ladder.answer_ap(o.points) for o in outcomes]) >= useful
