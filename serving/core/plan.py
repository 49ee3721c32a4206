"""The plan: everybody out at the shallowest exit they accept, by deadline.

It is what the deadline policy promises. ``Plan.slack_s`` is how long all of it can be put off
before somebody in it is late; ``Plan.overload`` names who makes it impossible.

What is promised is one answer. Rows that have one are in the plan at no cost and with no deadline.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from serving.core import segment as segments
from serving.core.policy import Cohort, Latency, Snapshot
from serving.core.request import Request
from serving.core.segment import Segment

BATCHING_GAIN = 0.95
"""A larger batch is formed only if it brings the time per request below this share of the smaller
one's; otherwise it would delay the first request for nothing."""
EPSILON_S = 1e-9
import os
LIM=int(os.environ.get("LIM","1"))
"""Two sums of the same times may differ by this much."""


class Paths:
    """The ways from the image to each exit that a runner's segments make.

    ``units``: whether unit segments are among them; ``fused``: the exits of fused segments.
    """

    def __init__(self, available: Collection[Segment], num_exits: int) -> None:
        """Raises ValueError unless ``available`` has every unit or every fused segment."""
        unit, fused = segments.unit_segments(num_exits), segments.fused_segments(num_exits)
        no_unit, no_fused = set(unit) - set(available), set(fused) - set(available)
        if no_unit and no_fused:
            lacking = (", ".join(sorted(segments.names(kind))) for kind in (no_unit, no_fused))
            raise ValueError(
                f"the runner lacks {' and '.join(lacking)}: it needs every unit segment or every "
                "fused one"
            )
        self.units = not no_unit
        self.fused = frozenset(segment.stop for segment in fused if segment in available)

    def to(self, depth: int, *, grows: bool = False) -> tuple[tuple[Segment, ...], ...]:
        """Each way to the boxes of exit ``depth``: unit segments first, and the fused one. With
        ``grows`` only what leaves features to go on with."""
        unit = (segments.unit_path(depth),) if self.units else ()
        fused = ((segments.fused_exit(depth),),) if depth in self.fused else ()
        return unit if grows else unit + fused

    def growing(self, snapshot: Snapshot) -> frozenset[int]:
        """The ids of those that can be answered more than once here: a fused run leaves no
        features."""
        if not self.units:
            return frozenset()
        everybody = chain(snapshot.waiting, *(cohort.requests for cohort in snapshot.cohorts))
        return frozenset(r.id for r in everybody if r.growing and r.min_depth < r.max_depth)


_segment = lru_cache(maxsize=256)(Segment)
"""Making one takes longer than looking its time up."""


