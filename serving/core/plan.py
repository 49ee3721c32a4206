"""The plan: everybody out at the shallowest exit they accept, by deadline.

It is what the deadline policy goes by. ``Plan.slack_s`` is how long all of it can be put off before
somebody in it is late; if it is negative, not everybody can be in time.

What is planned for is one answer. Rows that have one are in the plan at no cost and with no
deadline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving.core.costs import EPSILON_S, Costs, Row
from serving.core.latency import Times
from serving.core.policy import Cohort, Snapshot
from serving.core.request import Request

NOTHING: Times = (0.0, 0.0)


@dataclass(slots=True)
class Task:
    """One step of the plan: a cohort that leaves, or waiting requests that go to an exit."""

    deadline_s: float
    times: Times
    requests: tuple[Request, ...]
    """Each row."""
    cohort: Cohort | None
    owed: tuple[Request, ...]
    """Rows without an answer. If there are none, the step takes no time and is never due."""
    costs: Costs
    """Of the cohort's model, or of the one that waiting requests are answered soonest by."""
    stale: tuple[Request, ...] = ()
    """Growing rows that are to be answered at the cohort's depth before it goes on."""
    num_growing: int = 0
    """Rows that can be answered more than once."""
    ahead_s: float = math.inf
    """By how much those before it can be put off."""

    @property
    def cost_s(self) -> float:
        """What it seldom takes longer than."""
        return self.times[0]

    @property
    def min_depth(self) -> int:
        """Of each of its requests."""
        return self.requests[0].min_depth

    @property
    def max_depth(self) -> int:
        """Of each of its requests."""
        return self.requests[0].max_depth


@dataclass(frozen=True, slots=True)
class _Kind:
    """What waiting requests share that want the same shallowest exit, and features to go on with or
    not."""

    costs: Costs
    """Of the model that one image is soonest through."""
    sizes: tuple[int, ...]
    """Batch sizes that pay, smallest first."""
    times: dict[int, Times]
    """Of batches of these sizes to that exit."""


