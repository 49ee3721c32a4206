"""The EDF plan: everybody leaves at the shallowest exit they accept, earliest deadline first.

A plan is a sequence of steps on the one engine, in order of deadline. Each step is one batch: a
cohort that goes on to its shallowest accepted exit, or waiting requests that are run from the image
to theirs. Laid out one after the other, the steps give

    slack     seconds by which all of the plan can be put off before somebody in it is late;
              negative if not everybody can be in time
    length    seconds that all of it typically takes

The deadline policy spends the slack on depth (``depth_selection``) and, where there is none, says
who is served (``overload``).

Where there are several models, waiting requests are run through the one that gives most accuracy
per second at their exit, the *densest*: the quickest, unless another gives clearly more. Whoever is
*hurried*, without time for that, is run through the quickest. Batches are as large as pays off; but
while the engine can do one by one all that comes, none makes its most urgent request late.

What is planned for is one answer per request. Rows that have one (those of streaming requests) are
in the plan at no cost and with no deadline.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import NamedTuple

from serving.core.latency import Times
from serving.core.policy import Cohort, Snapshot
from serving.core.request import Request
from serving.core.scheduling.path_costs import EPSILON_S, CompletionTime, Costs, densest, quickest
from serving.core.useful_exits import UsefulExits

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
    """Costs of the cohort's model, or of the one that waiting requests are run through."""
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
    """The path for waiting requests of one kind: the densest, or for hurried ones the quickest.

    A kind is a shallowest exit, and whether features must be left on the device to go on with, as a
    streaming request needs.
    """

    costs: Costs
    """Costs of the model that it leads through."""
    sizes: tuple[int, ...]
    """Batch sizes that pay off on that path, smallest first."""
    times: dict[int, Times]
    """Tail and typical seconds from the images to the exit, by these batch sizes."""
    earliest_end_s: float
    """Instant that a single image seldom ends after if it is started now."""
    hurried_before_s: float
    """Deadline before which a request is hurried: this path is typically too slow for it, and there
    is a quicker one. Minus infinity if this is the quickest."""


PathChoices = dict[tuple[int, bool, bool], _PathChoice]
"""Path by shallowest exit, whether features must be left, and whether requests are hurried."""

_Step = tuple[float, float, Times, PlannedBatch | None]
"""A step as it is laid out: the instant that orders it, the instant by which it must end, its tail
and typical seconds, and its ``PlannedBatch`` if a decision may be about it."""
_due_s, _must_end_s, _deadline_s = itemgetter(0), itemgetter(1), attrgetter("deadline_s")
_bounds = attrgetter("min_depth", "max_depth")


