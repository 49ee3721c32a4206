"""Spending slack on depth: which step buys most accuracy for the time it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from serving.core import segment as segments
from serving.core.costs import EPSILON_S, Costs
from serving.core.ladder import Ladder
from serving.core.plan import Plan, Task
from serving.core.policy import Cohort, Conclude, Decision, Run, Why
from serving.core.segment import Segment

FUSED_WORTH = 0.02
"""Relative accuracy that an exit must add for a lone request to reach it by a fused run, where
unit segments would not get that far. A fused run that turns out slow cannot be cut short: about one
in fifty exceeds its prediction on a shared machine."""

_Step = tuple[float, Callable[[], Decision]]
"""How much accuracy per second the next step of a task buys, infinite if it is in the plan anyway;
and what makes that step."""

ROOM = Why("all are answered, and their place is needed")
ENOUGH = Why("all are answered, and nothing deeper is worth it or fits")
_TO_FIRST = Why("towards the shallowest exit that they accept")


def head_of(cohort: Cohort) -> Segment:
    """What answers a cohort where it is."""
    return segments.head(cohort.depth).of(cohort.model)


def one_stack(cohort: Cohort, why: Why = _TO_FIRST) -> Run:
    """All of a cohort, one deeper."""
    segment = segments.stack(cohort.depth + 1).of(cohort.model)
    return Run(segment, cohort.requests, cohort.id, why)


def quickest_way_in(task: Task) -> Segment:
    """The first segment of a waiting task's quickest way to the shallowest exit it accepts."""
    costs, depth, batch = task.costs, task.min_depth, len(task.requests)
    if not task.num_growing and costs.fused_is_quickest(depth, batch):
        return segments.fused_exit(depth).of(costs.paths.model)
    return segments.STEM.of(costs.paths.model)