class Plan:
    """The plan for one snapshot."""

    def __init__(
        self,
        snapshot: Snapshot,
        models: Sequence[Costs],
        batch_sizes: Sequence[int],
        growing: frozenset[int],
    ) -> None:
        """``growing``: who of the snapshot can be answered more than once."""
        self.now_s = snapshot.now_s
        self.slack_s = math.inf
        self.length_s = 0.0
        """How long all of it typically takes."""
        self.num_waiting = 0
        """Steps of waiting requests."""
        self.tasks: list[Task] = []
        """Steps that a decision may be about, in their order: of waiting ones that are alike only
        the first, which has the most slack ahead of it."""
        self._steps: list[tuple[float, Times, Task | None]] = []
        """All of them, with the instant by which each must end."""
        self._alike: set[tuple[int, int, int, int]] = set()
        self._models = models
        self._growing = growing
        self._sizes = batch_sizes
        self._row = Row(self.now_s)
        self._kinds: dict[tuple[int, bool], _Kind] = {}
        leaving = [self._leaving(cohort, snapshot.answered) for cohort in snapshot.cohorts]
        leaving.sort(key=lambda task: task.deadline_s)
        waiting, start = snapshot.waiting, 0
        for task in leaving:
            while start < len(waiting) and waiting[start].deadline_s < task.deadline_s:
                start = self._add_waiting(waiting, start)
            self._add(task)
        while start < len(waiting):
            start = self._add_waiting(waiting, start)
        self.slack_s += EPSILON_S

    def _add(self, task: Task) -> None:
        task.ahead_s = self.slack_s + EPSILON_S
        self.tasks.append(task)
        self._step(task.deadline_s, task.times, task)

    def _step(self, deadline_s: float, times: Times, task: Task | None) -> None:
        slack_s = deadline_s - self._row.add(times)
        self.slack_s = min(self.slack_s, slack_s)
        self.length_s += times[1]
        self._steps.append((deadline_s, times, task))

    def _leaving(self, cohort: Cohort, answered: Mapping[int, int]) -> Task:
        requests, costs = cohort.requests, self._models[cohort.model]
        min_depth = requests[0].min_depth
        owed = tuple(r for r in requests if r.id not in answered) if answered else requests
        task = Task(math.inf, NOTHING, requests, cohort, owed, costs)
        if owed:
            depth = max(cohort.depth, min_depth)
            task.deadline_s = min(r.deadline_s for r in owed)
            task.times = costs.way_out(cohort.depth, depth, len(owed))
            task.deadline_s = max(task.deadline_s, self.now_s + task.times[0])
        if self._growing:
            growing = [request for request in requests if request.id in self._growing]
            task.num_growing = len(growing)
            if cohort.depth >= min_depth:
                task.stale = tuple(r for r in growing if answered.get(r.id, 0) < cohort.depth)
        return task

    def _add_waiting(self, waiting: tuple[Request, ...], start: int) -> int:
        """The next of the waiting requests, in as large a batch with those behind it that have the
        same depth bounds as pays; where the ones after them begin."""
        first = waiting[start]
        depth, max_depth = first.min_depth, first.max_depth
        grows = bool(self._growing) and first.id in self._growing
        kind = self._kind(depth, grows)
        size = 1
        for request in waiting[start + 1 : start + kind.sizes[-1]]:
            if request.min_depth != depth or request.max_depth != max_depth:
                break
            size += 1
        if size not in kind.times:
            size = max(paying for paying in kind.sizes if paying <= size)
        requests = waiting[start : start + size]
        growing = self._num_growing(requests) if self._growing else 0
        if growing and not grows:  # one that grows has joined
            kind = self._kind(depth, True)
        times = kind.times[size] if size in kind.times else kind.costs.path(depth, size, grows=True)
        # A request that is late only by the cautious estimate still gets its chance, at once.
        deadline_s = max(first.deadline_s, self.now_s + kind.times[1][0])
        self.num_waiting += 1
        alike = (depth, max_depth, size, growing)
        if alike in self._alike:
            self._step(deadline_s, times, None)
        else:
            self._alike.add(alike)
            task = Task(deadline_s, times, requests, None, requests, kind.costs, (), growing)
            self._add(task)
        return start + size

    def _kind(self, depth: int, grows: bool) -> _Kind:
        key = (depth, grows)
        kind = self._kinds.get(key)
        if kind is None:
            costs = min(self._models, key=lambda costs: costs.typical_path(depth, grows=grows))
            sizes = costs.paying_sizes(depth, self._sizes)
            times = {size: costs.path(depth, size, grows=grows) for size in sizes}
            kind = _Kind(costs, sizes, times)
            self._kinds[key] = kind
        return kind

    def quickest(self, depth: int, grows: bool) -> Costs:
        """The model that one image is soonest through to exit ``depth`` of."""
        return self._kind(depth, grows).costs

    def _num_growing(self, requests: tuple[Request, ...]) -> int:
        return len([request for request in requests if request.id in self._growing])

    def ahead_s(self, budgets_s: Sequence[float]) -> list[float]:
        """How long what is due before somebody typically takes who comes now, for each of these
        budgets, smallest first."""
        ahead, seconds, steps = [], 0.0, iter(self._steps)
        step = next(steps, None)
        for budget_s in budgets_s:
            due_s = self.now_s + budget_s
            while step is not None and step[0] <= due_s:
                seconds += step[1][1]
                step = next(steps, None)
            ahead.append(seconds)
        return ahead

    def slack_without(self, task: Task) -> float:
        """How long the other tasks can be put off, were this one done first."""
        row, slack_s = Row(self.now_s), math.inf
        row.add(task.times)
        for deadline_s, times, other in self._steps:
            if other is not task:
                slack_s = min(slack_s, deadline_s - row.add(times))
        return slack_s

    @property
    def is_alone(self) -> bool:
        """Whether all of it is one step of waiting requests."""
        return len(self._steps) == self.num_waiting == 1
