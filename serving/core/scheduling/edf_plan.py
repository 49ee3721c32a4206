"""The plan: everybody out at the shallowest exit they accept, by deadline.

The deadline policy goes by it. ``EdfPlan.slack_s`` is how long all of it can be put off before
somebody in it is late; if it is negative, not everybody can be in time.

What is planned for is one answer. Rows that have one are in the plan at no cost and with no
deadline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from serving.core.latency import Times
from serving.core.policy import Cohort, Snapshot
from serving.core.request import Request
from serving.core.scheduling.path_costs import EPSILON_S, CompletionTime, Costs, quickest

NO_TIME: Times = (0.0, 0.0)


@dataclass(slots=True)
class PlannedBatch:
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
    to_answer: tuple[Request, ...] = ()
    """Streaming rows that are to be answered at the cohort's depth before it goes on."""
    num_streaming: int = 0
    """Rows that can be answered more than once."""
    slack_before_s: float = math.inf
    """By how much those before it can be put off."""

    @property
    def tail_s(self) -> float:
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


class _PathChoice(NamedTuple):
    """What waiting requests share that want the same shallowest exit, and features to go on with or
    not."""

    costs: Costs
    """Of the model that one image is soonest through."""
    sizes: tuple[int, ...]
    """Batch sizes that pay, smallest first."""
    times: dict[int, Times]
    """Of batches of these sizes to that exit."""
    earliest_end_s: float
    """When one that is started now seldom ends later."""


_Step = tuple[float, float, Times, PlannedBatch | None]
"""A step of the plan: what it is ordered by, the instant by which it must end, what it takes, and
the task, if a decision may be about it."""
_due_s = itemgetter(0)


