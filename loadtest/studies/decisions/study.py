"""``punctual study decisions``: the processor time of one decision, with many waiting.

A queue is frozen, and decided about again and again. Before each decision, and beside the clock,
one more run is learnt from, as on an engine at work: what the policy keeps between decisions it has
to find anew in part. Queues take turns in each round, so that a busy moment falls on all alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from loadtest.policies.named import deadline
from loadtest.simulation.profiles import ModelProfile
from loadtest.simulation.simulator import ServiceTimes
from loadtest.simulation.study import MAX_COHORTS
from reporting.markdown import Columns, table
from serving.core.demand import Demand
from serving.core.latency import LatencyModel
from serving.core.policy import Cohort, Snapshot
from serving.core.quantiles import quantile
from serving.core.request import Request
from serving.core.segment import STEM

JITTER = 0.03
"""Jitter of the runs that are learnt from."""
BUDGETS = (1.2, 1.2, 2.0, 2.0, 4.0, 4.0)
"""Budgets of the demand, in multiples of the time of the most accurate point."""
LEARNT = 2000
"""Number of runs that are learnt from before the first decision."""
EACH = 100
"""Number of decisions about a queue in each round; their median counts."""

Clock = Callable[[], float]
"""Function that returns processor seconds."""


class Queue(NamedTuple):
    """A queue in multiples of the time of the quickest point."""

    name: str
    load: float
    """Demand, as a share of the capacity at the quickest point."""
    first: float
    """Time that the most urgent request has left."""
    gap: float
    """Time from one deadline to the next."""
    principals: int = 1


QUEUES = (
    Queue("time to spare", 0.7, 8.0, 2.0),
    Queue("tight", 0.9, 3.0, 1.3),
    Queue("too many", 1.2, 2.0, 0.5),
    Queue("too many, of four principals", 2.0, 2.0, 0.5, 4),
)


class Row(NamedTuple):
    """The processor time of a decision about one queue on one ladder, in seconds."""

    profile: str
    queue: str
    median_s: float
    least_s: float
    """Median of the quickest round."""
    most_s: float


def frozen(queue: Queue, profile: ModelProfile, num_waiting: int) -> Snapshot:
    """Return a snapshot with so many waiting, and where there are unit segments, two cohorts."""
    quickest_s = profile.quickest_s(profile.ladder.points[0])
    num_in_flight = 2 if STEM in profile.segments else 0
    requests = [
        Request(
            *(number, 0.0, (queue.first + queue.gap * number) * quickest_s),
            *(1, profile.ladder.num_exits),
            principal=str(number % queue.principals),
        )
        for number in range(num_waiting + num_in_flight)
    ]
    cohorts = [Cohort(number, 1, (requests[number],)) for number in range(num_in_flight)]
    if len(profile.ladder.accuracies[0]) > 1 and num_in_flight:
        cohorts[1] = Cohort(1, 2, (requests[1],))
    budgets_s = tuple(factor * profile.full_depth_s for factor in BUDGETS)
    names = sorted({request.principal for request in requests})
    return Snapshot(
        *(0.0, tuple(requests[num_in_flight:]), tuple(cohorts)),
        demand=Demand(queue.load * profile.capacity_hz, 1.0, budgets_s),
        virtual_s={name: quickest_s * int(name) for name in names} if len(names) > 1 else {},
    )


def study(
    profiles: Sequence[ModelProfile], num_waiting: int, rounds: int, clock: Clock
) -> list[Row]:
    """Time decisions about every queue on every ladder."""
    return [row for profile in profiles for row in _rows(profile, num_waiting, rounds, clock)]


def _rows(profile: ModelProfile, num_waiting: int, rounds: int, clock: Clock) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    latency, service = LatencyModel(profile.latency), ServiceTimes(profile.latency, JITTER, rng)
    policy = deadline(profile.segments, profile.ladder, profile.batch_sizes, MAX_COHORTS)
    runs = sorted(profile.latency.table)

    def learn() -> None:
        segment, batch = runs[rng.integers(len(runs))]
        latency.observe(segment, batch, service.seconds(segment, batch, 0.0))

    for _ in range(LEARNT):
        learn()
    snapshots = [frozen(queue, profile, num_waiting) for queue in QUEUES]
    medians: list[list[float]] = [[] for _ in QUEUES]
    for _ in range(rounds):
        for snapshot, found in zip(snapshots, medians, strict=True):
            seconds = []
            for _ in range(EACH):
                learn()
                started_s = clock()
                policy.decide(snapshot, latency)
                seconds.append(clock() - started_s)
            found.append(quantile(seconds, 0.5))
    for queue, found in zip(QUEUES, medians, strict=True):
        yield Row(profile.name, queue.name, quantile(found, 0.5), min(found), max(found))


COLUMNS: Columns[Row] = (
    ("ladder", lambda row: row.profile),
    ("queue", lambda row: row.queue),
    ("a decision, us", lambda row: f"{1e6 * row.median_s:.0f}"),
    ("by round", lambda row: f"{1e6 * row.least_s:.0f} to {1e6 * row.most_s:.0f}"),
)


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown."""
    return "\n".join(table(COLUMNS, rows)) + "\n"
