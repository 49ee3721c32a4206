"""``punctual study decisions``: queues that are frozen, and what is counted."""

from __future__ import annotations

from itertools import count

import pytest

from loadtest.policies.named import deadline
from loadtest.simulation.profiles import load_profile
from loadtest.simulation.study import MAX_COHORTS
from loadtest.studies.decisions.study import QUEUES, frozen, markdown, study
from serving.core.latency import LatencyModel
from serving.core.policy import Run, ShedRequests

NUM_WAITING = 64


@pytest.mark.parametrize("name", ["three-by-three", "sizes"])
@pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: queue.name)
def test_each_queue_is_one_that_the_policy_has_to_think_about(name, queue):
    profile = load_profile(name)
    snapshot = frozen(queue, profile, NUM_WAITING)
    assert len(snapshot.waiting) == NUM_WAITING
    assert len(snapshot.virtual_s) == (queue.principals if queue.principals > 1 else 0)
    policy = deadline(profile.segments, profile.ladder, profile.batch_sizes, MAX_COHORTS)
    decision = policy.decide(snapshot, LatencyModel(profile.latency))
    assert isinstance(decision, Run | ShedRequests)


def test_the_median_of_each_round_counts_and_learning_does_not():
    ticks = count()
    rows = study([load_profile("few")], 8, 2, lambda: float(next(ticks)))
    assert [row.queue for row in rows] == [queue.name for queue in QUEUES]
    assert {(row.median_s, row.least_s, row.most_s) for row in rows} == {(1.0, 1.0, 1.0)}
    lines = markdown(rows).splitlines()
    assert lines[-1] == "| few | too many, of four principals | 1000000 | 1000000 to 1000000 |"
