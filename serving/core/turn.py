"""One decision of the deadline policy: what to do first of a plan, and what with its slack."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from serving.core import segment as segments
from serving.core.costs import BATCHING_GAIN, EPSILON_S, Costs
from serving.core.crowd import choose
from serving.core.errors import ShedReason
from serving.core.ladder import Ladder
from serving.core.plan import Finish, Plan, Task
from serving.core.policy import (
    Cohort,
    Conclude,
    Decision,
    Merge,
    Run,
    ShedRequests,
    Snapshot,
    Why,
)
from serving.core.price import price
from serving.core.request import Request
from serving.core.segment import Segment

FUSED_WORTH = 0.02
"""Relative accuracy that an exit must add for a lone request to reach it by a fused run, where
unit segments would not get that far. A fused run that turns out slow cannot be cut short: about one
in fifty exceeds its prediction on a shared machine."""
TURNS_PER_BUDGET = 4.0
"""The time that a request needs is taken from the largest batch that fits so often into the mean
budget: larger ones are for floods, since who arrives during one waits for its end."""

_Step = tuple[float, Callable[[], Decision]]
"""How much accuracy per second the next step of a task buys, infinite if it is in the plan anyway;
and what makes that step."""

_FINAL = Why("the next exit could not be in time")
_ROOM = Why("all are answered, and their place is needed")
_ENOUGH = Why("all are answered, and nothing deeper is worth it or fits")
_ON_THE_WAY = Why("towards the shallowest exit that they accept")
_NO_CHANCE = Why("the batch that goes first leaves no time for these")


class Turn:
    """What a decision is made from; ``decide`` makes it."""

    def __init__(
        self,
        snapshot: Snapshot,
        models: Sequence[Costs],
        ladders: Sequence[Ladder],
        plan: Plan,
        growing: frozenset[int],
        batch_sizes: Sequence[int],
        max_cohorts: int,
    ) -> None:
        self._snapshot = snapshot
        self._models = models
        self._ladders = ladders
        self._plan = plan
        self._growing = growing
        self._batch_sizes = batch_sizes
        self._max_cohorts = max_cohorts
        self._units = all(costs.paths.units for costs in models)
        self._price = self._measure_price()

    def decide(self) -> Decision:
        """The next action; there is something to do."""
        final = self._final() if self._snapshot.answered else ()
        if final:
            return Conclude(final, _FINAL)
        # Cohorts that nothing is owed to make room as soon as it is needed.
        paid = [task.cohort for task in self._plan.tasks if task.cohort and not task.owed]
        room = len(self._snapshot.cohorts) - len(paid) < self._max_cohorts
        decision = self._crowded(room) if self._plan.slack_s < 0.0 else self._calm(room)
        starts = isinstance(decision, Run) and decision.segment.kind == "stem"
        if starts and len(self._snapshot.cohorts) >= self._max_cohorts:
            return Conclude(max(paid, key=lambda cohort: cohort.depth).requests, _ROOM)
        return decision

    def _measure_price(self) -> float:
        demand = self._snapshot.demand
        if demand.rate_hz <= 0.0:
            return 0.0
        costs = self._plan.quickest(1, False)
        request_s = costs.path(1, 1)
        for size in self._batch_sizes[1:]:
            batch_s = costs.path(1, size)
            if TURNS_PER_BUDGET * batch_s <= demand.budget_s:
                request_s = min(request_s, batch_s / size)
        accuracy = self._ladders[costs.paths.model].ap(1)
        return price(demand, self._plan.length_s, request_s, accuracy)

    def _final(self) -> tuple[Request, ...]:
        """Those with an answer whose next one could not be in time."""
        final: list[Request] = []
        answered: Mapping[int, int] = self._snapshot.answered
        for task in self._plan.tasks:
            if task.cohort is None or len(task.owed) == len(task.requests):
                continue
            depth, costs = task.cohort.depth, task.costs
            if task.stale:
                next_s = costs.head(depth, len(task.stale))
            elif depth < min(task.max_depth, costs.paths.num_exits):
                next_s = costs.stack(depth + 1, len(task.requests))
                next_s += costs.head(depth + 1, task.num_growing)
            else:
                continue
            limit_s = self._plan.now_s + next_s - EPSILON_S
            final.extend(r for r in task.requests if r.id in answered and limit_s > r.deadline_s)
        return tuple(final)

    # -- time to spare ---------------------------------------------------------------------------

    def _calm(self, room: bool) -> Decision:
        """Go deeper if that fits and is worth it, else take a step of the plan."""
        if not self._units:
            return self._leave(room=False)
        return self._merge() or self._spend_slack(room) or self._leave(room)

    def _merge(self) -> Merge | None:
        """Two cohorts at one depth that one batch is quicker for than two."""
        alike: dict[tuple[int, int, int, int], Task] = {}
        for task in self._plan.tasks:
            cohort = task.cohort
            if cohort is None or task.num_growing or len(task.owed) < len(task.requests):
                continue
            key = (cohort.model, cohort.depth, task.min_depth, task.max_depth)
            other = alike.setdefault(key, task)
            if other is task or other.cohort is None:
                continue
            rows, costs = len(other.requests) + len(task.requests), task.costs
            if rows > self._batch_sizes[-1]:
                continue
            both_s = costs.way_out(cohort.depth, max(cohort.depth, task.min_depth), rows)
            apart_s = other.cost_s + task.cost_s
            if both_s < BATCHING_GAIN * apart_s and both_s - other.cost_s <= self._plan.slack_s:
                why = Why(
                    "{:.1f} ms to leave together, {:.1f} apart", (both_s * 1e3, apart_s * 1e3)
                )
                return Merge((other.cohort.id, cohort.id), why)
        return None

    def _spend_slack(self, room: bool) -> Decision | None:
        """The step that buys most, None if none fits or is worth its price."""
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
            return (math.inf, lambda: _one_stack(cohort)) if stack_s <= task.ahead_s else None
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
            return math.inf, lambda: Conclude(task.requests, _ENOUGH)
        if task.costs.head(cohort.depth, len(unanswered)) > self._plan.slack_s:
            return self._answer_first(cohort, task) if task.stale else None
        why = Why("nothing deeper is better, and there is time")
        return math.inf, lambda: Run(_head(cohort), unanswered, cohort.id, why)

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
        return rate, lambda: Run(_head(cohort), task.stale, cohort.id, self._because(rate))

    def _deeper(self, cohort: Cohort, task: Task, target: int) -> _Step | None:
        """The way to ``target``, of which the next stack is the first part."""
        depth, batch, growing = cohort.depth, len(task.requests), task.num_growing
        extra_s = task.costs.deeper(depth, target, batch, growing, len(task.owed))
        if extra_s > self._plan.slack_s:
            return None
        rate = self._rate(cohort, target, batch, growing, task.costs)
        return rate, lambda: _one_stack(cohort, self._because(rate))

    def _without_paid(self, cohort: Cohort, task: Task, target: int) -> _Step | None:
        """What does not fit for all rows may fit for those to whom an answer is owed; the others
        end."""
        batch, owed = len(task.requests), len(task.owed)
        if not 0 < owed < batch:
            return None
        if task.costs.deeper(cohort.depth, target, owed, 0, owed) > self._plan.slack_s:
            return None
        paid = tuple(request for request in task.requests if request not in task.owed)
        rate = self._rate(cohort, target, owed, 0, task.costs)
        return rate, lambda: Conclude(paid, _ROOM)

    def _rate(
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
        limit_s = task.cost_s + self._plan.slack_s
        way = self._way_up(task)
        if way is not None and way[0] >= self._price:
            rate, segment = way
            reached = self._reached(segment.model, task, limit_s)
            why = self._because(rate)
        else:
            segment, reached = self._way_in_quickly(task), task.min_depth
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

    # -- leaving ---------------------------------------------------------------------------------

    def _leave(self, room: bool) -> Decision:
        """The first step of the plan that can be taken."""
        for task in self._plan.tasks:
            if task.cohort is not None:
                return self._let_go(task.cohort, task)
            segment = self._way_in(task, room)
            if segment is not None:
                why = Why("the most urgent; {:.1f} ms of slack", (self._plan.slack_s * 1e3,))
                return Run(segment, task.requests, None, why)
        raise AssertionError("a plan without room for a cohort has one in it")

    def _let_go(self, cohort: Cohort, task: Task) -> Decision:
        if cohort.depth < task.min_depth:
            return _one_stack(cohort)
        if not task.owed:
            return Conclude(task.requests, _ENOUGH)
        why = Why("the most urgent, and nothing deeper is worth it or fits")
        return Run(_head(cohort), self._urgent(cohort, task), cohort.id, why)

    def _way_in(self, task: Task, room: bool) -> Segment | None:
        """The fused run that is worth most at the price, of those that fit into the slack, or else
        the start of the unit path; None if there is no room for another cohort and no fused segment
        does without."""
        batch, limit_s = len(task.requests), task.cost_s + self._plan.slack_s
        best: Segment | None = None
        most = -math.inf
        if not task.num_growing:
            for costs, ladder in zip(self._models, self._ladders, strict=True):
                for depth in range(task.min_depth, min(task.max_depth, ladder.num_exits) + 1):
                    fused_s = costs.fused(depth, batch)
                    value = ladder.ap(depth) * batch - self._price * fused_s
                    if fused_s <= limit_s and value > most:
                        best, most = segments.fused_exit(depth).of(costs.paths.model), value
        if best is not None:
            return best
        segment = self._way_in_quickly(task)
        return segment if room or segment.kind != "stem" else self._any_fused(task)

    def _way_in_quickly(self, task: Task) -> Segment:
        """The first segment of the quickest way to the shallowest exit."""
        costs, depth, batch = task.costs, task.min_depth, len(task.requests)
        fused_s = math.inf if task.num_growing else costs.fused(depth, batch)
        if fused_s <= costs.unit_path(depth, batch) and fused_s < math.inf:
            return segments.fused_exit(depth).of(costs.paths.model)
        return segments.STEM.of(costs.paths.model)

    def _any_fused(self, task: Task) -> Segment | None:
        if task.num_growing or task.min_depth not in task.costs.paths.fused:
            return None
        return segments.fused_exit(task.min_depth).of(task.costs.paths.model)

    def _urgent(self, cohort: Cohort, task: Task) -> tuple[Request, ...]:
        """The rows that must leave now, when the rest can go deeper, if that is worth it, and harm
        nobody. Growing ones are among them: they must be answered before they go on."""
        depth, everybody, costs = cohort.depth, task.owed, task.costs
        target = self._ladders[cohort.model].next(depth, task.max_depth)
        if target == 0 or len(everybody) == 1:
            return everybody
        if self._rate(cohort, target, len(everybody) - 1, 0, costs) < self._price:
            return everybody
        others_slack_s = self._plan.slack_without(task)
        by_deadline = sorted(everybody, key=lambda r: (not r.growing, r.deadline_s, r.id))
        num_growing = sum(request.growing for request in everybody)
        for num_leaving in range(max(1, num_growing), len(by_deadline)):
            leaving_s = costs.head(depth, num_leaving)
            staying_s = costs.way_out(depth, target, len(by_deadline) - num_leaving)
            extra_s = leaving_s + staying_s - costs.head(depth, len(everybody))
            end_s = self._plan.now_s + leaving_s + staying_s
            if end_s <= by_deadline[num_leaving].deadline_s and extra_s <= others_slack_s:
                leaving = set(by_deadline[:num_leaving])
                return tuple(r for r in everybody if r in leaving)  # in row order
        return everybody

    # -- no time to spare ------------------------------------------------------------------------

    def _crowded(self, room: bool) -> Decision:
        """Those in flight will be in time; of those who wait, the largest batches go first."""
        in_flight = [task for task in self._plan.tasks if task.cohort is not None and task.owed]
        decision = self._serve_crowd(self._snapshot.waiting, in_flight, room)
        if decision is not None:
            return decision
        if in_flight:
            cohort = in_flight[0].cohort
            assert cohort is not None
            return self._let_go(cohort, in_flight[0])
        return self._leave(room)

    def _serve_crowd(
        self, waiting: Sequence[Request], in_flight: Sequence[Task], room: bool
    ) -> Decision | None:
        """A batch of those who are like the most urgent one, or who is shed because of it; None if
        those in flight leave no time for any."""
        if not waiting:
            return None
        finish, limit_s = Finish(self._plan.now_s, self._plan.calm), math.inf
        for task in in_flight:
            limit_s = min(limit_s, task.deadline_s - finish.add(task.cost_s))
        head = waiting[0]
        grows = head.id in self._growing
        kind = (head.min_depth, head.max_depth, grows)
        queue = [
            request
            for request in waiting
            if (request.min_depth, request.max_depth, request.id in self._growing) == kind
        ]
        costs = self._plan.quickest(head.min_depth, grows)
        sizes = costs.paying_sizes(head.min_depth, self._batch_sizes)
        batch = choose(
            queue,
            self._plan.now_s,
            self._plan.calm,
            sizes,
            lambda size: costs.path(head.min_depth, size, grows=grows),
            limit_s,
        )
        if not batch:
            return None
        requests = tuple(batch)
        task = Task(head.deadline_s, 0.0, requests, None, requests, costs)
        task.num_growing = len(requests) if grows else 0
        segment = self._way_in_quickly(task)
        if segment.kind == "stem" and not room:
            fused = self._any_fused(task)
            if fused is None:
                return None
            segment = fused
        doomed = self._doomed_by(costs.path(head.min_depth, len(batch), grows=grows), requests)
        if doomed:
            reason = ShedReason.REJECTED_OVERLOAD
            return ShedRequests(doomed, reason, self._plan.length_s, _NO_CHANCE)
        why = Why("not all {:.0f} can be in time: the largest batch first", (len(waiting),))
        return Run(segment, requests, None, why)

    def _doomed_by(self, run_s: float, batch: tuple[Request, ...]) -> tuple[Request, ...]:
        """Those who wait for a run of ``run_s`` and typically would be late after it."""
        typical_s = self._plan.now_s + run_s * self._plan.calm - EPSILON_S
        chosen = {request.id for request in batch}
        doomed = []
        for request in self._snapshot.waiting:
            if request.id in chosen:
                continue
            grows = request.id in self._growing
            costs = self._plan.quickest(request.min_depth, grows)
            path_s = costs.path(request.min_depth, 1, grows=grows) * self._plan.calm
            if typical_s + path_s > request.deadline_s:
                doomed.append(request)
        return tuple(doomed)


def _head(cohort: Cohort) -> Segment:
    return segments.head(cohort.depth).of(cohort.model)


def _one_stack(cohort: Cohort, why: Why = _ON_THE_WAY) -> Run:
    segment = segments.stack(cohort.depth + 1).of(cohort.model)
    return Run(segment, cohort.requests, cohort.id, why)
