"""Policies that choose point and batch by the slack of the most urgent request: SlackFit and kin.

Each looks at the runs that the head has time for, and ranks those pairs of point and batch by its
own idea.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from loadtest.baselines.exits import FusedExits
from serving.core.ladder import Ladder, PointId
from serving.core.latency import Latency
from serving.core.policy import Decision, Snapshot
from serving.core.request import Request
from serving.core.scheduling.path_costs import EPSILON_S
from serving.core.segment import Segment

NUM_BUCKETS = 4
"""Number of buckets of run times. Of 4, 8, 16, 32 and 64 it is the one that serves best in
simulation: the finer the buckets, the less a batch's size counts."""


class Choice(NamedTuple):
    """A run that the head has time for."""

    bucket: int
    """Index of the bucket that the run's time is in.

    There are ``NUM_BUCKETS`` buckets, equal parts of the range of run times.
    """
    batch: int
    accuracy: float
    place: int
    """Place of the operating point in the ladder."""


Rank = Callable[[Choice], tuple[float, ...]]
"""A ranking of choices, of which the one with the largest rank is run."""


def slackfit(choice: Choice) -> tuple[float, ...]:
    """Rank the longest runs that fit first, in steps of a bucket: SuperServe's SlackFit.

    Of runs in one bucket the largest batch comes first, then the most accurate point. SuperServe
    (Khare et al., NSDI 2025).
    """
    return choice.bucket, choice.batch, choice.accuracy, -choice.place


def maxacc(choice: Choice) -> tuple[float, ...]:
    """Rank the most accurate point first, then the largest batch: SuperServe's MaxAcc."""
    return choice.accuracy, choice.batch, -choice.place


def maxbatch(choice: Choice) -> tuple[float, ...]:
    """Rank the largest batch first, then the most accurate point: SuperServe's MaxBatch."""
    return choice.batch, choice.accuracy, -choice.place


class SlackPolicy:
    """A policy that runs the batch with the largest ``rank`` that is predicted to end in time.

    In time is by the head's deadline; candidates are batches that are filled and pay.

    SlackFit's paper tabulates its buckets beforehand, from a profile and for every batch size. Here
    they follow the predictions, and sizes that the queue does not fill are left out: they would
    make the run shallow for the sake of empty places in the batch.
    """

    def __init__(
        self,
        available: Collection[Segment],
        ladder: Ladder,
        batch_sizes: Sequence[int],
        rank: Rank,
    ) -> None:
        self._exits = FusedExits(available, ladder, batch_sizes)
        self._rank = rank

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """Return the next decision: the batch of the largest rank, a shedding, or a wait."""
        before = self._exits.before_running(snapshot, latency)
        if before is not None:
            return before
        head = snapshot.waiting[0]
        choices = self._choices(snapshot, latency)
        if not choices:
            return self._exits.run(self._exits.quickest(head, latency), (head,))
        best = max(choices, key=self._rank)
        point = self._exits.points[best.place]
        return self._exits.run(point, tuple(islice(self._fitting(snapshot, point), best.batch)))

    def _fitting(self, snapshot: Snapshot, point: PointId) -> Iterator[Request]:
        """Return the waiting requests that accept an operating point."""
        return (r for r in snapshot.waiting if r.min_depth <= point[1] <= r.max_depth)

    def _choices(self, snapshot: Snapshot, latency: Latency) -> list[Choice]:
        exits, head = self._exits, snapshot.waiting[0]
        slack_s = head.deadline_s - snapshot.now_s + EPSILON_S
        shortest_s = min(exits.seconds(latency, p)(exits.batch_sizes[0]) for p in exits.points)
        longest_s = max(exits.seconds(latency, p)(exits.batch_sizes[-1]) for p in exits.points)
        width_s = max((longest_s - shortest_s) / NUM_BUCKETS, EPSILON_S)
        choices = []
        for point in exits.accepted(head):
            seconds = exits.seconds(latency, point)
            num = sum(1 for _ in self._fitting(snapshot, point))
            for batch in exits.paying_sizes(seconds):
                if batch <= num and seconds(batch) <= slack_s:
                    bucket = int((seconds(batch) - shortest_s) / width_s)
                    choices.append(Choice(bucket, batch, exits.ap[point], exits.place[point]))
        return choices
