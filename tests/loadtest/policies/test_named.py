"""The table of policies: every one of them serves, by the rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from loadtest.policies.named import POLICIES, parse_policy
from loadtest.simulation.simulator import ServiceTimes, SimulatedOutcome, SimulatedServer, simulate
from serving.core import segment as segments
from serving.core.ladder import Ladder
from serving.core.latency import LatencyModel
from serving.core.policy import Decision, Run, ShedRequests, Snapshot
from serving.core.request import Request
from serving.core.segment import Segment
from tests.serving.world import ACCURACY, NUM_EXITS, exact_profile

SIZES = (1, 2, 4)
LADDER = Ladder.of_exits(ACCURACY)
UNITS, FUSED = segments.unit_segments(NUM_EXITS), segments.fused_segments(NUM_EXITS)
EVERY = (*UNITS, *FUSED)
NAMES = (*POLICIES, "fixed:3", "nexus:2", "aimd:4")
LEARNS_FROM_LATENESS = ("aimd:1", "aimd:4", "aimd:max")
NEEDS_UNITS = ("alert-staged",)
NEEDS_EITHER = ("deadline",)


def random_requests(seed: int, mean_gap_s: float, *, mixed_depths: bool) -> list[Request]:
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(mean_gap_s, 200)).tolist()
    budgets = rng.uniform(0.005, 0.12, 200).tolist()
    bounds = np.sort(rng.integers(1, NUM_EXITS + 1, (200, 2)), axis=1).tolist()
    return [
        Request(id, at, at + budget, *(depths if mixed_depths else (1, NUM_EXITS)))
        for id, (at, budget, depths) in enumerate(zip(arrivals, budgets, bounds, strict=True))
    ]


def play(
    name: str, requests: Sequence[Request], available: Sequence[Segment] = EVERY
) -> list[SimulatedOutcome]:
    """How all of them ended, with run times that are exactly as predicted. Checks that each
    decision can be carried out."""

    def check(snapshot: Snapshot, decision: Decision) -> None:
        match decision:
            case Run():
                assert 0 < len(decision.requests) <= SIZES[-1]
                assert len(set(decision.requests)) == len(decision.requests)
                assert decision.segment in available
                if decision.cohort is None:
                    assert set(decision.requests) <= set(snapshot.waiting)
                    assert decision.segment.start == segments.IMAGE
            case ShedRequests():
                assert decision.requests

    profile = exact_profile(sizes=SIZES)
    outcomes: list[SimulatedOutcome] = []
    server = SimulatedServer(
        parse_policy(name)(available, LADDER, SIZES, 4),
        LatencyModel(profile),
        ServiceTimes(profile, 0.0, np.random.default_rng(0)),
        outcomes.append,
        decided=check,
    )
    simulate(requests, server)
    return outcomes


@pytest.mark.parametrize("mixed_depths", [False, True])
@pytest.mark.parametrize("mean_gap_s", [0.05, 0.012, 0.003])
@pytest.mark.parametrize("name", NAMES)
def test_everybody_ends_once_and_nobody_is_answered_late_or_at_a_wrong_depth(
    name: str, mean_gap_s: float, mixed_depths: bool
) -> None:
    requests = random_requests(1, mean_gap_s, mixed_depths=mixed_depths)
    outcomes = play(name, requests)
    assert Counter(o.request.id for o in outcomes) == Counter(range(len(requests)))
    answered = [o for o in outcomes if o.depth > 0]
    assert all(o.request.min_depth <= o.depth <= o.request.max_depth for o in answered)
    assert all(o.reason is not None for o in outcomes if o.depth == 0)
    assert sum(o.in_time for o in outcomes) > 5
    if name not in LEARNS_FROM_LATENESS:
        assert all(o.finished_s <= o.request.deadline_s + 1e-6 for o in answered)


@pytest.mark.parametrize("name", NAMES)
def test_an_idle_server_answers_whoever_has_time_for_full_depth(name: str) -> None:
    requests = [Request(i, float(i), i + 0.5, 1, NUM_EXITS) for i in range(20)]
    outcomes = play(name, requests)
    assert all(o.in_time for o in outcomes)
    family, _, depth = name.partition(":")
    expected = int(depth) if depth.isdecimal() else NUM_EXITS
    assert {o.depth for o in outcomes} == {expected}, family


@pytest.mark.parametrize("name", NAMES)
def test_what_a_runner_must_have(name: str) -> None:
    requests = random_requests(2, 0.02, mixed_depths=True)
    for available, suits in [
        (FUSED, name not in NEEDS_UNITS),
        (UNITS, name in NEEDS_UNITS or name in NEEDS_EITHER),
    ]:
        if suits:
            assert any(o.in_time for o in play(name, requests, available))
        else:
            with pytest.raises(ValueError, match="the runner lacks "):
                play(name, requests, available)


@pytest.mark.parametrize("text", ["", "fixed", "fixed:", "fixed:0", "fixed:-1", "best", "greedy:2"])
def test_unknown_names_are_answered_with_all_names(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a policy: .*deadline, .*fixed:POINT, .*max for the"):
        parse_policy(text)


def test_an_exit_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="there are operating points 1 to 5, not 6"):
        parse_policy("fixed:6")(EVERY, LADDER, SIZES, 4)
