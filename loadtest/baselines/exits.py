"""The parts that all baselines share: fused exits, doomed requests, and batches that pay."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import takewhile

from serving.core import segment as segments
from serving.core.command_errors import InvalidArgument
from serving.core.errors import ShedReason
from serving.core.ladder import Ladder, PointId
from serving.core.latency import Latency
from serving.core.policy import Run, ShedRequests, Snapshot, Wait
from serving.core.request import Request
from serving.core.scheduling.path_costs import BATCHING_GAIN, EPSILON_S
from serving.core.segment import Segment

Queue = tuple[Request, ...]
"""Waiting requests, earliest deadline first."""
Seconds = Callable[[int], float]
"""Batch size -> seconds that a run of such a batch is predicted not to exceed."""


class FusedExits:
    """The fused exits of all input sizes, with the batch sizes that can be run.

    Raises ValueError if one of the fused exits is not ``available``.
    """

    def __init__(
        self, available: Collection[Segment], ladder: Ladder, batch_sizes: Collection[int]
    ) -> None:
        self._segments = {
            (number, depth): segments.fused_exit(depth).of(number)
            for number, depth in ladder.points
        }
        lacking = [segment for segment in self._segments.values() if segment not in available]
        if lacking:
            names = ", ".join(segments.names(lacking))
            raise InvalidArgument(
                f"the runner lacks {names}, and baselines run nothing but fused exits"
            )
        self.points = ladder.points
        self.ap = {point: ladder.ap(point) for point in ladder.points}
        """AP of the answers of each operating point."""
        self.place = {point: place for place, point in enumerate(ladder.points)}
        """Place of each operating point in the ladder."""
        self.batch_sizes = tuple(batch_sizes)
        self._accepted: dict[tuple[int, int], tuple[PointId, ...]] = {}

    def accepted(self, request: Request) -> tuple[PointId, ...]:
        """Return the operating points that a request accepts, in the ladder's order."""
        depths = (request.min_depth, request.max_depth)
        known = self._accepted.get(depths)
        if known is None:
            least, most = depths
            known = tuple(point for point in self.points if least <= point[1] <= most)
            self._accepted[depths] = known
        return known

    def nearest(self, request: Request, point: PointId) -> PointId:
        """Return the point nearest to ``point`` in the ladder that the request accepts."""
        place = self.place[point]
        return min(self.accepted(request), key=lambda each: abs(self.place[each] - place))

    def quickest(self, request: Request, latency: Latency) -> PointId:
        """Return the point that a request accepts and that is typically quickest."""
        return min(self.accepted(request), key=lambda point: self.typical(latency, point))

    def run(self, point: PointId, requests: Queue) -> Run:
        """Return the run that answers waiting requests at an operating point."""
        return Run(self._segments[point], requests, None)

    def seconds(self, latency: Latency, point: PointId) -> Seconds:
        """Return the predicted seconds of a run to an operating point, by its batch size."""
        segment = self._segments[point]
        return lambda batch: latency.predict(segment, batch)

    def typical(self, latency: Latency, point: PointId, batch: int = 1) -> float:
        """Return the seconds that half of the runs to an operating point do not exceed."""
        return latency.typical(self._segments[point], batch)

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

    def before_running(
        self, snapshot: Snapshot, latency: Latency, point: PointId | None = None
    ) -> ShedRequests | Wait | None:
        """Return what is to be done before anything is run; None if somebody waits for a run.

        That is to shed the doomed, as ``shed_doomed`` has it, or to wait for a request.
        """
        shed = self.shed_doomed(snapshot, latency, point)
        return shed if shed is not None or snapshot.waiting else Wait()

    def shed_doomed(
        self, snapshot: Snapshot, latency: Latency, point: PointId | None = None
    ) -> ShedRequests | None:
        """Return the shedding of all requests that would be late whatever is done, if any.

        Such a request would be late even if it were run next, alone, at a typical pace and at the
        accepted point that is nearest to ``point``; None: at the quickest that it accepts. As in
        the shipped policy, a request that is late by the cautious prediction alone still gets a
        chance.
        """
        now_s = snapshot.now_s - EPSILON_S
        typical_s = {each: self.typical(latency, each) for each in self.points}
        limit_s = now_s + max(typical_s.values())
        needed_s: dict[tuple[PointId, ...], float] = {}
        doomed = []
        for request in takewhile(lambda r: r.deadline_s < limit_s, snapshot.waiting):
            accepted = self.accepted(request)
            if accepted not in needed_s:
                needed_s[accepted] = (
                    min(typical_s[each] for each in accepted)
                    if point is None
                    else typical_s[self.nearest(request, point)]
                )
            if now_s + needed_s[accepted] > request.deadline_s:
                doomed.append(request)
        return ShedRequests(tuple(doomed), ShedReason.REJECTED_EXPIRED, 0.0) if doomed else None