class EdfPlan:
    """The plan for one snapshot."""

    def __init__(
        self,
        snapshot: Snapshot,
        models: Sequence[Costs],
        batch_sizes: Sequence[int],
        streaming_ids: frozenset[int],
    ) -> None:
        """``streaming``: who of the snapshot can be answered more than once."""
        self.now_s = snapshot.now_s
        self.slack_s = math.inf
        self.length_s = 0.0
        """How long all of it typically takes."""
        self.num_waiting_steps = 0
        """Steps of waiting requests."""
        self.batches: list[PlannedBatch] = []
        """Steps that a decision may be about, in their order: of waiting ones that are alike only
        the first, which has the most slack ahead of it."""
        self._kinds_planned: set[tuple[int, int, int, int]] = set()
        self.models = models
        self.streaming_ids = streaming_ids
        self._sizes = batch_sizes
        self._path_choices: dict[tuple[int, bool], _PathChoice] = {}
        self._steps = [self._plan_cohort(cohort, snapshot.answered) for cohort in snapshot.cohorts]
        self._add_waiting(snapshot.waiting)
        self._steps.sort(key=_due_s)
        self._lay_out()

    def _lay_out(self) -> None:
        """Put the steps one after the other, as ``CompletionTime`` does, in place for speed."""
        typical_s, variance, length_s, slack_s = self.now_s, 0.0, 0.0, math.inf
        for _, deadline_s, (tail_s, median_s), planned in self._steps:
            if planned is not None:
                planned.slack_before_s = slack_s + EPSILON_S
                self.batches.append(planned)
            typical_s += median_s
            variance += (tail_s - median_s) ** 2
            length_s += median_s
            left_s = deadline_s - (typical_s + math.sqrt(variance))
            slack_s = left_s if left_s < slack_s else slack_s
        self.length_s, self.slack_s = length_s, slack_s + EPSILON_S

    def _plan_cohort(self, cohort: Cohort, answered: Mapping[int, int]) -> _Step:
        requests, costs = cohort.requests, self.models[cohort.model]
        min_depth = requests[0].min_depth
        owed = tuple([r for r in requests if r.id not in answered]) if answered else requests
        planned = PlannedBatch(math.inf, NO_TIME, requests, cohort, owed, costs)
        if owed:
            planned.times = costs.remaining_path(
                cohort.depth, max(cohort.depth, min_depth), len(owed)
            )
            deadline_s = min([r.deadline_s for r in owed])
            planned.deadline_s = max(deadline_s, self.now_s + planned.times[0])
        if self.streaming_ids:
            streaming = [request for request in requests if request.id in self.streaming_ids]
            planned.num_streaming = len(streaming)
            if cohort.depth >= min_depth:
                planned.to_answer = tuple(
                    [r for r in streaming if answered.get(r.id, 0) < cohort.depth]
                )
        return planned.deadline_s, planned.deadline_s, planned.times, planned

    def _add_waiting(self, waiting: tuple[Request, ...]) -> None:
        """Batch after batch, each as large as pays of those that have the same depth bounds and
        come one after the other."""
        start = depth = max_depth = 0
        for stop, request in enumerate(waiting):
            if request.min_depth != depth or request.max_depth != max_depth:
                if stop > start:
                    self._add_group(waiting[start:stop], depth, max_depth)
                start, depth, max_depth = stop, request.min_depth, request.max_depth
        self._add_group(waiting[start:], depth, max_depth)

    def _add_group(self, waiting: tuple[Request, ...], depth: int, max_depth: int) -> None:
        """Batch after batch of those with these bounds."""
        streaming_ids, steps = self.streaming_ids, self._steps
        start, count, num_streaming, previous = 0, len(waiting), 0, (0, 0)
        while start < count:
            due_s = waiting[start].deadline_s
            if streaming_ids or not start:
                choice = self._path_choice(depth, waiting[start].id in streaming_ids)
            size = choice.sizes[-1]
            if start + size > count:
                size = max([paying for paying in choice.sizes if start + paying <= count])
            times = choice.times[size]
            if streaming_ids:
                num_streaming = len(
                    [
                        request
                        for request in waiting[start : start + size]
                        if request.id in streaming_ids
                    ]
                )
                if num_streaming:  # one that grows may have joined others
                    choice = self._path_choice(depth, True)
                    times = choice.times.get(size) or choice.costs.path(depth, size, streams=True)
            # A request that is late only by the cautious estimate still gets its chance, at once.
            deadline_s = due_s if due_s > choice.earliest_end_s else choice.earliest_end_s
            planned = None
            if (size, num_streaming) != previous:
                previous = size, num_streaming
                batch = waiting[start : start + size]
                planned = self._first_of_its_kind(batch, deadline_s, times, choice, num_streaming)
            steps.append((due_s, deadline_s, times, planned))
            self.num_waiting_steps += 1
            start += size

    def _first_of_its_kind(
        self,
        requests: tuple[Request, ...],
        deadline_s: float,
        times: Times,
        choice: _PathChoice,
        num_streaming: int,
    ) -> PlannedBatch | None:
        """The task of a batch, unless there is one of another batch that is like it."""
        first = requests[0]
        kind_key = (first.min_depth, first.max_depth, len(requests), num_streaming)
        if kind_key in self._kinds_planned:
            return None
        self._kinds_planned.add(kind_key)
        return PlannedBatch(
            deadline_s, times, requests, None, requests, choice.costs, (), num_streaming
        )

    def _path_choice(self, depth: int, streams: bool) -> _PathChoice:
        key = (depth, streams)
        choice = self._path_choices.get(key)
        if choice is None:
            costs = quickest(self.models, depth, streams)
            sizes = costs.paying_sizes(depth, self._sizes)
            times = {size: costs.path(depth, size, streams=streams) for size in sizes}
            choice = _PathChoice(costs, sizes, times, self.now_s + times[1][0])
            self._path_choices[key] = choice
        return choice

    def quickest(self, depth: int, streams: bool) -> Costs:
        """The model that one image is soonest through to exit ``depth`` of."""
        return self._path_choice(depth, streams).costs

    def backlogs_s(self, budgets_s: Sequence[float]) -> list[float]:
        """How long what is due before somebody typically takes who comes now, for each of these
        budgets, smallest first."""
        backlogs_s, seconds, steps = [], 0.0, iter(self._steps)
        step = next(steps, None)
        for budget_s in budgets_s:
            due_s = self.now_s + budget_s
            while step is not None and step[1] <= due_s:
                seconds += step[2][1]
                step = next(steps, None)
            backlogs_s.append(seconds)
        return backlogs_s

    def slack_without(self, planned: PlannedBatch) -> float:
        """How long the other tasks can be put off, were this one done first."""
        completion, slack_s = CompletionTime(self.now_s), math.inf
        completion.add(planned.times)
        for _, deadline_s, times, other in self._steps:
            if other is not planned:
                slack_s = min(slack_s, deadline_s - completion.add(times))
        return slack_s

    @property
    def is_alone(self) -> bool:
        """Whether all of it is one step of waiting requests."""
        return len(self._steps) == self.num_waiting_steps == 1
