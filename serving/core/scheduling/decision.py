"""One decision of the deadline policy: what to do first of a plan, and what with its slack."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from serving.core.errors import ShedReason
from serving.core.latency import Times
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
from serving.core.request import Request
from serving.core.scheduling.depth_selection import (
    ENOUGH,
    ROOM,
    DepthSelector,
    head_of,
    one_stack,
    quickest_way_in,
)
from serving.core.scheduling.edf_plan import NOTHING, EdfPlan, PlannedBatch
from serving.core.scheduling.opportunity_cost import OpportunityCostModel
from serving.core.scheduling.overload import choose_batch
from serving.core.scheduling.path_costs import BATCHING_GAIN, EPSILON_S, CompletionTime
from serving.core.segment import Segment
from serving.core.useful_exits import UsefulExits

TURNS_PER_BUDGET = 4.0
"""The time that a request needs is taken from the largest batch that fits so often into the mean
budget: larger ones are for floods, since who arrives during one waits for its end."""

OPTIMISTIC_RUN_FACTOR = 0.7
"""Share of the typical time that runs seldom stay below, even where others use the same cores."""
LASTING_OVERLOAD_RATIO = 1.4
"""From so many times what the engine can do on, a crowd is taken to last: the rate is uncertain,
and looks greatest in a crowd. In the simulator (three kinds of arrivals, loads .4 to 1.5, three
seeds), with 1.2 in-time accuracy was up to .004 lower below capacity; with 2, up to .011 at
capacity and .006 above it."""
SEVERE_OVERLOAD_RATIO = 2.0
"""So many times what the engine can do, request by request, is a flood."""

_FINAL = Why("the next exit could not be in time")
_NO_CHANCE = Why("the batch that goes first leaves no time for these")


class Setup(NamedTuple):
    """What is the same in all decisions of a policy."""

    useful_exits: Sequence[UsefulExits]
    """Of each model."""
    batch_sizes: tuple[int, ...]
    """Smallest first."""
    max_cohorts: int
    units: bool
    """Whether every model has unit segments."""


class DecisionMaker:
    """What a decision is made from; ``decide`` makes it."""

    def __init__(self, setup: Setup, snapshot: Snapshot, plan: EdfPlan) -> None:
        self._setup = setup
        self._snapshot = snapshot
        self._plan = plan
        self._price = self._measure_price()
        budgets_s = snapshot.demand.budgets_s
        if self._price.rho < 1.0:
            backlogs_s = plan.ahead_s(budgets_s)
        else:  # the engine is never idle, so whatever it does keeps somebody from it
            backlogs_s = [plan.length_s] * len(budgets_s)
        self._depth = DepthSelector(plan, setup.useful_exits, self._price.given(backlogs_s))

    def decide(self) -> Decision:
        """The next action; there is something to do."""
        paid: list[Cohort] = []
        if self._snapshot.answered:
            final = self._final()
            if final:
                return Conclude(final, _FINAL)
            # Cohorts that nothing is owed to make room as soon as it is needed.
            paid = [task.cohort for task in self._plan.tasks if task.cohort and not task.owed]
        room = len(self._snapshot.cohorts) - len(paid) < self._setup.max_cohorts
        decision = (
            self._decide_overloaded(room)
            if self._plan.slack_s < 0.0
            else self._decide_feasible(room)
        )
        starts = isinstance(decision, Run) and decision.segment.kind == "stem"
        if starts and len(self._snapshot.cohorts) >= self._setup.max_cohorts:
            return Conclude(max(paid, key=lambda cohort: cohort.depth).requests, ROOM)
        return decision

    def _measure_price(self) -> OpportunityCostModel:
        demand = self._snapshot.demand
        costs, turn_s = self._plan.quickest(1, False), demand.budget_s / TURNS_PER_BUDGET
        request_s = costs.typical_path(1)
        for size in self._setup.batch_sizes[1:]:
            batch_s = costs.path(1, size)[1]
            if batch_s > turn_s:
                break
            request_s = min(request_s, batch_s / size)
        accuracy = self._setup.useful_exits[costs.paths.model].ap(1)
        return OpportunityCostModel(demand, request_s, accuracy, costs.path(1, 1))

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
                next_s += costs.head(depth + 1, task.num_streaming)
            else:
                continue
            limit_s = self._plan.now_s + next_s - EPSILON_S
            final.extend(r for r in task.requests if r.id in answered and limit_s > r.deadline_s)
        return tuple(final)

    # -- time to spare ---------------------------------------------------------------------------

    def _decide_feasible(self, room: bool) -> Decision:
        """Go deeper if that fits and is worth it, else take a step of the plan."""
        if not self._setup.units:
            return self._leave(room=False)
        return self._merge() or self._depth.best_step(room) or self._leave(room)

    def _merge(self) -> Merge | None:
        """Two cohorts at one depth that one batch is quicker for than two."""
        alike: dict[tuple[int, int, int, int], PlannedBatch] = {}
        for task in self._plan.tasks:
            cohort = task.cohort
            if cohort is None or task.num_streaming or len(task.owed) < len(task.requests):
                continue
            key = (cohort.model, cohort.depth, task.min_depth, task.max_depth)
            other = alike.setdefault(key, task)
            if other is task or other.cohort is None:
                continue
            rows, costs = len(other.requests) + len(task.requests), task.costs
            if rows > self._setup.batch_sizes[-1]:
                continue
            both_s = costs.way_out(cohort.depth, max(cohort.depth, task.min_depth), rows)[0]
            apart_s = other.cost_s + task.cost_s
            if both_s < BATCHING_GAIN * apart_s and both_s - other.cost_s <= self._plan.slack_s:
                why = Why(
                    "{:.1f} ms to leave together, {:.1f} apart", (both_s * 1e3, apart_s * 1e3)
                )
                return Merge((other.cohort.id, cohort.id), why)
        return None

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

    def _let_go(self, cohort: Cohort, task: PlannedBatch) -> Decision:
        if cohort.depth < task.min_depth:
            return one_stack(cohort)
        if not task.owed:
            return Conclude(task.requests, ENOUGH)
        why = Why("the most urgent, and nothing deeper is worth it or fits")
        return Run(head_of(cohort), self._urgent(cohort, task), cohort.id, why)

    def _way_in(self, task: PlannedBatch, room: bool) -> Segment | None:
        """The fused run that is worth most at the price, of those that fit into the slack, or else
        the start of the unit path; None if there is no room for another cohort and no fused segment
        does without."""
        best = self._depth.best_fused(task)
        if best is not None:
            return best[1]
        segment = quickest_way_in(task)
        return segment if room or segment.kind != "stem" else self._any_fused(task)

    def _any_fused(self, task: PlannedBatch) -> Segment | None:
        if task.num_streaming or task.min_depth not in task.costs.paths.fused:
            return None
        return task.costs.paths.exits[task.min_depth]

    def _urgent(self, cohort: Cohort, task: PlannedBatch) -> tuple[Request, ...]:
        """The rows that must leave now, when the rest can go deeper, if that is worth it, and harm
        nobody. Streaming ones are among them: they must be answered before they go on."""
        depth, everybody, costs = cohort.depth, task.owed, task.costs
        target = self._setup.useful_exits[cohort.model].next(depth, task.max_depth)
        if target == 0 or len(everybody) == 1:
            return everybody
        if self._depth.rate(cohort, target, len(everybody) - 1, 0, costs) < self._depth.price:
            return everybody
        others_slack_s = self._plan.slack_without(task)
        by_deadline = sorted(everybody, key=lambda r: (not r.streaming, r.deadline_s, r.id))
        num_streaming = sum(request.streaming for request in everybody)
        for num_leaving in range(max(1, num_streaming), len(by_deadline)):
            leaving_s = costs.head(depth, num_leaving)
            staying_s = costs.way_out(depth, target, len(by_deadline) - num_leaving)[0]
            extra_s = leaving_s + staying_s - costs.head(depth, len(everybody))
            end_s = self._plan.now_s + leaving_s + staying_s
            if end_s <= by_deadline[num_leaving].deadline_s and extra_s <= others_slack_s:
                leaving = set(by_deadline[:num_leaving])
                return tuple(r for r in everybody if r in leaving)  # in row order
        return everybody

    # -- no time to spare ------------------------------------------------------------------------

    def _decide_overloaded(self, room: bool) -> Decision:
        """Those in flight will be in time; of the others, whom ``overload.choose_batch`` names."""
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
        self, waiting: Sequence[Request], in_flight: Sequence[PlannedBatch], room: bool
    ) -> Decision | None:
        """A batch of those who are like the most urgent one, or who is shed because of it; None if
        those in flight leave no time for any."""
        if not waiting:
            return None
        row, limit_s = CompletionTime(self._plan.now_s), math.inf
        for task in in_flight:
            limit_s = min(limit_s, task.deadline_s - row.add(task.times))
        head = waiting[0]
        depth, max_depth = head.min_depth, head.max_depth
        queue = [r for r in waiting if r.min_depth == depth and r.max_depth == max_depth]
        streams = head.id in self._plan.streaming
        if self._plan.streaming:
            queue = [
                request for request in queue if (request.id in self._plan.streaming) == streams
            ]
        costs = self._plan.quickest(depth, streams)
        sizes = costs.paying_sizes(depth, self._setup.batch_sizes)
        batch = choose_batch(
            queue,
            self._plan.now_s,
            sizes,
            lambda size: self._counted_on(costs.path(depth, size, streams=streams)),
            limit_s,
            lasts=self._price.rho >= LASTING_OVERLOAD_RATIO,
        )
        if not batch:
            return None
        requests = tuple(batch)
        task = PlannedBatch(head.deadline_s, NOTHING, requests, None, requests, costs)
        task.num_streaming = len(requests) if streams else 0
        segment = quickest_way_in(task)
        if segment.kind == "stem" and not room:
            fused = self._any_fused(task)
            if fused is None:
                return None
            segment = fused
        doomed = self._doomed_by(costs.path(depth, len(batch), streams=streams)[1], requests)
        if doomed:
            reason = ShedReason.REJECTED_OVERLOAD
            return ShedRequests(doomed, reason, self._plan.length_s, _NO_CHANCE)
        why = Why("not all {:.0f} can be in time: so most are", (len(waiting),))
        return Run(segment, requests, None, why)

    def _counted_on(self, times: Times) -> float:
        """What a run is taken to need: midway between what it typically takes and what it seldom
        exceeds, so that the most urgent are neither given up for a small risk nor kept for a small
        chance. When more come than can be served, somebody who is safe can always be found."""
        seldom_s, typical_s = times
        return seldom_s if self._price.rho >= SEVERE_OVERLOAD_RATIO else (seldom_s + typical_s) / 2

    def _doomed_by(self, run_s: float, batch: tuple[Request, ...]) -> tuple[Request, ...]:
        """Those who wait for a run of typically ``run_s`` and would be late after it even with
        luck."""
        end_s = self._plan.now_s + run_s * OPTIMISTIC_RUN_FACTOR - EPSILON_S
        chosen = {request.id for request in batch}
        paths_s: dict[tuple[int, bool], float] = {}
        doomed = []
        for request in self._snapshot.waiting:
            kind = (request.min_depth, request.id in self._plan.streaming)
            path_s = paths_s.get(kind)
            if path_s is None:
                costs = self._plan.quickest(*kind)
                path_s = paths_s[kind] = (
                    costs.typical_path(kind[0], streams=kind[1]) * OPTIMISTIC_RUN_FACTOR
                )
            if end_s + path_s > request.deadline_s and request.id not in chosen:
                doomed.append(request)
        return tuple(doomed)
