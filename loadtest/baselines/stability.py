"""EdgeServing: point and batch by a stability score of the queue that a run leaves behind.

EdgeServing (Cao et al., arXiv 2605.05527) serves several networks with early exits on one device,
each with a queue of its own. A candidate is a batch from the front of a queue at the deepest exit
at which all of it is predicted to be in time; what is run is the candidate after which the
*stability score* of all queues is lowest, the sum over all that then still wait of

    min(MAX_TERM, exp(seconds waited by then / budget - 1))

Here requests may be answered at any operating point and wait in one queue, so that candidates
differ in their batch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from loadtest.baselines.exits import FusedExits, Queue
from serving.core.ladder import Ladder, PointId
from serving.core.latency import Latency
from serving.core.policy import Decision, Snapshot
from serving.core.request import Request
from serving.core.scheduling.path_costs import EPSILON_S
from serving.core.segment import Segment

MAX_TERM = 10.0
"""Largest term of the score: beyond it, being later costs no more."""


def stability(waiting: Iterable[Request], at_s: float) -> float:
    """Return the stability score of requests that wait, at the instant ``at_s``."""
    ceiling = 1.0 + math.log(MAX_TERM)
    return sum(
        math.exp(
            min((at_s - request.arrival_s) / (request.deadline_s - request.arrival_s), ceiling)
            - 1.0
        )
        for request in waiting
    )


def mean_stability(stays: Iterable[tuple[float, float]], duration_s: float) -> float:
    """Return the mean over time of the stability score of all who are in a server.

    ``stays`` has of each request its budget and the seconds from its arrival to its end. The score
    of one is integrated over its stay, so that nothing is lost between two instants.
    """
    ceiling = 1.0 + math.log(MAX_TERM)
    total = 0.0
    for budget_s, stay_s in stays:
        share = min(stay_s / budget_s, ceiling)
        total += budget_s * (math.exp(share - 1.0) - math.exp(-1.0))
        total += MAX_TERM * max(0.0, stay_s - ceiling * budget_s)
    return total / duration_s


class StabilityPolicy:
    """A policy that runs the batch which leaves the lowest stability score behind."""

    def __init__(
        self, available: Collection[Segment], ladder: Ladder, batch_sizes: Sequence[int]
    ) -> None:
        self._exits = FusedExits(available, ladder, batch_sizes)

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """Return the next decision: a batch, a shedding, or a wait."""
        before = self._exits.before_running(snapshot, latency)
        if before is not None:
            return before
        head = snapshot.waiting[0]
        best: tuple[PointId, Queue] = self._exits.quickest(head, latency), (head,)
        best_score = math.inf
        for size in self._exits.batch_sizes:
            found = self._deepest(snapshot, latency, size)
            if found is None:
                continue
            point, batch = found
            left = [request for request in snapshot.waiting if request not in batch]
            score = stability(left, snapshot.now_s + self._exits.seconds(latency, point)(size))
            if score < best_score:
                best, best_score = found, score
        return self._exits.run(*best)

    def _deepest(
        self, snapshot: Snapshot, latency: Latency, size: int
    ) -> tuple[PointId, Queue] | None:
        """Return the most accurate point at which the most urgent ``size`` are in time together.

        None if there is none, or if fewer accept it.
        """
        points = self._exits.accepted(snapshot.waiting[0])
        limit_s = snapshot.waiting[0].deadline_s - snapshot.now_s + EPSILON_S
        for point in sorted(points, key=lambda each: -self._exits.ap[each]):
            if self._exits.seconds(latency, point)(size) <= limit_s:
                fitting = [r for r in snapshot.waiting if r.min_depth <= point[1] <= r.max_depth]
                if len(fitting) >= size:
                    return point, tuple(fitting[:size])
        return None