class EdfPlan:
    """The plan for one snapshot: its steps in order of deadline, their slack and their length."""

    def __init__(
        self,
        snapshot: Snapshot,
        models: Sequence[Costs],
        batch_sizes: Sequence[int],
        streaming_ids: frozenset[int],
        useful_exits: Sequence[UsefulExits],
        path_choices: PathChoices | None = None,
        first: tuple[Request, ...] = (),
    ) -> None:
        """Plan ``snapshot`` with the costs of each of ``models``, in batches of ``batch_sizes``.

        ``streaming_ids`` are the requests of the snapshot that can be answered more than once,
        ``useful_exits`` those of each model, and ``path_choices`` what other plans of the same
        decision have found. ``first`` are waiting requests, in order of deadline, that go right
        after all cohorts, however urgent the others are.
        """
        self.now_s = snapshot.now_s
        self.slack_s = math.inf
        """Seconds by which the whole plan can be put off before somebody in it is late."""
        self.share_s = math.inf
        """Seconds of slack that each step of waiting requests may use, so that there is enough for
        all of them; a deficit counts in full for each."""
        self.length_s = 0.0
        """Seconds that the whole plan typically takes."""
        self.num_waiting_steps = 0
        """Number of steps that are batches of waiting requests."""
        self.batches: list[PlannedBatch] = []
        """Steps that a decision may be about, in order of deadline. Of steps of waiting requests
        that are alike it has only the first, which has the most slack before it."""
        self._kinds_planned: set[tuple[int, int, int, int, int]] = set()
        self.models = models
        self._rate_hz = snapshot.demand.rate_hz
        self.streaming_ids = streaming_ids
        self.batch_sizes = batch_sizes
        self._useful_exits = useful_exits
        self._path_choices = {} if path_choices is None else path_choices
        self._steps = [self._plan_cohort(cohort, snapshot.answered) for cohort in snapshot.cohorts]
        if first:
            self._steps.sort(key=_due_s)
            self._add_waiting(first, self._steps)
            ids = {request.id for request in first}
            rest = [request for request in snapshot.waiting if request.id not in ids]
            self._add_waiting(tuple(rest), self._steps)
        else:
            self._add_waiting(snapshot.waiting, self._steps)
            self._steps.sort(key=_due_s)
        self._lay_out()

    def _lay_out(self) -> None:
        """Lay the steps out one after the other and measure the slack before each, and of all.

        This is what ``CompletionTime`` adds up, written out here for speed.
        """
        typical_s, variance, length_s, slack_s = self.now_s, 0.0, 0.0, math.inf
        share_s, num_waiting = math.inf, 0
        for _, deadline_s, (tail_s, median_s), planned in self._steps:
            if planned is not None:
                planned.slack_before_s = slack_s + EPSILON_S
                self.batches.append(planned)
            if planned is None or planned.cohort is None:
                num_waiting += 1
            typical_s += median_s
            variance += (tail_s - median_s) ** 2
            length_s += median_s
            left_s = deadline_s - (typical_s + math.sqrt(variance))
            slack_s = left_s if left_s < slack_s else slack_s
            if left_s < share_s * num_waiting:
                share_s = left_s / num_waiting
        self.num_waiting_steps = num_waiting
        self.length_s, self.slack_s = length_s, slack_s + EPSILON_S
        self.share_s = min(self.slack_s, share_s + EPSILON_S)

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

    def _add_waiting(self, waiting: tuple[Request, ...], steps: list[_Step]) -> None:
        """Add to ``steps`` those of waiting requests, each a batch as large as pays off.

        A batch is of requests that have the same depth bounds and follow each other in the queue.
        """
        if not waiting:
            return
        depth, max_depth = _bounds(waiting[0])
        if not [r for r in waiting if r.min_depth != depth or r.max_depth != max_depth]:
            self._add_group(waiting, depth, steps)
            return
        for (depth, _), group in groupby(waiting, key=_bounds):
            self._add_group(tuple(group), depth, steps)

    def _add_group(self, waiting: tuple[Request, ...], depth: int, steps: list[_Step]) -> None:
        """Add the steps of waiting requests that all have the same depth bounds, in batches.

        ``depth`` is the shallowest exit that they accept.
        """
        if self.streaming_ids:
            self._add_group_with_streaming(waiting, depth, steps)
            return
        choice = self._path_choice(depth, False)
        if waiting[0].deadline_s < choice.hurried_before_s:
            num_hurried = bisect_left(waiting, choice.hurried_before_s, key=_deadline_s)
            self._add_batches(waiting[:num_hurried], self._path_choice(depth, False, True), steps)
            waiting = waiting[num_hurried:]
        self._add_batches(waiting, choice, steps)

    def _add_batches(
        self, waiting: tuple[Request, ...], choice: _PathChoice, steps: list[_Step]
    ) -> None:
        """Add steps of waiting requests that all take one path, in batches as large as pays off.

        While batches are not needed, they are smaller if the first request would be late otherwise.
        """
        earliest_end_s, sizes = choice.earliest_end_s, choice.sizes
        may_be_smaller = len(sizes) > 1 and not self.needs_batches(choice.costs)
        start, count, previous, largest = 0, len(waiting), 0, sizes[-1]
        typical_s, variance = self.now_s, 0.0  # of what goes before, as ``CompletionTime`` has it
        while start < count:
            due_s, size = waiting[start].deadline_s, largest
            if start + size > count:
                size = max([paying for paying in sizes if start + paying <= count])
            times = tail_s, median_s = choice.times[size]
            if may_be_smaller:
                squares = (tail_s - median_s) ** 2
                if typical_s + median_s + math.sqrt(variance + squares) > due_s:
                    size = self._size_in_time(choice, size, due_s - typical_s, variance)
                    times = tail_s, median_s = choice.times[size]
                    squares = (tail_s - median_s) ** 2
                typical_s += median_s
                variance += squares
            # A request that is late only by its tail time still gets its chance, at once.
            deadline_s = due_s if due_s > earliest_end_s else earliest_end_s
            planned = None
            if size != previous:
                previous, batch = size, waiting[start : start + size]
                planned = self._first_of_its_kind(batch, deadline_s, times, choice, 0)
            steps.append((due_s, deadline_s, times, planned))
            start += size

    @staticmethod
    def _size_in_time(choice: _PathChoice, size: int, left_s: float, variance: float) -> int:
        """Return the largest batch below ``size`` that ends within ``left_s``; ``size`` if none.

        ``variance`` is that of the runs before it.
        """
        for smaller in reversed(choice.sizes):
            tail_s, median_s = choice.times[smaller]
            end_s = median_s + math.sqrt(variance + (tail_s - median_s) ** 2)
            if smaller < size and end_s <= left_s:
                return smaller
        return size

    def _add_group_with_streaming(
        self, waiting: tuple[Request, ...], depth: int, steps: list[_Step]
    ) -> None:
        """Add such steps where some requests can be answered more than once."""
        streaming_ids = self.streaming_ids
        start, count, previous = 0, len(waiting), (0, 0)
        while start < count:
            due_s = waiting[start].deadline_s
            streams = waiting[start].id in streaming_ids
            hurried = due_s < self._path_choice(depth, streams).hurried_before_s
            choice = self._path_choice(depth, streams, hurried)
            size = max([paying for paying in choice.sizes if start + paying <= count])
            batch, times = waiting[start : start + size], choice.times[size]
            num_streaming = len([request for request in batch if request.id in streaming_ids])
            if num_streaming:  # the first may not stream, yet one behind it does
                choice = self._path_choice(depth, True, hurried)
                times = choice.times.get(size) or choice.costs.path(depth, size, streams=True)
            deadline_s = max(due_s, choice.earliest_end_s)
            planned = None
            if (size, num_streaming) != previous:
                previous = size, num_streaming
                planned = self._first_of_its_kind(batch, deadline_s, times, choice, num_streaming)
            steps.append((due_s, deadline_s, times, planned))
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
        model = choice.costs.paths.model
        kind_key = (first.min_depth, first.max_depth, len(requests), num_streaming, model)
        if kind_key in self._kinds_planned:
            return None
        self._kinds_planned.add(kind_key)
        return PlannedBatch(
            deadline_s, times, requests, None, requests, choice.costs, (), num_streaming
        )

    def _path_choice(self, depth: int, streams: bool, hurried: bool = False) -> _PathChoice:
        """Return the path to exit ``depth`` for waiting requests, found once per plan.

        It is the densest, or for ``hurried`` requests the quickest. ``streams``: whether features
        must be left on the device to go on with.
        """
        key = (depth, streams, hurried)
        choice = self._path_choices.get(key)
        if choice is None:
            soonest = quickest(self.models, depth, streams)
            costs, hurried_before_s = soonest, -math.inf
            if not hurried:
                costs = densest(self.models, self._useful_exits, soonest, depth, streams)
            sizes = costs.paying_sizes(depth, self.batch_sizes)
            times = {size: costs.path(depth, size, streams=streams) for size in sizes}
            if costs is not soonest:
                hurried_before_s = self.now_s + times[1][1] - EPSILON_S
            choice = _PathChoice(costs, sizes, times, self.now_s + times[1][0], hurried_before_s)
            self._path_choices[key] = choice
        return choice

    def way_in(self, depth: int, streams: bool, hurried: bool = False) -> Costs:
        """Return the costs of the model through which waiting requests are taken to exit ``depth``.

        ``hurried``: those who have no time for the densest path. ``streams``: whether features must
        be left on the device to go on with.
        """
        return self._path_choice(depth, streams, hurried).costs

    def hurried_before_s(self, depth: int, streams: bool) -> float:
        """Return the deadline before which a waiting request is hurried."""
        return self._path_choice(depth, streams).hurried_before_s

    def backlogs_s(self, budgets_s: Sequence[float]) -> list[float]:
        """Return the backlog in seconds that a newcomer with each of these budgets would find.

        That is how long everything typically takes that is due before its deadline. ``budgets_s``
        come smallest first.
        """
        backlogs_s, seconds = [], 0.0
        steps = iter(sorted(self._steps, key=_must_end_s))
        step = next(steps, None)
        for budget_s in budgets_s:
            due_s = self.now_s + budget_s
            while step is not None and step[1] <= due_s:
                seconds += step[2][1]
                step = next(steps, None)
            backlogs_s.append(seconds)
        return backlogs_s

    def needs_batches(self, costs: Costs) -> bool:
        """Return whether more comes than the engine can do one by one, through this model."""
        return self._rate_hz * costs.typical_path(1) >= 1.0

    def slack_in_parts(
        self, planned: PlannedBatch, size: int, times: Times
    ) -> tuple[float, float, float]:
        """Return the slack of the plan with the first ``size`` requests of a batch by themselves.

        They take ``times``, and the others of it follow one by one. With the slack come the share
        of it that each step of waiting requests may use, and the seconds that the others take.
        """
        one = planned.costs.path(planned.min_depth, 1)
        first, rest = planned.requests[0], planned.requests[size:]
        steps = [step[:3] for step in self._steps if step[3] is not planned]
        steps.append((first.deadline_s, max(first.deadline_s, self.now_s + times[0]), times))
        steps += [(request.deadline_s, request.deadline_s, one) for request in rest]
        completion, slack_s, share_s = CompletionTime(self.now_s), math.inf, math.inf
        for number, (_, deadline_s, each) in enumerate(sorted(steps, key=_due_s), start=1):
            left_s = deadline_s - completion.add(each)
            slack_s, share_s = min(slack_s, left_s), min(share_s, left_s / number)
        return slack_s, share_s, len(rest) * one[1]

    def slack_of(self, waiting: tuple[Request, ...], cohorts: Collection[int]) -> float:
        """Return the slack of a plan of some who wait, by deadline, and of some of the cohorts.

        ``cohorts`` are the ids of those that it is without.
        """
        steps = [
            step
            for step in self._steps
            if (planned := step[3]) and planned.cohort and planned.cohort.id not in cohorts
        ]
        self._add_waiting(waiting, steps)
        completion, slack_s = CompletionTime(self.now_s), math.inf
        for _, deadline_s, times, _ in sorted(steps, key=_due_s):
            slack_s = min(slack_s, deadline_s - completion.add(times))
        return slack_s + EPSILON_S

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
