"""Policies that choose depth and batch by the slack of the most urgent request: SlackFit and kin.

Each looks at the runs that the head has time for, and ranks those pairs of depth and batch by its
own idea.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import NamedTuple

from loadtest.baselines.exits import Exits
from serving.core.latency import Latency
from serving.core.policy import Decision, Snapshot, Wait
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
    depth: int


Rank = Callable[[Choice], tuple[float, ...]]
"""A ranking of choices, of which the one with the largest rank is run."""


def slackfit(choice: Choice) -> tuple[float, ...]:
    """Rank the longest runs that fit first, in steps of a bucket: SuperServe's SlackFit.

    Of runs in one bucket the largest batch comes first, then the most accurate exit. SuperServe
    (Khare et al., NSDI 2025).
    """
    return choice.bucket, choice.batch, choice.accuracy, -choice.depth


def maxacc(choice: Choice) -> tuple[float, ...]:
    """Rank the most accurate exit first, then the largest batch: SuperServe's MaxAcc."""
    return choice.accuracy, choice.batch, -choice.depth


def maxbatch(choice: Choice) -> tuple[float, ...]:
    """Rank the largest batch first, then the most accurate exit: SuperServe's MaxBatch."""
    return choice.batch, choice.accuracy, -choice.depth


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
        accuracy: Sequence[float],
        batch_sizes: Sequence[int],
        rank: Rank,
    ) -> None:
        self._exits = Exits(available, accuracy, batch_sizes)
        self._rank = rank

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """Return the next decision: the batch of the largest rank, a shedding, or a wait."""
        shed = self._exits.shed_doomed(snapshot, latency)
        if shed is not None:
            return shed
        if not snapshot.waiting:
            return Wait()
        head = snapshot.waiting[0]
        choices = self._choices(snapshot, latency)
        if not choices:
            return self._exits.run(head.min_depth, (head,))
        best = max(choices, key=self._rank)
        fitting = (r for r in snapshot.waiting if r.min_depth <= best.depth <= r.max_depth)
        return self._exits.run(best.depth, tuple(islice(fitting, best.batch)))

    def _choices(self, snapshot: Snapshot, latency: Latency) -> list[Choice]:
        exits, head = self._exits, snapshot.waiting[0]
        slack_s = head.deadline_s - snapshot.now_s + EPSILON_S
        shortest_s = exits.seconds(latency, 1)(exits.batch_sizes[0])
        longest_s = exits.seconds(latency, exits.num_exits)(exits.batch_sizes[-1])
        width_s = max((longest_s - shortest_s) / NUM_BUCKETS, EPSILON_S)
        choices = []
        for depth in range(head.min_depth, head.max_depth + 1):
            seconds = exits.seconds(latency, depth)
            num = sum(r.min_depth <= depth <= r.max_depth for r in snapshot.waiting)
            for batch in exits.paying_sizes(seconds):
                if batch <= num and seconds(batch) <= slack_s:
                    bucket = int((seconds(batch) - shortest_s) / width_s)
                    choices.append(Choice(bucket, batch, exits.accuracy[depth - 1], depth))
        return choices
