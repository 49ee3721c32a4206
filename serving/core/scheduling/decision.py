"""One decision of the deadline policy, made from a snapshot and its EDF plan.

    feasible      the plan has slack: conclude streaming requests whose answer is final, merge
                  cohorts, or go deeper where that is worth its time (``depth_selection``);
                  else take the first step of the plan
    overloaded    it has none: run the waiting requests that ``overload`` chooses, if those in
                  flight will be in time all the same, and shed those whom that run leaves no
                  chance; else take those in flight to their exits

A feasible plan is one in which everybody is in time at the shallowest exit they accept.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import attrgetter
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
from serving.core.scheduling.answers_in_hand import AnswersInHand, Merged, Upgrades
from serving.core.scheduling.depth_price import CostAndAp
from serving.core.scheduling.depth_selection import (
    NOTHING_DEEPER,
    PLACE_NEEDED,
    DepthSelector,
    head_of,
    one_stack,
    quickest_first_segment,
)
from serving.core.scheduling.edf_plan import EdfPlan
from serving.core.scheduling.opportunity_cost import OpportunityCost, OpportunityCostModel
from serving.core.scheduling.overload import choose_batch
from serving.core.scheduling.path_costs import BATCHING_GAIN, EPSILON_S, CompletionTime
from serving.core.scheduling.planned_batch import NO_TIME, PlannedBatch
from serving.core.segment import Segment
from serving.core.useful_exits import UsefulExits

MIN_RUNS_PER_BUDGET = 4.0
"""Number of runs of a batch that must fit into the mean budget for the batch to count in the engine
time that a request needs. Larger batches are for overload: who arrives during one waits for its
end."""

OPTIMISTIC_RUN_FACTOR = 0.7
"""Share of its typical time that a run seldom stays below, even where others use the same cores."""
LASTING_OVERLOAD_RATIO = 1.4
"""Utilisation from which on an overload is taken to last: the rate of arrivals is uncertain, and
looks greatest in a burst. In the simulator (three kinds of arrivals, loads .4 to 1.5, three seeds),
with 1.2 in-time accuracy was up to .004 lower below capacity; with 2, up to .011 at capacity and
.006 above it."""
SEVERE_OVERLOAD_RATIO = 2.0
"""Utilisation from which on an overload is severe: so many times what the engine can do, request by
request."""
MAX_FLUID_LOAD = 2.0
"""Utilisation, if all left at an exit, beyond which no deeper one counts in what depth is worth to
others."""

_deadline_s = attrgetter("deadline_s")

_FINAL = Why("the next exit could not be in time")
_NO_CHANCE = Why("the batch that goes first leaves no time for these")


class Setup(NamedTuple):
    """The facts that are the same in all decisions of a policy."""

    useful_exits: Sequence[UsefulExits]
    """Exits of each model that are worth going to."""
    batch_sizes: tuple[int, ...]
    """Batch sizes that the runner offers, smallest first."""
    max_cohorts: int
    """Number of cohorts that may be on the device at once."""
    units: bool
    """True if every model has unit segments."""
    merged: Merged
    """AP of pairs of points of which the later answer takes in the first one's."""
    upgrades: Upgrades
    """Points that are better than the one of an answer in hand."""


