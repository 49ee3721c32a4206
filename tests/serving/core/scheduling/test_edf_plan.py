"""What a plan says of those who wait, and of those who have not arrived."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from serving.core import segment as segments
from serving.core.demand import UNKNOWN, Demand
from serving.core.latency import LatencyModel
from serving.core.policy import Cohort, Snapshot
from serving.core.request import Request
from serving.core.scheduling.edf_plan import EdfPlan
from serving.core.scheduling.path_costs import DENSITY_GAIN, Costs
from serving.core.scheduling.paths import Paths, paths_of
from serving.core.scheduling.ways_in import WaysIn
from serving.core.useful_exits import UsefulExits
from tests.serving.world import HEAD_S, NUM_EXITS, FakeClock, FakeRunner, batching, exact_profile

NOW_S = 5.0
AP = UsefulExits([0.1 * depth for depth in range(1, NUM_EXITS + 1)])


def request(id: int, budget_s: float) -> Request:
    return Request(id, NOW_S, NOW_S + budget_s, 1, NUM_EXITS)


def test_what_is_due_before_a_newcomer_depends_on_its_budget():
    runner = FakeRunner(FakeClock())
    costs = Costs(LatencyModel(exact_profile(runner.cost)), Paths(runner.segments, NUM_EXITS))
    waiting = (request(1, 0.2), request(2, 0.4))
    snapshot = Snapshot(NOW_S, waiting, (Cohort(7, 1, (request(0, 0.3),)),))
    plan = EdfPlan(snapshot, WaysIn(NOW_S, [costs], (1,), [AP]), frozenset())
    exit_s = costs.typical_path(1)
    assert plan.backlogs_s((0.1, 0.2, 0.3, 0.35, 9.0)) == pytest.approx(
        [0.0, exit_s, exit_s + HEAD_S, exit_s + HEAD_S, plan.length_s]
    )
    assert plan.length_s == pytest.approx(2 * exit_s + HEAD_S)
    assert plan.backlogs_s(()) == []


# ---- batches of those who wait ------------------------------------------------------------------

HALF = batching(0.5)
ONE_S, FOUR_S = (HALF(segments.fused_exit(1), size) for size in (1, 4))


def planned(budgets_s: Sequence[float], demand: Demand = UNKNOWN) -> EdfPlan:
    """Fused runs alone, by themselves and in fours, which take 2.5 times as long."""
    runner = FakeRunner(FakeClock(), HALF, units=False, batch_sizes=(1, 4))
    costs = Costs(LatencyModel(exact_profile(HALF, (1, 4))), Paths(runner.segments, NUM_EXITS))
    waiting = tuple(request(id, budget_s) for id, budget_s in enumerate(budgets_s))
    snapshot = Snapshot(NOW_S, waiting, (), demand=demand)
    return EdfPlan(snapshot, WaysIn(NOW_S, [costs], (1, 4), [AP]), frozenset())


def sizes(plan: EdfPlan) -> list[int]:
    return [len(batch.requests) for batch in plan.batches]


def test_batches_are_as_large_as_pays_off():
    assert sizes(planned([1.0] * 9)) == [4, 1], "the second four are like the first"


def test_the_first_is_not_made_late_by_a_batch():
    """It goes alone, unless it would be late so as well."""
    patient = [FOUR_S + ONE_S + 0.001] * 4
    plan = planned([FOUR_S - 0.001, *patient])
    assert sizes(plan) == [1, 4]
    assert plan.slack_s > 0.0
    assert sizes(planned([ONE_S - 0.001, *patient])) == [4, 1]


def test_where_more_comes_than_can_be_done_one_by_one_it_is():
    """Batches are what the engine needs then, and who is lost by one is not as many."""
    budgets_s = [FOUR_S - 0.001, *[FOUR_S + ONE_S + 0.001] * 4]
    for share, expected in ((0.95, [1, 4]), (1.05, [4, 1])):
        demand = Demand(share / ONE_S, 1.0, (1.0,))
        assert sizes(planned(budgets_s, demand)) == expected


def test_each_may_use_what_those_behind_it_leave():
    """The slack of one counts for it and all before it, and not for those behind it."""
    budgets_s = (ONE_S + 0.004, 2 * ONE_S + 0.012, 3 * ONE_S + 0.009)
    assert planned(budgets_s[:1]).share_s == pytest.approx(0.004)
    assert planned(budgets_s[:2]).share_s == pytest.approx(0.004), "less than 12 for two"
    assert planned(budgets_s).share_s == pytest.approx(0.003), "9 for three"
    late = planned((ONE_S, 2 * ONE_S - 0.002))
    assert late.share_s == late.slack_s == pytest.approx(-0.002), "a deficit counts in full"


# ---- the way in ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ap", "chosen"),
    [(0.2 * DENSITY_GAIN + 0.01, 1), (0.2 * DENSITY_GAIN - 0.01, 0), (0.1, 0)],
)
def test_the_way_in_is_the_quickest_unless_another_gives_more_for_its_time(ap, chosen):
    """The second model takes twice as long as one that has an accuracy of .1."""

    def cost(segment: segments.Segment, batch: int = 1) -> float:
        return 0.010 * batch * (1 + segment.model)

    available = [segments.fused_exit(1), segments.fused_exit(1).of(1)]
    latency = LatencyModel(exact_profile(cost, (1,), (1, 1)))
    models = [Costs(latency, paths) for paths in paths_of(available)]
    useful = [UsefulExits([0.1]), UsefulExits([ap])]
    waiting = (Request(0, NOW_S, NOW_S + 0.015, 1, 1), Request(1, NOW_S, NOW_S + 1.0, 1, 1))
    ways_in = WaysIn(NOW_S, models, (1,), useful)
    plan = EdfPlan(Snapshot(NOW_S, waiting, ()), ways_in, frozenset())
    assert ways_in.to(1, False).costs is models[chosen]
    assert ways_in.to(1, False, hurried=True).costs is models[0]
    hurried, patient = (step.costs for step in plan.batches) if chosen else [models[0]] * 2
    assert (hurried, patient) == (models[0], models[chosen]), "15 ms are enough for the first alone"
