"""Batches of those who wait, as steps of the EDF plan.

A batch is of requests that have the same depth bounds and follow each other in the queue. It is as
large as pays off; but while the engine can do one by one all that comes, no batch makes its most
urgent request late.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import groupby
from operator import attrgetter

from serving.core.latency import Times
from serving.core.request import Request
from serving.core.scheduling.path_costs import Costs
from serving.core.scheduling.planned_batch import PlannedBatch, Step
from serving.core.scheduling.ways_in import WayIn, WaysIn

_deadline_s, _bounds = attrgetter("deadline_s"), attrgetter("min_depth", "max_depth")


class WaitingBatches:
    """The cutting of queues into batches, for one plan.

    Of steps that are alike, only the first comes with a ``PlannedBatch``. It has the most slack
    before it, so that no decision is about another.
    """

    def __init__(
        self, now_s: float, rate_hz: float, ways_in: WaysIn, streaming_ids: frozenset[int]
    ) -> None:
        """Cut nothing yet; ``rate_hz`` is that of arrivals.

        ``streaming_ids`` are the requests that can be answered more than once.
        """
        self._now_s = now_s
        self._rate_hz = rate_hz
        self._ways_in = ways_in
        self._streaming_ids = streaming_ids
        self._kinds_planned: set[tuple[int, int, int, int, int]] = set()

    def needed(self, costs: Costs) -> bool:
        """Return whether more comes than the engine can do one by one, through this model."""
        return self._rate_hz * costs.typical_path(1) >= 1.0

    def steps(self, waiting: tuple[Request, ...]) -> list[Step]:
        """Return the steps of a queue, which is in order of deadline."""
        if not waiting:
            return []
        depth, max_depth = _bounds(waiting[0])
        if not [r for r in waiting if r.min_depth != depth or r.max_depth != max_depth]:
            return self._steps_of_group(waiting, depth)
        steps: list[Step] = []
        for (depth, _), group in groupby(waiting, key=_bounds):
            steps += self._steps_of_group(tuple(group), depth)
        return steps

    def _steps_of_group(self, waiting: tuple[Request, ...], depth: int) -> list[Step]:
        """Return the steps of requests that all have the same depth bounds.

        ``depth`` is the shallowest exit that they accept.
        """
        if self._streaming_ids:
            return self._steps_with_streaming(waiting, depth)
        way = self._ways_in.to(depth, False)
        if waiting[0].deadline_s >= way.hurried_before_s:
            return self._steps_of_one_way(waiting, way)
        num_hurried = bisect_left(waiting, way.hurried_before_s, key=_deadline_s)
        hurried = self._ways_in.to(depth, False, True)
        steps = self._steps_of_one_way(waiting[:num_hurried], hurried)
        return steps + self._steps_of_one_way(waiting[num_hurried:], way)

    def _steps_of_one_way(self, waiting: tuple[Request, ...], way: WayIn) -> list[Step]:
        """Return the steps of requests that all take one way and have one answer each.

        While batches are not needed, they are smaller if the first request would be late otherwise.
        """
        steps: list[Step] = []
        earliest_end_s, sizes = way.earliest_end_s, way.sizes
        may_be_smaller = len(sizes) > 1 and not self.needed(way.costs)
        start, count, previous, largest = 0, len(waiting), 0, sizes[-1]
        typical_s, variance = self._now_s, 0.0  # of what goes before, as ``CompletionTime`` has it
        while start < count:
            due_s, size = waiting[start].deadline_s, largest
            if start + size > count:
                size = max([paying for paying in sizes if start + paying <= count])
            times = tail_s, median_s = way.times[size]
            if may_be_smaller:
                squares = (tail_s - median_s) ** 2
                if typical_s + median_s + math.sqrt(variance + squares) > due_s:
                    size = _size_in_time(way, size, due_s - typical_s, variance)
                    times = tail_s, median_s = way.times[size]
                    squares = (tail_s - median_s) ** 2
                typical_s += median_s
                variance += squares
            # A request that is late only by its tail time still gets its chance, at once.
            deadline_s = due_s if due_s > earliest_end_s else earliest_end_s
            planned = None
            if size != previous:
                previous, batch = size, waiting[start : start + size]
                planned = self._first_of_its_kind(batch, deadline_s, times, way.costs, 0)
            steps.append((due_s, deadline_s, times, planned))
            start += size
        return steps

    def _steps_with_streaming(self, waiting: tuple[Request, ...], depth: int) -> list[Step]:
        """Return the steps where some requests can be answered more than once.

        Each batch takes the way of its first request, or one that leaves features for any of it.
        """
        steps: list[Step] = []
        streaming_ids = self._streaming_ids
        start, count, previous = 0, len(waiting), (0, 0)
        while start < count:
            due_s = waiting[start].deadline_s
            streams = waiting[start].id in streaming_ids
            hurried = due_s < self._ways_in.to(depth, streams).hurried_before_s
            way = self._ways_in.to(depth, streams, hurried)
            size = max([paying for paying in way.sizes if start + paying <= count])
            batch, times = waiting[start : start + size], way.times[size]
            num_streaming = len([request for request in batch if request.id in streaming_ids])
            if num_streaming:  # the first may not stream, yet one behind it does
                way = self._ways_in.to(depth, True, hurried)
                times = way.times.get(size) or way.costs.path(depth, size, streams=True)
            deadline_s = max(due_s, way.earliest_end_s)
            planned = None
            if (size, num_streaming) != previous:
                previous = size, num_streaming
                planned = self._first_of_its_kind(
                    batch, deadline_s, times, way.costs, num_streaming
                )
            steps.append((due_s, deadline_s, times, planned))
            start += size
        return steps

    def _first_of_its_kind(
        self,
        requests: tuple[Request, ...],
        deadline_s: float,
        times: Times,
        costs: Costs,
        num_streaming: int,
    ) -> PlannedBatch | None:
        """Return these requests as a ``PlannedBatch``; None if another step is like it already.

        Steps of waiting requests are alike if their depth bounds, their size, their number of
        streaming requests and their model are the same.
        """
        first = requests[0]
        model = costs.paths.model
        kind_key = (first.min_depth, first.max_depth, len(requests), num_streaming, model)
        if kind_key in self._kinds_planned:
            return None
        self._kinds_planned.add(kind_key)
        return PlannedBatch(deadline_s, times, requests, None, requests, costs, (), num_streaming)


def _size_in_time(way: WayIn, size: int, left_s: float, variance: float) -> int:
    """Return the largest batch below ``size`` that ends within ``left_s``; ``size`` if none.

    ``variance`` is that of the runs before it.
    """
    for smaller in reversed(way.sizes):
        tail_s, median_s = way.times[smaller]
        end_s = median_s + math.sqrt(variance + (tail_s - median_s) ** 2)
        if smaller < size and end_s <= left_s:
            return smaller
    return size