class DecisionMaker:
    """The making of one decision from a snapshot and its plan; ``decide`` returns it."""

    def __init__(self, setup: Setup, snapshot: Snapshot, plan: EdfPlan) -> None:
        self._setup = setup
        self._snapshot = snapshot
        self._plan = plan
        self._max_run_s = snapshot.demand.budget_s / MIN_RUNS_PER_BUDGET
        """Longest run that counts in the engine time that a request needs."""
        self._cost_model, self._best_batch = self._measure_opportunity_cost()
        self._in_hand = AnswersInHand(plan, setup.upgrades, setup.batch_sizes, snapshot.demand)

    @cached_property
    def _cost(self) -> OpportunityCost:
        """Opportunity cost of engine time; most decisions in an overload need none."""
        plan, model, demand = self._plan, self._cost_model, self._snapshot.demand
        if model.rate_hz > 0.0:
            model.add_depth(self._fluid_points())
        if model.rho < 1.0:
            backlogs_s = plan.backlogs_s(demand.budgets_s)
        else:  # it is never idle, so that whatever it does delays all that comes later
            backlogs_s = [plan.length_s] * len(demand.budgets_s)
        return model.given(backlogs_s, plan.length_s, self._exposed_hz())

    def _exposed_hz(self) -> float:
        """Return how many of those who wait hold-ups make late in a second that they are delayed.

        That is as often as runs were held up lately.
        """
        lengths_s, run_s = self._plan.models[0].hold_ups
        now_s, waiting = self._snapshot.now_s, self._snapshot.waiting
        if not lengths_s or not waiting or waiting[0].deadline_s >= now_s + lengths_s[-1]:
            return 0.0
        due = [bisect_left(waiting, now_s + seconds, key=_deadline_s) for seconds in lengths_s]
        return sum(due) / run_s

    @cached_property
    def _selector(self) -> DepthSelector:
        """Choice of depth, at the opportunity cost."""
        return DepthSelector(self._plan, self._setup.useful_exits, self._cost, self._in_hand)

    def decide(self) -> Decision:
        """Return the next action; there must be a plan, or somebody held."""
        decision, held = self._decide(), self._snapshot.held
        if held and isinstance(decision, Run):
            return self._in_hand.passed_by(decision, held) or decision
        return decision

    def _decide(self) -> Decision:
        """Return the next action, but for whom it ends."""
        held = self._snapshot.held
        if held:
            ended = self._in_hand.final(held)
            if ended is not None:
                return ended
            if not self._plan.batches:
                upgrade = self._in_hand.upgrade(held, self._cost)
                return upgrade or self._in_hand.none_is_worth_it(held)
        done_cohorts: list[Cohort] = []
        if self._snapshot.answered:
            final = self._final_answers()
            if final:
                return Conclude(final, _FINAL)
            # Cohorts of answered requests alone make room as soon as it is needed.
            done_cohorts = [
                planned.cohort
                for planned in self._plan.batches
                if planned.cohort and not planned.owed
            ]
        num_cohorts = len(self._snapshot.cohorts) + self._snapshot.num_parked
        has_room = num_cohorts - len(done_cohorts) < self._setup.max_cohorts
        decision = (
            self._decide_overloaded(has_room)
            if self._plan.slack_s < 0.0
            else self._decide_feasible(has_room)
        )
        starts = isinstance(decision, Run) and decision.segment.kind == "stem"
        if starts and num_cohorts >= self._setup.max_cohorts:
            return Conclude(
                max(done_cohorts, key=lambda cohort: cohort.depth).requests, PLACE_NEEDED
            )
        return decision

    def _measure_opportunity_cost(self) -> tuple[OpportunityCostModel, int]:
        """Return the part of the opportunity cost that the measured demand decides.

        With it comes the batch size at which a request needs least time.
        """
        costs = self._plan.ways_in.to(1, False).costs
        request_s, batch = costs.typical_path(1), 1
        for size in self._setup.batch_sizes[1:]:
            batch_s = costs.path(1, size)[1]
            if batch_s > self._max_run_s:
                break
            if batch_s < request_s * size:
                request_s, batch = batch_s / size, size
        accuracy = self._setup.useful_exits[costs.paths.model].ap(1)
        demand, alone = self._snapshot.demand, costs.path(1, 1)
        return OpportunityCostModel(demand, request_s, accuracy, alone), batch

    def _fluid_points(self) -> list[CostAndAp]:
        """Return the operating points that arrivals may be served at, as ``depth_price`` sees them.

        All exits of a model are taken to gain by batches what the first one does in that of the
        best size, unless its run would be too long. Pairs whose answers are merged count as points.
        What is far beyond what the engine can do is left out: it costs time here, and changes
        nothing.
        """
        points: list[CostAndAp] = []
        batch, rate_hz = self._best_batch, self._cost_model.rate_hz
        for costs, useful in zip(self._plan.models, self._setup.useful_exits, strict=True):
            gain = 1.0
            if batch > 1 and (batch_s := costs.path(1, batch)[1]) <= self._max_run_s:
                gain = min(1.0, batch_s / (batch * costs.typical_path(1)))
            curve = costs.curve(useful.chain, gain)
            while len(curve) > 1 and rate_hz * curve[-2][0] > MAX_FLUID_LOAD:
                curve.pop()
            points += curve
        for first, thens in self._setup.merged.items():
            for then, ap in thens.items():
                both_s = sum(
                    self._plan.models[model].path(depth, 1)[1] for model, depth in (first, then)
                )
                if rate_hz * both_s <= MAX_FLUID_LOAD:
                    points.append((both_s, ap))
        return points

    def _final_answers(self) -> tuple[Request, ...]:
        """Return the requests that have an answer and whose next one could not be in time."""
        final: list[Request] = []
        answered: Mapping[int, int] = self._snapshot.answered
        for planned in self._plan.batches:
            if planned.cohort is None or len(planned.owed) == len(planned.requests):
                continue
            depth, costs = planned.cohort.depth, planned.costs
            if planned.to_answer:
                next_s = costs.head(depth, len(planned.to_answer))
            elif depth < min(planned.max_depth, costs.paths.num_exits):
                next_s = costs.stack(depth + 1, len(planned.requests))
                next_s += costs.head(depth + 1, planned.num_streaming)
            else:
                continue
            limit_s = self._plan.now_s + next_s - EPSILON_S
            final.extend(
                r for r in planned.requests if r.id in answered and limit_s > r.conclude_by_s
            )
        return tuple(final)

    # -- feasible: the plan has slack ------------------------------------------------------------

    def _decide_feasible(self, has_room: bool) -> Decision:
        """Return the action while everybody can be in time.

        That is to go deeper if this fits and is worth its time, else a step of the plan.
        """
        if self._snapshot.held:
            upgrade = self._in_hand.upgrade(self._snapshot.held, self._cost)
            if upgrade is not None:
                return upgrade
        if not self._setup.units:
            return self._first_planned_step(has_room=False)
        return (
            self._merge()
            or self._selector.best_step(has_room)
            or self._first_planned_step(has_room)
        )

    def _merge(self) -> Merge | None:
        """Return the merger of two cohorts at one depth, if one batch is quicker than two."""
        alike: dict[tuple[int, int, int, int], PlannedBatch] = {}
        for planned in self._plan.batches:
            cohort = planned.cohort
            if cohort is None or planned.num_streaming or len(planned.owed) < len(planned.requests):
                continue
            key = (cohort.model, cohort.depth, planned.min_depth, planned.max_depth)
            other = alike.setdefault(key, planned)
            if other is planned or other.cohort is None:
                continue
            num_rows, costs = len(other.requests) + len(planned.requests), planned.costs
            if num_rows > self._setup.batch_sizes[-1]:
                continue
            both_s = costs.remaining_path(
                cohort.depth, max(cohort.depth, planned.min_depth), num_rows
            )[0]
            apart_s = other.tail_s + planned.tail_s
            if both_s < BATCHING_GAIN * apart_s and both_s - other.tail_s <= self._plan.slack_s:
                why = Why(
                    "{:.1f} ms to leave together, {:.1f} apart", (both_s * 1e3, apart_s * 1e3)
                )
                return Merge((other.cohort.id, cohort.id), why)
        return None

    # -- steps of the plan -----------------------------------------------------------------------

    def _first_planned_step(self, has_room: bool) -> Decision:
        """Return the first step of the plan that can be taken."""
        for planned in self._plan.batches:
            if planned.cohort is not None:
                return self._step_towards_exit(planned.cohort, planned)
            start = self._start(planned, has_room)
            if start is not None:
                return start
        raise AssertionError("a plan without room for a cohort has one in it")

    def _step_towards_exit(self, cohort: Cohort, planned: PlannedBatch) -> Decision:
        """Return the step that takes a cohort to its shallowest exit, or answers it there."""
        if cohort.depth < planned.min_depth:
            return one_stack(cohort)
        if not planned.owed:
            return Conclude(planned.requests, NOTHING_DEEPER)
        why = Why("the most urgent, and nothing deeper is worth it or fits")
        return Run(head_of(cohort), self._must_leave_now(cohort, planned), cohort.id, why)

    def _start(self, planned: PlannedBatch, has_room: bool) -> Run | None:
        """Return the run that waiting requests start with.

        It is the fused run that is worth most, of those that fit into the slack, or else the first
        segment of the path that is planned. Without room for another cohort only a fused run will
        do. None if there is no room for them.
        """
        why = Why("the most urgent; {:.1f} ms of slack", (self._plan.slack_s * 1e3,))
        best = self._selector.best_fused(planned)
        if best is not None:
            return Run(best.segment, best.requests, None, why, best.hold)
        segment: Segment | None = quickest_first_segment(planned)
        if segment is not None and segment.kind == "stem" and not has_room:
            segment = self._fused_to_min_depth(planned)
        return None if segment is None else Run(segment, planned.requests, None, why)

    def _fused_to_min_depth(self, planned: PlannedBatch) -> Segment | None:
        """Return the fused segment to the shallowest exit of waiting requests, or None."""
        if planned.num_streaming or planned.min_depth not in planned.costs.paths.fused:
            return None
        return planned.costs.paths.exits[planned.min_depth]

    def _must_leave_now(self, cohort: Cohort, planned: PlannedBatch) -> tuple[Request, ...]:
        """Return the rows of a cohort that must leave now so that the rest can go deeper.

        The rest stay if that is worth its time and makes nobody late; else all leave. Streaming
        rows are always among those answered now: they must be before they go on.
        """
        depth, everybody, costs = cohort.depth, planned.owed, planned.costs
        target = self._setup.useful_exits[cohort.model].next(depth, planned.max_depth)
        if target == 0 or len(everybody) == 1:
            return everybody
        if (
            self._selector.rate(cohort, target, len(everybody) - 1, 0, costs)
            < self._selector.shadow_price
        ):
            return everybody
        others_slack_s = self._plan.slack_without(planned)
        by_deadline = sorted(everybody, key=lambda r: (not r.streaming, r.deadline_s, r.id))
        num_streaming = sum(request.streaming for request in everybody)
        for num_leaving in range(max(1, num_streaming), len(by_deadline)):
            leaving_s = costs.head(depth, num_leaving)
            staying_s = costs.remaining_path(depth, target, len(by_deadline) - num_leaving)[0]
            extra_s = leaving_s + staying_s - costs.head(depth, len(everybody))
            end_s = self._plan.now_s + leaving_s + staying_s
            if end_s <= by_deadline[num_leaving].deadline_s and extra_s <= others_slack_s:
                leaving = set(by_deadline[:num_leaving])
                return tuple(r for r in everybody if r in leaving)  # in row order
        return everybody

    # -- overload: the plan has no slack ---------------------------------------------------------

    def _decide_overloaded(self, has_room: bool) -> Decision:
        """Return the action while not everybody can be in time.

        Those in flight will be; of the others, ``overload.choose_batch`` says who is served.
        """
        in_flight = [
            planned for planned in self._plan.batches if planned.cohort is not None and planned.owed
        ]
        decision = self._serve_waiting(self._snapshot.waiting, in_flight, has_room)
        if decision is not None:
            return decision
        if in_flight:
            cohort = in_flight[0].cohort
            assert cohort is not None
            return self._step_towards_exit(cohort, in_flight[0])
        return self._first_planned_step(has_room)

    def _serve_waiting(
        self, waiting: Sequence[Request], in_flight: Sequence[PlannedBatch], has_room: bool
    ) -> Decision | None:
        """Return the run of a batch of waiting requests, or the shedding of those it dooms.

        The batch is of requests like the most urgent one: with its depth bounds, and streaming if
        it is. None if those in flight leave no time for any, or no room.
        """
        if not waiting:
            return None
        completion, limit_s = CompletionTime(self._plan.now_s), math.inf
        for planned in in_flight:
            limit_s = min(limit_s, planned.deadline_s - completion.add(planned.times))
        head = waiting[0]
        depth, max_depth = head.min_depth, head.max_depth
        queue = [r for r in waiting if r.min_depth == depth and r.max_depth == max_depth]
        streams = head.id in self._plan.streaming_ids
        if self._plan.streaming_ids:
            queue = [
                request for request in queue if (request.id in self._plan.streaming_ids) == streams
            ]
        hurried_before_s = self._plan.ways_in.to(depth, streams).hurried_before_s
        # Whoever is hurried goes first only if nobody else waits.
        hurried = queue[-1].deadline_s < hurried_before_s
        if not hurried and queue[0].deadline_s < hurried_before_s:
            queue = [request for request in queue if request.deadline_s >= hurried_before_s]
        costs = self._plan.ways_in.to(depth, streams, hurried).costs
        sizes = costs.paying_sizes(depth, self._setup.batch_sizes)
        batch = choose_batch(
            queue,
            self._plan.now_s,
            sizes,
            lambda size: self._assumed_run_s(costs.path(depth, size, streams=streams)),
            limit_s,
            overload_lasts=self._cost_model.rho >= LASTING_OVERLOAD_RATIO,
        )
        if not batch:
            return None
        requests = tuple(batch)
        planned = PlannedBatch(head.deadline_s, NO_TIME, requests, None, requests, costs)
        planned.num_streaming = len(requests) if streams else 0
        segment = quickest_first_segment(planned)
        if segment.kind == "stem" and not has_room:
            fused = self._fused_to_min_depth(planned)
            if fused is None:
                return None
            segment = fused
        too_late = self._too_late_after(costs.path(depth, len(batch), streams=streams)[1], requests)
        if too_late:
            reason = ShedReason.REJECTED_OVERLOAD
            return ShedRequests(too_late, reason, self._plan.length_s, _NO_CHANCE)
        why = Why("not all {:.0f} can be in time: so most are", (len(waiting),))
        return Run(segment, requests, None, why)

    def _assumed_run_s(self, times: Times) -> float:
        """Return the seconds that a run is taken to need when waiting requests are chosen.

        They are midway between its typical and its tail time, so that the most urgent are neither
        given up for a small risk nor kept for a small chance. In severe overload it is the tail
        time, since somebody who is safe can always be found.
        """
        tail_s, typical_s = times
        return tail_s if self._cost_model.rho >= SEVERE_OVERLOAD_RATIO else (tail_s + typical_s) / 2

    def _too_late_after(self, run_s: float, batch: tuple[Request, ...]) -> tuple[Request, ...]:
        """Return the waiting requests that would be late, even with luck, after ``batch`` has run.

        Its run typically takes ``run_s`` seconds.
        """
        end_s = self._plan.now_s + run_s * OPTIMISTIC_RUN_FACTOR - EPSILON_S
        chosen = {request.id for request in batch}
        paths_s: dict[tuple[int, bool], float] = {}
        too_late = []
        for request in self._snapshot.waiting:
            kind = (request.min_depth, request.id in self._plan.streaming_ids)
            path_s = paths_s.get(kind)
            if path_s is None:
                costs = self._plan.ways_in.to(*kind).costs
                path_s = paths_s[kind] = (
                    costs.typical_path(kind[0], streams=kind[1]) * OPTIMISTIC_RUN_FACTOR
                )
            if end_s + path_s > request.deadline_s and request.id not in chosen:
                too_late.append(request)
        return tuple(too_late)