class Costs:
    """Predicted seconds during one decision. Remembers what it was asked: segments are few, and
    questions many."""

    def __init__(self, latency: Latency, paths: Paths) -> None:
        self._latency = latency
        self.paths = paths
        self._splits: dict[int, list[int]] = {}
        self._totals: dict[int, list[float]] = {}
        self._known: dict[tuple[int, int, bool, int], float] = {}
        self._paths: dict[tuple[int, int, bool], float] = {}

    def _predict(self, start: int, stop: int, head: bool, batch: int) -> float:
        key = (start, stop, head, batch)
        seconds = self._known.get(key)
        if seconds is None:
            seconds = self._known[key] = self._latency.predict(_segment(start, stop, head), batch)
        return seconds

    def stem(self, batch: int) -> float:
        """The image to depth 0."""
        return self._predict(segments.IMAGE, 0, False, batch)

    def stack(self, depth: int, batch: int) -> float:
        """Depth ``depth - 1`` to ``depth``."""
        return self._predict(depth - 1, depth, False, batch)

    def head(self, depth: int, batch: int) -> float:
        """Depth ``depth`` to boxes; 0 for no rows."""
        return self._predict(depth, depth, True, batch) if batch else 0.0

    def fused(self, depth: int, batch: int) -> float:
        """The image to the boxes of ``depth`` in one run; infinite if there is no such segment."""
        if depth not in self.paths.fused:
            return math.inf
        return self._predict(segments.IMAGE, depth, True, batch)

    def way_out(self, start: int, depth: int, batch: int) -> float:
        """Features of depth ``start`` to the boxes of ``depth``."""
        stacks = sum(self.stack(k, batch) for k in range(start + 1, depth + 1))
        return stacks + self.head(depth, batch)

    def unit_path(self, depth: int, batch: int) -> float:
        """The image to the boxes of ``depth`` through unit segments; infinite without them."""
        if not self.paths.units:
            return math.inf
        return self.stem(batch) + self.way_out(0, depth, batch)

    def path(self, depth: int, batch: int, *, grows: bool = False) -> float:
        """The image to the boxes of ``depth``, the quickest way; with ``grows`` one that leaves
        features to go on with."""
        key = (depth, batch, grows)
        seconds = self._paths.get(key)
        if seconds is None:
            seconds = self.unit_path(depth, batch)
            if not grows:
                seconds = min(seconds, self.fused(depth, batch))
            self._paths[key] = seconds
        return seconds

    def first_batch(self, depth: int, count: int, sizes: Sequence[int]) -> int:
        """How many of ``count`` waiting requests are best started together, when the others follow
        at once: the first batch of the split that takes least time in all, the larger one of two
        that hardly differ in that."""
        sizes_ = self._splits.get(depth)
        if sizes_ is None:
            sizes_ = [1]
            for size in sizes[1:]:
                if self.path(depth, size) / size < BATCHING_GAIN * self.path(depth, sizes_[-1]) / sizes_[-1]:
                    sizes_.append(size)
            self._splits[depth] = sizes_
        return max(size for size in sizes_ if size <= count)

    @property
    def calm(self) -> float:
        """What the first exit typically takes, as a share of what it seldom exceeds."""
        path = self.paths.to(1)[0]
        return self.typical(path) / sum(self._latency.predict(segment, 1) for segment in path)

    def deeper(self, depth: int, batch: int, num_growing: int, num_owed: int) -> float:
        """What it adds to the plan that features go from ``depth`` to ``depth + 1``: a stack for
        ``batch`` rows, a head for those of them that grow, and the difference between the heads
        that those leave by to whom an answer is owed."""
        heads_s = self.head(depth + 1, num_growing) + self.head(depth + 1, num_owed)
        return self.stack(depth + 1, batch) + heads_s - self.head(depth, num_owed)

    def apart(self, depth: int, num_growing: int, num_plain: int, num_owed: int) -> float:
        """What it adds to the plan that the growing rows are answered now, the others later, and
        not all those to whom an answer is owed at once."""
        heads_s = self.head(depth, num_growing) + self.head(depth, num_plain)
        return heads_s - self.head(depth, num_owed)

    def typical(self, path: Sequence[Segment]) -> float:
        """What one image takes half of the time."""
        return sum(self._latency.typical(segment, 1) for segment in path)


@dataclass(slots=True)
class Task:
    """One step of the plan: a cohort that leaves, or waiting requests that go to an exit."""

    deadline_s: float
    cost_s: float
    requests: tuple[Request, ...]
    """Each row."""
    cohort: Cohort | None
    owed: tuple[Request, ...]
    """Rows without an answer. If there are none, the step costs nothing and is never due."""
    stale: tuple[Request, ...] = ()
    """Growing rows that are to be answered at the cohort's depth before it goes on."""
    num_growing: int = 0
    """Rows that can be answered more than once."""
    hurried: bool = False
    """Whether more requests wait that would have come along, had the first one more time."""
    ahead_s: float = math.inf
    """By how much those before it can be put off."""

    @property
    def min_depth(self) -> int:
        """Of each of its requests."""
        return self.requests[0].min_depth

    @property
    def max_depth(self) -> int:
        """Of each of its requests."""
        return self.requests[0].max_depth


class Clock:
    """When the steps of a plan end, one after the other: half of the time by ``typical_s``, seldom
    later than ``finish_s``. What exceeds the typical time is independent from step to step, so it
    adds up as a root of squares: ten steps are not all unlucky at once."""

    def __init__(self, now_s: float, calm: float) -> None:
        self._typical_s = self.finish_s = now_s
        self._calm = calm
        self._variance = 0.0

    def add(self, cost_s: float) -> float:
        """One more step; when it ends."""
        typical_s = cost_s * self._calm
        self._typical_s += typical_s
        self._variance += (cost_s - typical_s) ** 2
        self.finish_s = self._typical_s + math.sqrt(self._variance)
        return self.finish_s


