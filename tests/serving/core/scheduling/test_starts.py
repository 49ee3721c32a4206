"""Where waiting requests start: parts of batches, and points that are not worth their time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from loadtest.simulation.simulator import (
    ServiceTimes,
    SimulatedOutcome,
    SimulatedServer,
    simulate,
)
from serving.core import segment as segments
from serving.core.demand import UNKNOWN, Demand
from serving.core.latency import LatencyModel
from serving.core.latency_profile import LatencyProfile, Quantiles
from serving.core.policy import Decision, Run, Snapshot
from serving.core.request import Request
from serving.core.scheduling.deadline_policy import DeadlinePolicy

EXITS = tuple(segments.fused_exit(1).of(model) for model in range(3))
FLAT, STEEP = (0.40, 0.46, 0.52), (0.12, 0.30, 0.43)
SECONDS = (0.005, 0.010, 0.020)
FOUR = 2.5
"""Times that four take as long as one."""


def profile(four: float) -> LatencyProfile:
    table = {
        (segment, batch): Quantiles(*[one_s * factor] * 3)
        for segment, one_s in zip(EXITS, SECONDS, strict=True)
        for batch, factor in ((1, 1.0), (4, four))
    }
    return LatencyProfile("fake 1", "nowhere", "2026-01-01", 1, table)


def policy(ap: Sequence[float]) -> DeadlinePolicy:
    first, *others = [(each,) for each in ap]
    return DeadlinePolicy(EXITS, first, (1, 4), 4, others)


def queue(*budgets_s: float) -> tuple[Request, ...]:
    return tuple(Request(id, 0.0, budget_s, 1, 1) for id, budget_s in enumerate(budgets_s))


def decide(
    waiting: Sequence[Request],
    ap: Sequence[float] = FLAT,
    four: float = FOUR,
    demand: Demand = UNKNOWN,
) -> Decision:
    snapshot = Snapshot(0.0, tuple(waiting), (), demand=demand)
    return policy(ap).decide(snapshot, LatencyModel(profile(four)))


# ---- a batch in parts ---------------------------------------------------------------------------

URGENT = queue(0.022, 0.2, 0.2, 0.2)
"""The first has time for four at the first point, or for itself at the last."""


def test_the_most_urgent_goes_deep_alone_where_a_batch_could_not():
    assert decide(URGENT) == Run(EXITS[2], URGENT[:1], None)


def test_it_does_not_where_all_can_go_as_deep_together():
    waiting = queue(0.051, 0.2, 0.2, 0.2)
    assert decide(waiting) == Run(EXITS[2], waiting, None)


def test_nor_where_that_makes_one_behind_it_late():
    waiting = queue(0.022, 0.024, 0.2, 0.2)
    decision = decide(waiting)
    assert isinstance(decision, Run)
    assert decision.segment != EXITS[2]


def test_nor_where_more_comes_than_can_be_done_one_by_one():
    often = Demand(1.05 / SECONDS[0], 1.0, (0.2,))
    decision = decide(URGENT, demand=often)
    assert isinstance(decision, Run)
    assert decision.requests == URGENT


# ---- points that are not worth their time --------------------------------------------------------


def played(requests: Sequence[Request], ap: Sequence[float]) -> list[SimulatedOutcome]:
    outcomes: list[SimulatedOutcome] = []
    service = ServiceTimes(profile(4.0), 0.0, np.random.default_rng(0))
    server = SimulatedServer(policy(ap), LatencyModel(profile(4.0)), service, outcomes.append)
    simulate(requests, server)
    return outcomes


@pytest.mark.parametrize(("ap", "model", "count"), [(FLAT, 0, 10), (STEEP, 1, 5)])
def test_a_crowd_is_answered_where_time_buys_most(ap, model, count):
    """Ten with 50 ms: all of them at .12, or half of them at .30."""
    answered = [end for end in played(queue(*[0.0501] * 10), ap) if end.in_time]
    assert [end.model for end in answered] == [model] * count


def test_who_has_no_time_for_that_is_answered_at_the_quickest():
    alone = queue(0.008)
    assert decide(alone, STEEP, 4.0) == Run(EXITS[0], alone, None)
    both = queue(0.008, 0.5)
    assert decide(both, STEEP, 4.0) == Run(EXITS[0], both[:1], None)


def test_but_not_at_the_cost_of_others():
    """The second one has time for itself, and none to wait."""
    waiting = queue(0.008, 0.0101)
    ends = {end.request.id: end for end in played(waiting, STEEP)}
    assert (ends[1].in_time, ends[1].model) == (True, 1)
    assert not ends[0].in_time
