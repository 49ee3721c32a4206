"""The EDF plan: everybody leaves at the shallowest exit they accept, earliest deadline first.

A plan is a sequence of steps on the one engine, in order of deadline. Each step is one batch: a
cohort that goes on to its shallowest accepted exit, or waiting requests that are run from the image
to theirs (``waiting_batches``). Laid out one after the other, the steps give

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
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter

from serving.core.latency import Times
from serving.core.policy import Cohort, Snapshot
from serving.core.request import Request
from serving.core.scheduling.path_costs import EPSILON_S, CompletionTime, Costs
from serving.core.scheduling.planned_batch import NO_TIME, PlannedBatch, Step
from serving.core.scheduling.waiting_batches import WaitingBatches
from serving.core.scheduling.ways_in import WaysIn

_due_s, _must_end_s = itemgetter(0), itemgetter(1)


class EdfPlan:
    """The plan for one snapshot: its steps in order of deadline, their slack and their length."""

    def __init__(
        self,
        snapshot: Snapshot,
        ways_in: WaysIn,
        streaming_ids: frozenset[int],
        first: tuple[Request, ...] = (),
    ) -> None:
        """Plan ``snapshot`` with the models of ``ways_in``, which plans of one decision share.

        ``streaming_ids`` are the requests of the snapshot that can be answered more than once.
        ``first`` are waiting requests, in order of deadline, that go right after all cohorts,
        however urgent the others are.
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
        self.ways_in = ways_in
        self.models = ways_in.models
        self.streaming_ids = streaming_ids
        self._waiting_batches = WaitingBatches(
            snapshot.now_s, snapshot.demand.rate_hz, ways_in, streaming_ids
        )
        self._steps = [self._plan_cohort(cohort, snapshot.answered) for cohort in snapshot.cohorts]
        if first:
            self._steps.sort(key=_due_s)
            self._steps += self._waiting_batches.steps(first)
            ids = {request.id for request in first}
            rest = [request for request in snapshot.waiting if request.id not in ids]
            self._steps += self._waiting_batches.steps(tuple(rest))
        else:
            self._steps += self._waiting_batches.steps(snapshot.waiting)
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

    def _plan_cohort(self, cohort: Cohort, answered: Mapping[int, int]) -> Step:
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
        return self._waiting_batches.needed(costs)

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
        steps += self._waiting_batches.steps(waiting)
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
