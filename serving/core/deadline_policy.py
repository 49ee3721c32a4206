"""The policy that serves: late binding of depth, under a plan that keeps every promise.

The plan (see ``serving.core.plan``) has everybody leave at the shallowest exit they accept, in
order of deadline. Its **slack** is how long all of it can be put off before somebody is late.

* A plan without lateness is a promise. A newcomer that would break it is shed; nobody who was
  admitted before is.
* Slack is spent on depth: on the request whose next stack buys most accuracy per second, if that
  stack fits into the slack. Since each exit gains less than the one before, depth is shared evenly.
* When no stack fits, the plan's first step is taken: the most urgent request leaves where it is.

Depth is thus never decided on arrival, and one request's depth never makes another one late.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from serving.core import segment as segments
from serving.core.errors import ShedReason
from serving.core.plan import EPSILON_S, Costs, Plan, Task
from serving.core.policy import Cohort, Decision, Latency, Run, ShedRequests, Snapshot, Wait
from serving.core.request import Request
from serving.core.segment import Segment

FUSED_WORTH = 0.02
"""Relative accuracy that an exit must add for a lone request to reach it by a fused run, where
unit segments would not get that far. A fused run that turns out slow cannot be cut short: about one
in fifty exceeds its prediction on a shared machine."""
MIN_GAIN = 1e-6
"""Accuracy that an exit is taken to add where measurement says none or less, so that depth still
follows the budget."""


class DeadlinePolicy:
    """The policy for one model on one runner.

    ``accuracy`` is the expected AP of exits 1 .. N. Needs every unit segment; fused segments are
    used where ``available`` has them.
    """

    def __init__(
        self,
        available: Collection[Segment],
        accuracy: Sequence[float],
        batch_sizes: Sequence[int],
        max_cohorts: int,
    ) -> None:
        num_exits = len(accuracy)
        missing = set(segments.unit_segments(num_exits)) - set(available)
        if missing:
            raise ValueError(f"the runner lacks {', '.join(sorted(segments.names(missing)))}")
        exits = segments.fused_segments(num_exits)
        self._fused = frozenset(s.stop for s in exits if s in available)
        best_so_far = accuracy[0]
        # At k: what exit k + 1 adds over the best before it, and the same as a share of it.
        self._gain, self._worth = [math.inf], [math.inf]
        for ap in accuracy[1:]:
            self._gain.append(max(ap - best_so_far, MIN_GAIN))
            best_so_far = max(best_so_far, ap)
            self._worth.append(self._gain[-1] / max(best_so_far, MIN_GAIN))
        self._batch_sizes = tuple(batch_sizes)
        self._max_cohorts = max_cohorts

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """The next action. Raises KeyError if ``latency`` does not know a segment it needs."""
        costs = Costs(latency, self._fused)
        expired = self._shed_expired(snapshot, costs)
        if expired is not None:
            return expired
        plan = Plan(snapshot, costs, self._batch_sizes)
        if not plan.tasks:
            return Wait()
        if plan.slack_s < 0:
            one_by_one = Plan(snapshot, costs, (1,))  # a batch may have delayed somebody too long
            plan = max(plan, one_by_one, key=lambda candidate: candidate.slack_s)
            shed = plan.overload()
            if shed is not None:
                return ShedRequests((shed,), ShedReason.REJECTED_OVERLOAD, plan.length_s)
        room = len(snapshot.cohorts) < self._max_cohorts
        return self._spend_slack(plan, costs, room) or self._leave(plan, costs, room)

    def _shed_expired(self, snapshot: Snapshot, costs: Costs) -> ShedRequests | None:
        """Those that would be late even alone and at a typical pace."""
        latest_s = snapshot.now_s - EPSILON_S
        typical_s: dict[int, float] = {}
        expired = []
        for request in snapshot.waiting:
            depth = request.min_depth
            if depth not in typical_s:
                unit_s = costs.typical(segments.unit_path(depth))
                if depth in self._fused:
                    unit_s = min(unit_s, costs.typical((segments.fused_exit(depth),)))
                typical_s[depth] = unit_s
            if latest_s + typical_s[depth] > request.deadline_s:
                expired.append(request)
        if expired:
            return ShedRequests(tuple(expired), ShedReason.REJECTED_EXPIRED, 0.0)
        for cohort in snapshot.cohorts:
            left_s = costs.typical(_way_out(cohort))
            expired = [r for r in cohort.requests if latest_s + left_s > r.deadline_s]
            if expired:
                return ShedRequests(tuple(expired), ShedReason.EVICTED_EXPIRED, 0.0)
        return None

    # -- going deeper ----------------------------------------------------------------------------

    def _spend_slack(self, plan: Plan, costs: Costs, room: bool) -> Run | None:
        """The step that buys most, None if none fits."""
        if len(plan.tasks) == 1 and plan.tasks[0].cohort is None:
            return self._start_alone(plan.tasks[0], plan.slack_s, costs)
        best, best_rate = None, 0.0
        seen: set[tuple[int, int, int]] = set()
        for task in plan.tasks:
            cohort = task.cohort
            if cohort is None:
                # Of waiting tasks that are alike, the first has the most slack ahead of it.
                kind = (task.min_depth, task.max_depth, len(task.requests))
                if kind in seen or not room:
                    continue
                seen.add(kind)
            elif cohort.depth == task.max_depth and task.cost_s <= plan.slack_s:
                # It cannot go deeper, so it may as well be answered now and make room.
                return Run(segments.head(cohort.depth), cohort.requests, cohort.id)
            rate = self._rate(task, plan.slack_s, costs)
            if (
                rate and rate >= best_rate
            ):  # of equals the one with most time, which has paid for it
                best, best_rate = task, rate
        if best is None:
            return None
        if best.cohort is None:
            return Run(segments.STEM, best.requests, None)
        return Run(segments.stack(best.cohort.depth + 1), best.requests, best.cohort.id)

    def _rate(self, task: Task, slack_s: float, costs: Costs) -> float:
        """Accuracy per second that one more stack for ``task`` buys.

        0 if it may not go deeper, or if that does not fit into everybody's slack or its next step
        into the slack of those before it. Infinite if its next step is in the plan anyway.
        """
        batch = len(task.requests)
        if task.cohort is None:
            if costs.stem(batch) > task.ahead_s:
                return 0.0
            depth, extra_s = task.min_depth, costs.unit_path(task.min_depth, batch) - task.cost_s
        else:
            depth, extra_s = task.cohort.depth, 0.0
        if depth >= task.max_depth:
            return 0.0
        stack_s = costs.stack(depth + 1, batch)
        if depth < task.min_depth:
            return math.inf if stack_s <= task.ahead_s else 0.0
        extra_s += stack_s + costs.head(depth + 1, batch) - costs.head(depth, batch)
        return self._gain[depth] * batch / stack_s if extra_s <= slack_s else 0.0

    def _start_alone(self, task: Task, slack_s: float, costs: Costs) -> Run:
        """Nobody else is here: fused if that reaches an exit worth it, else stoppable."""
        batch, limit_s = len(task.requests), task.cost_s + slack_s
        depths = range(task.min_depth, task.max_depth + 1)
        unit = max((d for d in depths if costs.unit_path(d, batch) <= limit_s), default=0)
        if unit == 0:  # only a fused run is quick enough, and only the first exit is certain
            unit, segment = task.min_depth, segments.fused_exit(task.min_depth)
        else:
            segment = segments.STEM
        for depth in range(unit + 1, task.max_depth + 1):
            if self._worth[depth - 1] < FUSED_WORTH or costs.fused(depth, batch) > limit_s:
                break
            segment = segments.fused_exit(depth)
        return Run(segment, task.requests, None)

    # -- leaving ---------------------------------------------------------------------------------

    def _leave(self, plan: Plan, costs: Costs, room: bool) -> Run:
        """The first step of the plan that can be taken."""
        for task in plan.tasks:
            cohort = task.cohort
            if cohort is None:
                segment = self._way_in(task, plan.slack_s, costs, room)
                if segment is not None:
                    return Run(segment, task.requests, None)
            elif cohort.depth < task.min_depth:
                return Run(segments.stack(cohort.depth + 1), cohort.requests, cohort.id)
            else:
                rows = self._urgent(cohort, plan, task, costs)
                return Run(segments.head(cohort.depth), rows, cohort.id)
        raise AssertionError("a plan without room for a cohort has one in it")

    def _way_in(self, task: Task, slack_s: float, costs: Costs, room: bool) -> Segment | None:
        """The deepest fused run that fits into the slack, or else the start of the unit path;
        None if there is no room for another cohort and no fused segment does without."""
        batch = len(task.requests)
        depths = [d for d in range(task.min_depth, task.max_depth + 1) if d in self._fused]
        fitting = [d for d in depths if costs.fused(d, batch) - task.cost_s <= slack_s]
        if fitting:
            return segments.fused_exit(fitting[-1])
        if room:
            return segments.STEM
        return segments.fused_exit(depths[0]) if depths else None

    def _urgent(self, cohort: Cohort, plan: Plan, task: Task, costs: Costs) -> tuple[Request, ...]:
        """The rows that must leave now, when the rest can go one deeper and harm nobody."""
        depth, everybody = cohort.depth, cohort.requests
        if depth >= task.max_depth or len(everybody) == 1:
            return everybody
        others_slack_s = plan.slack_without(task)
        by_deadline = sorted(everybody, key=lambda r: (r.deadline_s, r.id))
        for num_leaving in range(1, len(by_deadline)):
            leaving_s = costs.head(depth, num_leaving)
            staying_s = costs.way_out(depth, depth + 1, len(by_deadline) - num_leaving)
            extra_s = leaving_s + staying_s - costs.head(depth, len(everybody))
            in_time = plan.now_s + leaving_s + staying_s <= by_deadline[num_leaving].deadline_s
            if in_time and extra_s <= others_slack_s:
                leaving = set(by_deadline[:num_leaving])
                return tuple(r for r in everybody if r in leaving)  # in row order
        return everybody


def _way_out(cohort: Cohort) -> tuple[Segment, ...]:
    """What a cohort must still run through to leave at the shallowest exit it accepts."""
    depth = max(cohort.depth, cohort.requests[0].min_depth)
    stacks = map(segments.stack, range(cohort.depth + 1, depth + 1))
    return (*stacks, segments.head(depth))
