"""What a plan says of those who have not arrived."""

from __future__ import annotations

import pytest

from serving.core.latency import LatencyModel
from serving.core.policy import Cohort, Snapshot
from serving.core.request import Request
from serving.core.scheduling.edf_plan import EdfPlan
from serving.core.scheduling.path_costs import Costs, Paths
from tests.serving.world import HEAD_S, NUM_EXITS, FakeClock, FakeRunner, exact_profile

NOW_S = 5.0


def request(id: int, budget_s: float) -> Request:
    return Request(id, NOW_S, NOW_S + budget_s, 1, NUM_EXITS)


def test_what_is_due_before_a_newcomer_depends_on_its_budget():
    runner = FakeRunner(FakeClock())
    costs = Costs(LatencyModel(exact_profile(runner.cost)), Paths(runner.segments, NUM_EXITS))
    waiting = (request(1, 0.2), request(2, 0.4))
    snapshot = Snapshot(NOW_S, waiting, (Cohort(7, 1, (request(0, 0.3),)),))
    plan = EdfPlan(snapshot, [costs], (1,), frozenset())
    exit_s = costs.typical_path(1)
    assert plan.backlogs_s((0.1, 0.2, 0.3, 0.35, 9.0)) == pytest.approx(
        [0.0, exit_s, exit_s + HEAD_S, exit_s + HEAD_S, plan.length_s]
    )
    assert plan.length_s == pytest.approx(2 * exit_s + HEAD_S)
    assert plan.backlogs_s(()) == []
