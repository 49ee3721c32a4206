"""Policies of one operating point for all requests: what a server of one exported network does."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from loadtest.baselines.batching import Batcher
from loadtest.baselines.exits import FusedExits, Queue, Seconds
from serving.core.ladder import Ladder, PointId
from serving.core.latency import Latency
from serving.core.policy import Decision, Snapshot, Wait
from serving.core.segment import Segment

BACKOFF = 0.9
"""Factor by which Clipper shrinks its batches when a request was late."""


def serve_at(
    point: PointId, snapshot: Snapshot, latency: Latency, exits: FusedExits, batcher: Batcher
) -> Decision:
    """Return the next decision of a policy of one point: a batch, a shedding, or a wait.

    The batch is formed of the requests that are to be run at the same point as the head: ``point``,
    or the nearest that the head accepts.
    """
    before = exits.before_running(snapshot, latency, point)
    if before is not None:
        return before
    point = exits.nearest(snapshot.waiting[0], point)
    queue = tuple(r for r in snapshot.waiting if r.min_depth <= point[1] <= r.max_depth)
    seconds = exits.seconds(latency, point)
    batch = batcher(queue, snapshot.now_s, exits.paying_sizes(seconds), seconds)
    return exits.run(point, batch) if isinstance(batch, tuple) else Wait(batch)


class FixedPoint:
    """A policy that serves all requests at ``point``, in batches that ``batcher`` forms."""

    def __init__(
        self,
        available: Collection[Segment],
        ladder: Ladder,
        batch_sizes: Sequence[int],
        point: PointId,
        batcher: Batcher,
    ) -> None:
        self._exits = FusedExits(available, ladder, batch_sizes)
        self._point = point
        self._batcher = batcher

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """Return the next decision at the fixed point."""
        return serve_at(self._point, snapshot, latency, self._exits, self._batcher)


class Aimd(FixedPoint):
    """A policy of one point whose batches grow until a request is late: Clipper's AIMD.

    The largest batch grows by one while full ones make no request late and shrinks by a tenth when
    one did (additive increase, multiplicative decrease).

    Clipper (Crankshaw et al., NSDI 2017). It does not consult predictions for the size of a batch,
    so it makes requests late in order to learn from it.
    """

    def __init__(
        self,
        available: Collection[Segment],
        ladder: Ladder,
        batch_sizes: Sequence[int],
        point: PointId,
    ) -> None:
        super().__init__(available, ladder, batch_sizes, point, self._batch)
        self._limit = 1.0
        self._running: tuple[float, float, bool] | None = None

    @property
    def limit(self) -> float:
        """Return the largest batch size that is allowed at the moment."""
        return self._limit

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """Return the next decision, after having learnt from the run before."""
        self._learn(snapshot.now_s)
        return super().decide(snapshot, latency)

    def _batch(self, queue: Queue, now_s: float, sizes: Sequence[int], seconds: Seconds) -> Queue:
        allowed = [size for size in self._exits.batch_sizes if size <= self._limit]
        batch = queue[: max(size for size in allowed if size <= len(queue))]
        is_full = len(batch) == allowed[-1]
        self._running = (now_s + seconds(len(batch)), batch[0].deadline_s, is_full)
        return batch

    def _learn(self, now_s: float) -> None:
        """Adjust the largest batch by whether the run before was late.

        A policy is not told when a run ended: by now, but hardly later than predicted, since the
        executor may have been idle since then.
        """
        if self._running is None:
            return
        predicted_s, deadline_s, was_full = self._running
        self._running = None
        if min(now_s, predicted_s) > deadline_s:
            self._limit = max(1.0, BACKOFF * self._limit)
        elif was_full:
            self._limit = min(self._limit + 1.0, float(self._exits.batch_sizes[-1]))
