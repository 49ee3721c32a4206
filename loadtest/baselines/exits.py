"""The parts that all baselines share: fused exits, doomed requests, and batches that pay."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import takewhile

from serving.core import segment as segments
from serving.core.command_errors import InvalidArgument
from serving.core.errors import ShedReason
from serving.core.latency import Latency
from serving.core.policy import Run, ShedRequests, Snapshot
from serving.core.request import Request
from serving.core.scheduling.path_costs import BATCHING_GAIN, EPSILON_S
from serving.core.segment import Segment

Queue = tuple[Request, ...]
"""Waiting requests, earliest deadline first."""
Seconds = Callable[[int], float]
"""Batch size -> seconds that a run of such a batch is predicted not to exceed."""


class Exits:
    """The fused exits of one model, with their accuracies and the batch sizes that can be run.

    ``accuracy`` is the AP of exits 1 .. N. Raises ValueError if one of the fused exits is not
    ``available``.
    """

    def __init__(
        self,
        available: Collection[Segment],
        accuracy: Sequence[float],
        batch_sizes: Sequence[int],
    ) -> None:
        self._segments = segments.fused_segments(len(accuracy))
        lacking = [segment for segment in self._segments if segment not in available]
        if lacking:
            names = ", ".join(segments.names(lacking))
            raise InvalidArgument(
                f"the runner lacks {names}, and baselines run nothing but fused exits"
            )
        self.accuracy = tuple(accuracy)
        self.batch_sizes = tuple(batch_sizes)

    @property
    def num_exits(self) -> int:
        return len(self._segments)

    def run(self, depth: int, requests: Queue) -> Run:
        """Return the run that answers waiting requests at exit ``depth``."""
        return Run(self._segments[depth - 1], requests, None)

    def seconds(self, latency: Latency, depth: int) -> Seconds:
        """Return the predicted seconds of a run to exit ``depth``, by its batch size."""
        segment = self._segments[depth - 1]
        return lambda batch: latency.predict(segment, batch)

    def typical(self, latency: Latency, depth: int, batch: int = 1) -> float:
        """Return the seconds that half of the runs to exit ``depth`` do not exceed."""
        return latency.typical(self._segments[depth - 1], batch)

    def paying_sizes(self, seconds: Seconds) -> list[int]:
        """Return the batch sizes that pay, smallest first; on most CPUs that is 1 alone.

        A size pays if it takes clearly less time per request than the largest paying one below it.
        """
        sizes = [self.batch_sizes[0]]
        best_s = seconds(sizes[0]) / sizes[0]
        for size in self.batch_sizes[1:]:
            each_s = seconds(size) / size
            if each_s < BATCHING_GAIN * best_s:
                sizes.append(size)
                best_s = each_s
        return sizes

    def shed_doomed(
        self, snapshot: Snapshot, latency: Latency, depth: int = 1
    ) -> ShedRequests | None:
        """Return the shedding of all requests that would be late whatever is done, if any.

        Such a request would be late even if it were run next, alone, at a typical pace and at the
        depth nearest to ``depth`` that it accepts. As in the shipped policy, a request that is late
        by the cautious prediction alone still gets a chance.
        """
        now_s = snapshot.now_s - EPSILON_S
        typical_s = [self.typical(latency, d) for d in range(1, self.num_exits + 1)]
        limit_s = now_s + max(typical_s)
        doomed = tuple(
            request
            for request in takewhile(lambda r: r.deadline_s < limit_s, snapshot.waiting)
            if now_s + typical_s[nearest_depth(request, depth) - 1] > request.deadline_s
        )
        return ShedRequests(doomed, ShedReason.REJECTED_EXPIRED, 0.0) if doomed else None


def nearest_depth(request: Request, depth: int) -> int:
    """Return the depth nearest to ``depth`` that the request accepts."""
    return min(max(depth, request.min_depth), request.max_depth)
