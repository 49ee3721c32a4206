"""The plan: everybody out at the shallowest exit they accept, by deadline.

It is what the deadline policy promises. ``Plan.slack_s`` is how long all of it can be put off
before somebody in it is late; ``Plan.overload`` names who makes it impossible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from serving.core import segment as segments
from serving.core.policy import Cohort, Latency, Snapshot
from serving.core.request import Request
from serving.core.segment import Segment

BATCHING_GAIN = 0.95
"""A larger batch is formed only if it brings the time per request below this share of the smaller
one's; otherwise it would delay the first request for nothing."""
EPSILON_S = 1e-9
"""Two sums of the same times may differ by this much."""


class Costs:
    """Predicted seconds during one decision. Remembers what it was asked: segments are few, and
    questions many."""

    def __init__(self, latency: Latency, fused: frozenset[int]) -> None:
        """``fused``: the exits that one fused run can reach."""
        self._latency = latency
        self._fused = fused
        self._known: dict[tuple[int, int, bool, int], float] = {}
        self._paths: dict[tuple[int, int], float] = {}

    def _predict(self, start: int, stop: int, head: bool, batch: int) -> float:
        key = (start, stop, head, batch)
        seconds = self._known.get(key)
        if seconds is None:
            segment = Segment(start, stop, head)
            seconds = self._known[key] = self._latency.predict(segment, batch)
        return seconds

    def stem(self, batch: int) -> float:
        """The image to depth 0."""
        return self._predict(segments.IMAGE, 0, False, batch)

    def stack(self, depth: int, batch: int) -> float:
        """Depth ``depth - 1`` to ``depth``."""
        return self._predict(depth - 1, depth, False, batch)

    def head(self, depth: int, batch: int) -> float:
        """Depth ``depth`` to boxes."""
        return self._predict(depth, depth, True, batch)

    def fused(self, depth: int, batch: int) -> float:
        """The image to the boxes of ``depth`` in one run; infinite if there is no such segment."""
        if depth not in self._fused:
            return math.inf
        return self._predict(segments.IMAGE, depth, True, batch)

    def way_out(self, start: int, depth: int, batch: int) -> float:
        """Features of depth ``start`` to the boxes of ``depth``."""
        stacks = sum(self.stack(k, batch) for k in range(start + 1, depth + 1))
        return stacks + self.head(depth, batch)

    def unit_path(self, depth: int, batch: int) -> float:
        """The image to the boxes of ``depth`` through unit segments."""
        return self.stem(batch) + self.way_out(0, depth, batch)

    def path(self, depth: int, batch: int) -> float:
        """The image to the boxes of ``depth``, the quickest way."""
        key = (depth, batch)
        seconds = self._paths.get(key)
        if seconds is None:
            seconds = min(self.unit_path(depth, batch), self.fused(depth, batch))
            self._paths[key] = seconds
        return seconds

    def typical(self, path: Sequence[Segment]) -> float:
        """What one image takes half of the time."""
        return sum(self._latency.typical(segment, 1) for segment in path)


@dataclass(slots=True)
class Task:
    """One step of the plan: a cohort that leaves, or waiting requests that go to an exit."""

    deadline_s: float
    cost_s: float
    requests: tuple[Request, ...]
    cohort: Cohort | None
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


class Plan:
    """The plan for one snapshot."""

    def __init__(self, snapshot: Snapshot, costs: Costs, batch_sizes: Sequence[int]) -> None:
        self.now_s = snapshot.now_s
        self._costs = costs
        tasks = [self._leaving(cohort) for cohort in snapshot.cohorts]
        tasks.extend(self._starting(snapshot.waiting, batch_sizes))
        for task in tasks:
            # A request that is late only by the cautious estimate still gets its chance, at once.
            task.deadline_s = max(task.deadline_s, self.now_s + task.cost_s)
        tasks.sort(key=lambda task: task.deadline_s)
        self.tasks = tasks
        slack_s, finish_s = math.inf, self.now_s
        for task in tasks:
            task.ahead_s = slack_s + EPSILON_S
            finish_s += task.cost_s
            slack_s = min(slack_s, task.deadline_s - finish_s)
        self.slack_s = slack_s + EPSILON_S

    def _leaving(self, cohort: Cohort) -> Task:
        depth, batch = max(cohort.depth, cohort.requests[0].min_depth), len(cohort.requests)
        cost_s = self._costs.way_out(cohort.depth, depth, batch)
        return Task(min(r.deadline_s for r in cohort.requests), cost_s, cohort.requests, cohort)

    def _starting(self, waiting: tuple[Request, ...], batch_sizes: Sequence[int]) -> list[Task]:
        """Waiting requests in batches of equal depth bounds, each as large as pays."""
        tasks = []
        paying: dict[int, list[int]] = {}
        start = 0
        while start < len(waiting):
            first = waiting[start]
            depth = first.min_depth
            if depth not in paying:
                paying[depth] = self._paying_sizes(depth, batch_sizes)
            size = 1
            if len(paying[depth]) > 1:
                size = self._batch_size(waiting, start, paying[depth])
            requests = waiting[start : start + size]
            tasks.append(Task(first.deadline_s, self._costs.path(depth, size), requests, None))
            start += size
        return tasks

    def _paying_sizes(self, depth: int, batch_sizes: Sequence[int]) -> list[int]:
        """Batch sizes of which each takes clearly less time per request than the one before."""
        sizes = [1]
        for size in batch_sizes[1:]:
            best_s = self._costs.path(depth, sizes[-1]) / sizes[-1]
            if self._costs.path(depth, size) / size < BATCHING_GAIN * best_s:
                sizes.append(size)
        return sizes

    def _batch_size(self, waiting: tuple[Request, ...], start: int, sizes: list[int]) -> int:
        """The largest of ``sizes`` that is there and makes its first request no late one."""
        first = waiting[start]
        bounds = (first.min_depth, first.max_depth)
        most = 1
        for request in waiting[start + 1 : start + sizes[-1]]:
            if (request.min_depth, request.max_depth) != bounds:
                break
            most += 1
        limit_s = first.deadline_s - self.now_s
        fitting = [n for n in sizes if n <= most and self._costs.path(bounds[0], n) <= limit_s]
        return fitting[-1] if fitting else 1

    def overload(self) -> Request | None:
        """The newest waiting request of those up to the first that would be late; None if nobody
        would be, or if nobody waits there. Without it the rest makes another plan."""
        finish_s = self.now_s
        newest: Request | None = None
        for task in self.tasks:
            finish_s += task.cost_s
            if task.cohort is None:
                candidates = (newest, *task.requests) if newest else task.requests
                newest = max(candidates, key=lambda request: request.id)
            if finish_s > task.deadline_s + EPSILON_S and newest is not None:
                return newest
        return None

    def slack_without(self, task: Task) -> float:
        """How long the other tasks can be put off, were this one done first."""
        slack_s, finish_s = math.inf, self.now_s + task.cost_s
        for other in self.tasks:
            if other is not task:
                finish_s += other.cost_s
                slack_s = min(slack_s, other.deadline_s - finish_s)
        return slack_s

    @property
    def length_s(self) -> float:
        """How long all of it takes."""
        return sum(task.cost_s for task in self.tasks)