class Plan:
    """The plan for one snapshot."""

    def __init__(
        self,
        snapshot: Snapshot,
        costs: Costs,
        batch_sizes: Sequence[int],
        growing: frozenset[int],
        limited: bool = False,
    ) -> None:
        """``growing``: who of the snapshot can be answered more than once."""
        self.now_s = snapshot.now_s
        self._costs = costs
        self._growing = growing
        self._sizes = batch_sizes
        self._limited = limited
        self._calm = costs.calm
        self._clock = Clock(self.now_s, self._calm)
        self.slack_s = math.inf
        self.tasks: list[Task] = []
        leaving = [self._leaving(cohort, snapshot.answered) for cohort in snapshot.cohorts]
        leaving.sort(key=lambda task: task.deadline_s)
        waiting, start = snapshot.waiting, 0
        for task in leaving:
            while start < len(waiting) and waiting[start].deadline_s < task.deadline_s:
                start = self._add_start(waiting, start)
            self._add(task)
        while start < len(waiting):
            start = self._add_start(waiting, start)
        self.slack_s += EPSILON_S

    def _add(self, task: Task) -> None:
        # A request that is late only by the cautious estimate still gets its chance, at once.
        alone_s = task.cost_s if task.cohort else self._costs.path(task.min_depth, 1, grows=task.num_growing > 0)
        task.deadline_s = max(task.deadline_s, self.now_s + alone_s)
        task.ahead_s = self.slack_s + EPSILON_S
        self.slack_s = min(self.slack_s, task.deadline_s - self._clock.add(task.cost_s))
        self.tasks.append(task)

    def _leaving(self, cohort: Cohort, answered: Mapping[int, int]) -> Task:
        requests, min_depth = cohort.requests, cohort.requests[0].min_depth
        owed = tuple(r for r in requests if r.id not in answered) if answered else requests
        task = Task(math.inf, 0.0, requests, cohort, owed)
        if owed:
            depth = max(cohort.depth, min_depth)
            task.deadline_s = min(r.deadline_s for r in owed)
            task.cost_s = self._costs.way_out(cohort.depth, depth, len(owed))
        if self._growing:
            growing = [request for request in requests if request.id in self._growing]
            task.num_growing = len(growing)
            if cohort.depth >= min_depth:
                task.stale = tuple(r for r in growing if answered.get(r.id, 0) < cohort.depth)
        return task

    def _add_start(self, waiting: tuple[Request, ...], start: int) -> int:
        """The next batch of waiting requests with equal depth bounds; where the one after it
        begins."""
        first = waiting[start]
        most = 1
        for request in waiting[start + 1 : start + self._sizes[-1]]:
            if request.min_depth != first.min_depth or request.max_depth != first.max_depth:
                break
            most += 1
        requests, hurried = waiting[start : start + 1], False
        if most > 1:
            size = self._batch_size(waiting, start, most)
            wanted = self._costs.first_batch(first.min_depth, most, self._sizes)
            requests, hurried = waiting[start : start + size], size < wanted
        growing = self._num_growing(requests) if self._growing else 0
        cost_s = self._costs.path(first.min_depth, len(requests), grows=growing > 0)
        self._add(Task(first.deadline_s, cost_s, requests, None, requests, (), growing, hurried))
        return start + len(requests)

    def _batch_size(self, waiting: tuple[Request, ...], start: int, most: int) -> int:
        """The first of the batches that ``most`` requests are best split into, or less of them if
        that made the first request a late one."""
        first = waiting[start]
        grows = bool(self._growing) and self._num_growing(waiting[start : start + most]) > 0
        if not self._limited:
            return self._costs.first_batch(first.min_depth, most, self._sizes)
        limit_s = first.deadline_s - (self.now_s if LIM else self._clock.finish_s)
        while most > 1:
            size = self._costs.first_batch(first.min_depth, most, self._sizes)
            if self._costs.path(first.min_depth, size, grows=grows) <= limit_s:
                return size
            most = size - 1
        return 1

    def _num_growing(self, requests: tuple[Request, ...]) -> int:
        return len([request for request in requests if request.id in self._growing])

    def overload(self) -> Request | None:
        """The newest waiting request of those up to the first that would be late; None if nobody
        would be, or if nobody waits there. Without it the rest makes another plan."""
        clock = Clock(self.now_s, self._calm)
        newest: Request | None = None
        for task in self.tasks:
            finish_s = clock.add(task.cost_s)
            if task.cohort is None:
                candidates = (newest, *task.requests) if newest else task.requests
                newest = max(candidates, key=lambda request: request.id)
            if finish_s > task.deadline_s + EPSILON_S and newest is not None:
                return newest
        return None

    def slack_without(self, task: Task) -> float:
        """How long the other tasks can be put off, were this one done first."""
        clock, slack_s = Clock(self.now_s, self._calm), math.inf
        clock.add(task.cost_s)
        for other in self.tasks:
            if other is not task:
                slack_s = min(slack_s, other.deadline_s - clock.add(other.cost_s))
        return slack_s

    @property
    def length_s(self) -> float:
        """How long all of it takes."""
        return sum(task.cost_s for task in self.tasks)
