"""The EDF plan: everybody leaves at the shallowest exit they accept, earliest deadline first.

A plan is a sequence of steps on the one engine, in order of deadline. Each step is one batch: a
cohort that goes on to its shallowest accepted exit, or waiting requests that are run from the image
to theirs. Laid out one after the other, the steps give

    slack     seconds by which all of the plan can be put off before somebody in it is late;
              negative if not everybody can be in time
    length    seconds that all of it typically takes

The deadline policy spends the slack on depth (``depth_selection``) and, where there is none, says
who is served (``overload``).

What is planned for is one answer per request. Rows that have one (those of streaming requests) are
in the plan at no cost and with no deadline.
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
"""Times of a step in which nothing runs."""


@dataclass(slots=True)
class PlannedBatch:
    """One step of the plan: a cohort that leaves, or waiting requests that are run to an exit."""

    deadline_s: float
    """Instant by which the step must end: the earliest deadline of the requests that are owed an
    answer, or, if that is too soon, the instant by which the step ends if it is taken now. Infinite
    if nobody is owed an answer."""
    times: Times
    """Tail and typical seconds that the step takes."""
    requests: tuple[Request, ...]
    """Requests of the batch, one for each row."""
    cohort: Cohort | None
    """Cohort that leaves; None for waiting requests."""
    owed: tuple[Request, ...]
    """Requests of the batch that have no answer yet. If there are none, the step takes no time and
    is never due."""
    costs: Costs
    """Costs of the cohort's model, or of the model that answers waiting requests soonest."""
    to_answer: tuple[Request, ...] = ()
    """Streaming requests that are to be answered at the cohort's depth before it goes on."""
    num_streaming: int = 0
    """Number of requests in the batch that can be answered more than once."""
    slack_before_s: float = math.inf
    """Seconds by which all steps before this one can be put off."""

    @property
    def tail_s(self) -> float:
        """Seconds that the step seldom exceeds."""
        return self.times[0]

    @property
    def min_depth(self) -> int:
        """Shallowest exit that the requests accept, the same for the whole batch."""
        return self.requests[0].min_depth

    @property
    def max_depth(self) -> int:
        """Deepest exit that the requests accept, the same for the whole batch."""
        return self.requests[0].max_depth


class _PathChoice(NamedTuple):
    """The quickest path for waiting requests of one kind.

    A kind is a shallowest exit, and whether features must be left on the device to go on with, as a
    streaming request needs.
    """

    costs: Costs
    """Costs of the model through which one image is soonest at the exit."""
    sizes: tuple[int, ...]
    """Batch sizes that pay off on that path, smallest first."""
    times: dict[int, Times]
    """Tail and typical seconds from the images to the exit, by these batch sizes."""
    earliest_end_s: float
    """Instant that a single image seldom ends after if it is started now."""


_Step = tuple[float, float, Times, PlannedBatch | None]
"""A step as it is laid out: the instant that orders it, the instant by which it must end, its tail
and typical seconds, and its ``PlannedBatch`` if a decision may be about it."""
_due_s = itemgetter(0)


class EdfPlan:
    """The plan for one snapshot: its steps in order of deadline, their slack and their length."""

    def __init__(
        self,
        snapshot: Snapshot,
        models: Sequence[Costs],
        batch_sizes: Sequence[int],
        streaming_ids: frozenset[int],
    ) -> None:
        """Plan ``snapshot`` with the costs of each of ``models``, in batches of ``batch_sizes``.

        ``streaming_ids`` are the requests of the snapshot that can be answered more than once.
        """
        self.now_s = snapshot.now_s
        self.slack_s = math.inf
        """Seconds by which the whole plan can be put off before somebody in it is late."""
        self.length_s = 0.0
        """Seconds that the whole plan typically takes."""
        self.num_waiting_steps = 0
        """Number of steps that are batches of waiting requests."""
        self.batches: list[PlannedBatch] = []
        """Steps that a decision may be about, in order of deadline. Of steps of waiting requests
        that are alike it has only the first, which has the most slack before it."""
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
        """Lay the steps out one after the other and measure the slack before each, and of all.

        This is what ``CompletionTime`` adds up, written out here for speed.
        """
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
        """Return the step in which ``cohort`` leaves at the shallowest exit that it accepts."""
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
        """Add the steps of waiting requests, each a batch as large as pays off.

        A batch is of requests that have the same depth bounds and follow each other in the queue.
        """
        start = depth = max_depth = 0
        for stop, request in enumerate(waiting):
            if request.min_depth != depth or request.max_depth != max_depth:
                if stop > start:
                    self._add_group(waiting[start:stop], depth, max_depth)
                start, depth, max_depth = stop, request.min_depth, request.max_depth
        self._add_group(waiting[start:], depth, max_depth)

    def _add_group(self, waiting: tuple[Request, ...], depth: int, max_depth: int) -> None:
        """Add the steps of waiting requests that all have these depth bounds, batch after batch."""
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
                if num_streaming:  # the first may not stream, yet one behind it does
                    choice = self._path_choice(depth, True)
                    times = choice.times.get(size) or choice.costs.path(depth, size, streams=True)
            # A request that is late only by its tail time still gets its chance, at once.
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
        """Return these requests as a ``PlannedBatch``; None if another step is like it already.

        Steps of waiting requests are alike if their depth bounds, their size and their number of
        streaming requests are the same.
        """
        first = requests[0]
        kind_key = (first.min_depth, first.max_depth, len(requests), num_streaming)
        if kind_key in self._kinds_planned:
            return None
        self._kinds_planned.add(kind_key)
        return PlannedBatch(
            deadline_s, times, requests, None, requests, choice.costs, (), num_streaming
        )

    def _path_choice(self, depth: int, streams: bool) -> _PathChoice:
        """Return the quickest path to exit ``depth`` for waiting requests, found once per plan.

        ``streams``: whether features must be left on the device to go on with.
        """
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
        """Return the costs of the model through which one image is soonest at exit ``depth``.

        ``streams``: whether features must be left on the device to go on with.
        """
        return self._path_choice(depth, streams).costs

    def backlogs_s(self, budgets_s: Sequence[float]) -> list[float]:
        """Return the backlog in seconds that a newcomer with each of these budgets would find.

        That is how long everything typically takes that is due before its deadline. ``budgets_s``
        come smallest first.
        """
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
        """Return the seconds by which the other steps can be put off once ``planned`` is done."""
        completion, slack_s = CompletionTime(self.now_s), math.inf
        completion.add(planned.times)
        for _, deadline_s, times, other in self._steps:
            if other is not planned:
                slack_s = min(slack_s, deadline_s - completion.add(times))
        return slack_s

    @property
    def is_alone(self) -> bool:
        """True if the whole plan is one step of waiting requests."""
        return len(self._steps) == self.num_waiting_steps == 1