class Depth:
    """The steps that a plan's slack could be spent on, at a price of ``price`` AP per second."""

    def __init__(
        self, plan: Plan, models: Sequence[Costs], ladders: Sequence[Ladder], price: float
    ) -> None:
        self._plan = plan
        self._models = models
        self._ladders = ladders
        self._price = price

    def best_step(self, room: bool) -> Decision | None:
        """The step that buys most, None if none fits or is worth its price. ``room``: whether
        another cohort could be held."""
        tasks = self._plan.tasks
        if len(tasks) == 1 and tasks[0].cohort is None:
            return self._start_alone(tasks[0])
        best: _Step | None = None
        seen: set[tuple[int, int, int, int]] = set()
        for task in tasks:
            if task.cohort is None:
                # Of waiting tasks that are alike, the first has the most slack ahead of it.
                kind = (task.min_depth, task.max_depth, len(task.requests), task.num_growing)
                if kind in seen or not room:
                    continue
                seen.add(kind)
                step = self._start(task)
            else:
                step = self._go_on(task.cohort, task)
            # Of equals the one with most time, which has paid for it.
            if step is not None and (best is None or step[0] >= best[0]):
                best = step
        return best[1]() if best is not None and best[0] >= self._price else None

    def _because(self, rate: float) -> Why:
        slack_ms = self._plan.slack_s * 1e3
        return Why(
            "buys {:.2f} AP/s at a price of {:.2f}, slack {:.1f} ms", (rate, self._price, slack_ms)
        )

    def _start(self, task: Task) -> _Step | None:
        """Its first unit segment, if it may go deeper than it must, and that fits into everybody's
        slack and the segment into the slack of those before it."""
        way = self._way_up(task)
        if way is None:
            return None
        rate, stem = way
        if self._models[stem.model].stem(len(task.requests)) > task.ahead_s:
            return None
        return rate, lambda: Run(stem, task.requests, None, self._because(rate))

    def _way_up(self, task: Task) -> tuple[float, Segment] | None:
        """The accuracy per second that a start on unit segments buys beyond the shallowest exit,
        and its first segment: in the model that promises most; None if nothing deeper fits."""
        batch, growing = len(task.requests), task.num_growing
        plain, least = batch - growing, task.min_depth
        base = self._ladders[task.costs.paths.model].ap(least)
        best: tuple[float, float, Segment] | None = None
        for costs, ladder in zip(self._models, self._ladders, strict=True):
            # Another model may be better at the same exit already.
            target = least if costs is not task.costs and ladder.num_exits >= least else 0
            if target == 0 or ladder.ap(target) <= base:
                target = ladder.next(least, task.max_depth) if ladder.num_exits >= least else 0
            promise = -math.inf
            rate = 0.0
            while target:
                extra_s = costs.unit_path(least, batch) - task.cost_s
                extra_s += costs.apart(least, growing, plain, batch)
                extra_s += costs.deeper(least, target, batch, growing, plain)
                if extra_s > self._plan.slack_s:
                    break
                gain = (ladder.ap(target) - base) * batch
                if promise == -math.inf:
                    rate = gain / max(extra_s, EPSILON_S)
                promise = max(promise, gain - self._price * extra_s)
                if len(self._models) == 1:
                    break  # there is nothing to choose between
                target = ladder.next(target, task.max_depth)
            if promise > -math.inf and (best is None or promise > best[0]):
                best = (promise, rate, segments.STEM.of(costs.paths.model))
        return best and best[1:]

    def _go_on(self, cohort: Cohort, task: Task) -> _Step | None:
        """One more stack, but first a head for those rows that grow and are not yet answered at
        this depth."""
        rows = len(task.requests)
        if cohort.depth < task.min_depth:
            stack_s = task.costs.stack(cohort.depth + 1, rows)
            return (math.inf, lambda: one_stack(cohort)) if stack_s <= task.ahead_s else None
        target = self._ladders[cohort.model].next(cohort.depth, task.max_depth)
        if target == 0:
            return self._done(cohort, task)
        if task.stale:
            step = self._answer_first(cohort, task)
        else:
            step = self._deeper(cohort, task, target)
        return step or self._without_paid(cohort, task, target)

    def _done(self, cohort: Cohort, task: Task) -> _Step | None:
        """Nothing deeper is better, so it may as well be answered now and make room."""
        unanswered = tuple(r for r in task.requests if r in task.owed or r in task.stale)
        if not unanswered:
            return math.inf, lambda: Conclude(task.requests, ENOUGH)
        if task.costs.head(cohort.depth, len(unanswered)) > self._plan.slack_s:
            return self._answer_first(cohort, task) if task.stale else None
        why = Why("nothing deeper is better, and there is time")
        return math.inf, lambda: Run(head_of(cohort), unanswered, cohort.id, why)

    def _answer_first(self, cohort: Cohort, task: Task) -> _Step | None:
        depth, batch, owed = cohort.depth, len(task.stale), len(task.owed)
        plain, head_s = len(task.requests) - task.num_growing, task.costs.head(depth, batch)
        extra_s = task.costs.apart(depth, batch, plain, owed)
        if head_s > task.ahead_s or extra_s > self._plan.slack_s:
            return None
        if owed > plain:  # it is a first answer, which is in the plan anyway
            rate = math.inf
        else:
            ladder = self._ladders[cohort.model]
            rate = max(ladder.gain(depth - 1, depth), 0.0) * batch / head_s
        return rate, lambda: Run(head_of(cohort), task.stale, cohort.id, self._because(rate))

    def _deeper(self, cohort: Cohort, task: Task, target: int) -> _Step | None:
        """The way to ``target``, of which the next stack is the first part."""
        depth, batch, growing = cohort.depth, len(task.requests), task.num_growing
        extra_s = task.costs.deeper(depth, target, batch, growing, len(task.owed))
        if extra_s > self._plan.slack_s:
            return None
        rate = self.rate(cohort, target, batch, growing, task.costs)
        return rate, lambda: one_stack(cohort, self._because(rate))

    def _without_paid(self, cohort: Cohort, task: Task, target: int) -> _Step | None:
        """What does not fit for all rows may fit for those to whom an answer is owed; the others
        end."""
        batch, owed = len(task.requests), len(task.owed)
        if not 0 < owed < batch:
            return None
        if task.costs.deeper(cohort.depth, target, owed, 0, owed) > self._plan.slack_s:
            return None
        paid = tuple(request for request in task.requests if request not in task.owed)
        rate = self.rate(cohort, target, owed, 0, task.costs)
        return rate, lambda: Conclude(paid, ROOM)

    def rate(
        self, cohort: Cohort, target: int, batch: int, num_growing: int, costs: Costs
    ) -> float:
        """Accuracy per second that exit ``target`` buys: heads that would be run anyway are
        free."""
        depth = cohort.depth
        seconds = costs.stacks(depth, target, batch)
        seconds += sum(costs.head(k, num_growing) for k in range(depth + 1, target + 1))
        return self._ladders[cohort.model].gain(depth, target) * batch / seconds

    def _start_alone(self, task: Task) -> Run:
        """Nobody else is here: fused if that reaches an exit worth it, else stoppable."""
        left_s = task.requests[0].deadline_s - self._plan.now_s
        limit_s = min(task.cost_s + self._plan.slack_s, left_s)
        way = self._way_up(task)
        if way is not None and way[0] >= self._price:
            rate, segment = way
            reached = self._reached(segment.model, task, limit_s)
            why = self._because(rate)
        else:
            segment, reached = quickest_way_in(task), task.min_depth
            why = Why("the quickest way in: {:.1f} ms of slack", (self._plan.slack_s * 1e3,))
        if task.num_growing:
            return Run(segment, task.requests, None, why)
        return Run(self._fused_beyond(segment, reached, task, limit_s), task.requests, None, why)

    def _reached(self, model: int, task: Task, limit_s: float) -> int:
        """The deepest exit worth going to that unit segments reach within ``limit_s``."""
        costs, ladder, batch = self._models[model], self._ladders[model], len(task.requests)
        depth = task.min_depth
        while (target := ladder.next(depth, task.max_depth)) and (
            costs.unit_path(target, batch) <= limit_s
        ):
            depth = target
        return depth

    def _fused_beyond(self, segment: Segment, reached: int, task: Task, limit_s: float) -> Segment:
        """``segment``, or a fused run in the same model to a deeper exit that is worth its risk."""
        model, batch = segment.model, len(task.requests)
        costs, ladder = self._models[model], self._ladders[model]
        while target := ladder.next(reached, task.max_depth):
            gain = ladder.gain(reached, target)
            fits = costs.fused(target, batch) <= limit_s
            worth = gain >= FUSED_WORTH * ladder.ap(target)
            if not (fits and worth and gain * batch >= self._price * costs.stack(target, batch)):
                break
            segment, reached = segments.fused_exit(target).of(model), target
        return segment
