"""Spending slack on depth: which step buys most accuracy for the time it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from serving.core import segment as segments
from serving.core.policy import Cohort, Conclude, Decision, Run, Why
from serving.core.scheduling.edf_plan import EdfPlan, PlannedBatch
from serving.core.scheduling.opportunity_cost import OpportunityCost
from serving.core.scheduling.path_costs import EPSILON_S, Costs, late_share
from serving.core.segment import Segment
from serving.core.useful_exits import UsefulExits


class _Way(NamedTuple):
    """A start on unit segments."""

    worth: float
    """Accuracy of where it leads, less the price of what it takes beyond the plan, and what its
    runs lose."""
    rate: float
    """Accuracy per second that it buys first, beyond the shallowest exit."""
    stem: Segment


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


def quickest_way_in(task: PlannedBatch) -> Segment:
    """The first segment of a waiting task's quickest way to the shallowest exit it accepts."""
    costs, depth, batch = task.costs, task.min_depth, len(task.requests)
    if not task.num_streaming and costs.fused_is_quickest(depth, batch):
        return costs.paths.exits[depth]
    return costs.paths.stem


class DepthSelector:
    """The steps that a plan's slack could be spent on, at what ``toll`` asks for engine time."""

    def __init__(
        self, plan: EdfPlan, useful_exits: Sequence[UsefulExits], toll: OpportunityCost
    ) -> None:
        self._plan = plan
        self._models = plan.models
        self._ladders = useful_exits
        self._toll = toll
        self._fused: dict[int, tuple[float, Segment] | None] = {}
        # What one of those who have yet to start may take, so that it is enough for each of them;
        # of what is missing each has all.
        self._share_s = min(plan.slack_s, plan.slack_s / max(1, plan.num_waiting))
        self.price = toll.per_second
        """Accuracy that a second of engine time must buy."""

    def best_step(self, room: bool) -> Decision | None:
        """The step that buys most, None if none fits or is worth its price. ``room``: whether
        another cohort could be held."""
        tasks = self._plan.tasks
        if self._plan.is_alone:
            return self._start_alone(tasks[0])
        best, best_rate = None, self.price
        for task in tasks:
            if task.cohort is not None:
                step = self._go_on(task.cohort, task)
            elif room:
                step = self._start(task, best_rate)
            else:
                continue
            # Of equals the one with most time, which has paid for it.
            if step is not None and step[0] >= best_rate:
                best_rate, best = step
        return best() if best is not None else None

    def _because(self, rate: float) -> Why:
        slack_ms = self._plan.slack_s * 1e3
        return Why(
            "buys {:.2f} AP/s at a price of {:.2f}, slack {:.1f} ms", (rate, self.price, slack_ms)
        )

    def _start(self, task: PlannedBatch, least_rate: float) -> _Step | None:
        """Its first unit segment, if it may go deeper than it must at ``least_rate`` or better, and
        that fits into everybody's slack and the segment into the slack of those before it; and
        unless a fused run, when its turn comes, promises more."""
        way = self._way_up(task, least_rate)
        if way is None or way.rate < least_rate:
            return None
        if self._models[way.stem.model].stem(len(task.requests)) > task.ahead_s:
            return None
        fused = self.best_fused(task)
        if fused is not None and fused[0] >= way.worth:
            return None
        return way.rate, lambda: Run(way.stem, task.requests, None, self._because(way.rate))

    def best_fused(self, task: PlannedBatch) -> tuple[float, Segment] | None:
        """Of the fused runs that fit into its share of the slack, the one that is worth most: its
        worth and itself; None if none fits.

        Worth: the accuracy of its exit, if it is in time, less the price of a run that takes longer
        than planned and cannot be stopped.
        """
        if task.num_streaming:
            return None
        if id(task) not in self._fused:
            self._fused[id(task)] = self._find_fused(task)
        return self._fused[id(task)]

    def _find_fused(self, task: PlannedBatch) -> tuple[float, Segment] | None:
        batch, limit_s = len(task.requests), task.cost_s + self._share_s
        planned_s = task.times[1]
        best: tuple[float, Segment] | None = None
        for costs, ladder in zip(self._models, self._ladders, strict=True):
            depth = task.min_depth
            while depth and depth <= ladder.num_exits:
                seldom_s, typical_s = times = costs.fused(depth, batch)
                if seldom_s <= limit_s:
                    extra_s = typical_s - planned_s
                    paid = self._toll.of_run(typical_s, extra_s)
                    worth = ladder.ap(depth) * batch * (1.0 - late_share(times, limit_s)) - paid
                    if best is None or worth > best[0]:
                        best = worth, costs.paths.exits[depth]
                depth = ladder.next(depth, task.max_depth)
        return best

    def _way_up(self, task: PlannedBatch, least_rate: float) -> _Way | None:
        """The most that a start on unit segments promises of what fits into the slack; None if
        nothing deeper than the shallowest exit does, or, of one model, if it buys first less than
        ``least_rate``: where there are several, what promises most must be known to be passed
        over."""
        batch, streaming = len(task.requests), task.num_streaming
        plain, least = batch - streaming, task.min_depth
        base, blocked = self._ladders[task.costs.paths.model].ap(least), self._toll.blocked
        best: _Way | None = None
        for costs, ladder in zip(self._models, self._ladders, strict=True):
            if not costs.paths.units or ladder.num_exits < least:
                continue
            # Another model may be better at the same exit already.
            target = least
            if costs is task.costs or ladder.ap(target) <= base:
                target = ladder.next(least, task.max_depth)
            seldom_s, typical_s = costs.unit_path(least, batch)
            apart_s = costs.apart(least, streaming, plain, batch)
            planned = blocked(task.times[1])
            lost = blocked(costs.stem(batch)) + blocked(costs.head(least, batch))
            rate = most = -math.inf
            depth, limit_s = 0, self._plan.slack_s
            while target:
                more_s = apart_s + costs.deeper(least, target, batch, streaming, plain)
                if seldom_s + more_s - task.cost_s > limit_s:
                    break
                extra_s = typical_s * (1.0 + more_s / seldom_s) - task.times[1]
                gain = (ladder.ap(target) - base) * batch
                lost += self._blocked_by_stacks(costs, depth, target, batch)
                worth = base * batch + gain - self.price * extra_s - lost
                if depth == 0:  # the first step is what must be worth it
                    rate = (gain - max(0.0, lost - planned)) / max(extra_s, EPSILON_S)
                    limit_s = self._share_s
                    if rate < least_rate and len(self._models) == 1:
                        return None
                most = max(most, worth)
                depth = target
                target = ladder.next(target, task.max_depth)
            if depth and (best is None or most > best.worth):
                best = _Way(most, rate, costs.paths.stem)
        return best

    def _go_on(self, cohort: Cohort, task: PlannedBatch) -> _Step | None:
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

    def _done(self, cohort: Cohort, task: PlannedBatch) -> _Step | None:
        """Nothing deeper is better, so it may as well be answered now and make room."""
        unanswered = tuple(r for r in task.requests if r in task.owed or r in task.stale)
        if not unanswered:
            return math.inf, lambda: Conclude(task.requests, ENOUGH)
        if task.costs.head(cohort.depth, len(unanswered)) > self._plan.slack_s:
            return self._answer_first(cohort, task) if task.stale else None
        why = Why("nothing deeper is better, and there is time")
        return math.inf, lambda: Run(head_of(cohort), unanswered, cohort.id, why)

    def _answer_first(self, cohort: Cohort, task: PlannedBatch) -> _Step | None:
        depth, batch, owed = cohort.depth, len(task.stale), len(task.owed)
        plain, head_s = len(task.requests) - task.num_streaming, task.costs.head(depth, batch)
        extra_s = task.costs.apart(depth, batch, plain, owed)
        if head_s > task.ahead_s or extra_s > self._plan.slack_s:
            return None
        if owed > plain:  # it is a first answer, which is in the plan anyway
            rate = math.inf
        else:
            ladder = self._ladders[cohort.model]
            rate = max(ladder.gain(depth - 1, depth), 0.0) * batch / head_s
        return rate, lambda: Run(head_of(cohort), task.stale, cohort.id, self._because(rate))

    def _deeper(self, cohort: Cohort, task: PlannedBatch, target: int) -> _Step | None:
        """The way to ``target``, of which the next stack is the first part."""
        depth, batch, streaming = cohort.depth, len(task.requests), task.num_streaming
        extra_s = task.costs.deeper(depth, target, batch, streaming, len(task.owed))
        if extra_s > self._plan.slack_s:
            return None
        rate = self.rate(cohort, target, batch, streaming, task.costs)
        return rate, lambda: one_stack(cohort, self._because(rate))

    def _without_paid(self, cohort: Cohort, task: PlannedBatch, target: int) -> _Step | None:
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
        self, cohort: Cohort, target: int, batch: int, num_streaming: int, costs: Costs
    ) -> float:
        """Accuracy per second that exit ``target`` buys, less what the stacks lose: heads that
        would be run anyway are free."""
        depth = cohort.depth
        seconds = costs.stacks(depth, target, batch)[1]
        if num_streaming:
            seconds += sum(costs.head(k, num_streaming) for k in range(depth + 1, target + 1))
        lost = self._blocked_by_stacks(costs, depth, target, batch)
        return (self._ladders[cohort.model].gain(depth, target) * batch - lost) / seconds

    def _blocked_by_stacks(self, costs: Costs, depth: int, target: int, batch: int) -> float:
        """What stacks from ``depth`` to ``target`` lose, each of which runs to its end."""
        lost = 0.0
        for start in range(depth, target):
            lost += self._toll.blocked(costs.stacks(start, start + 1, batch)[1])
        return lost

    def _start_alone(self, task: PlannedBatch) -> Run:
        """Nobody else is here: on unit segments, which can stop, or by a fused run, whichever
        promises more."""
        way, fused = self._way_up(task, self.price), self.best_fused(task)
        slack_ms = self._plan.slack_s * 1e3
        if way is not None and way.rate >= self.price and (fused is None or way.worth > fused[0]):
            segment, why = way.stem, self._because(way.rate)
        elif fused is not None:
            segment, why = fused[1], Why("alone; {:.1f} ms of slack", (slack_ms,))
        else:
            segment = quickest_way_in(task)
            why = Why("the quickest way in: {:.1f} ms of slack", (slack_ms,))
        return Run(segment, task.requests, None, why)
