"""Depth selection: how slack is spent on the step that buys most accuracy for its time.

The plan has everybody leave at the shallowest exit they accept. A *candidate* is a step beyond
that: one more stack for a cohort, or a start of waiting requests that leads deeper. Its *rate* is
the accuracy that it buys per second of engine time. The best candidate that fits into the slack is
taken, if its rate is at least the shadow price of engine time (see ``opportunity_cost``).

Waiting requests start either on unit segments, which can stop at every boundary, or with one fused
run, which is cheaper but cannot. The two are compared by their *worth*: accuracy less the
opportunity cost of their time beyond the plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from serving.core import segment as segments
from serving.core.policy import Cohort, Conclude, Decision, Run, Why
from serving.core.request import Request
from serving.core.scheduling.answers_in_hand import AnswersInHand
from serving.core.scheduling.edf_plan import EdfPlan
from serving.core.scheduling.opportunity_cost import OpportunityCost
from serving.core.scheduling.path_costs import Costs, late_share
from serving.core.scheduling.planned_batch import PlannedBatch
from serving.core.scheduling.unit_starts import UnitStarts, blocked_by_stacks
from serving.core.segment import Segment
from serving.core.useful_exits import UsefulExits


class FusedStart(NamedTuple):
    """A start of waiting requests with one fused run, and what it promises."""

    worth: float
    """Accuracy of the exit to which a fused run is worth most, and of what may follow, less the
    opportunity cost of both: to be compared with a start on unit segments."""
    segment: Segment
    hold: bool
    """Whether a better answer may follow, so that they are to be held."""
    requests: tuple[Request, ...]
    """Requests that it is of: the batch, or the most urgent of it."""


class _Part(NamedTuple):
    """Waiting requests that may start together: a planned batch, or the most urgent of it.

    The others of it then follow one by one.
    """

    planned: PlannedBatch
    slack_s: float
    """Seconds by which all can be put off if the requests start together."""
    share_s: float
    """Seconds of it that each step of waiting requests may use."""
    more_s: float = 0.0
    """Seconds that the planned batch typically takes longer in parts."""
    rest_ap: float = 0.0
    """Accuracy of the others, as planned."""


_Candidate = tuple[float, Callable[[], Decision]]
"""A step that slack may be spent on: the accuracy per second that it buys, infinite if it is in the
plan anyway, and a function that returns the decision to take it."""

MAX_STEPS_AHEAD = 2
"""Number of steps of waiting requests up to which a start counts what may follow it, and a batch
may be started in parts: where more wait, neither is likely, and looking for it takes time."""

TIE = 1e-9
"""Accuracy of a request by which two sums of the same terms may differ through rounding."""

PLACE_NEEDED = Why("all are answered, and their place is needed")
NOTHING_DEEPER = Why("all are answered, and nothing deeper is worth it or fits")
_TO_FIRST = Why("towards the shallowest exit that they accept")


def head_of(cohort: Cohort) -> Segment:
    """Return the head that answers a cohort at the depth where it is."""
    return segments.head(cohort.depth).of(cohort.model)


def one_stack(cohort: Cohort, why: Why = _TO_FIRST) -> Run:
    """Return the run that takes all of a cohort one stack deeper."""
    segment = segments.stack(cohort.depth + 1).of(cohort.model)
    return Run(segment, cohort.requests, cohort.id, why)


def quickest_first_segment(planned: PlannedBatch) -> Segment:
    """Return the first segment of waiting requests' quickest path to their shallowest exit."""
    costs, depth, batch = planned.costs, planned.min_depth, len(planned.requests)
    if not planned.num_streaming and costs.fused_is_quickest(depth, batch):
        return costs.paths.exits[depth]
    return costs.paths.stem


class DepthSelector:
    """The choice of the step to spend a plan's slack on, at the cost of engine time."""

    def __init__(
        self,
        plan: EdfPlan,
        useful_exits: Sequence[UsefulExits],
        cost: OpportunityCost,
        in_hand: AnswersInHand,
    ) -> None:
        self._plan = plan
        self._models = plan.models
        self._useful_exits = useful_exits
        self._cost = cost
        self._in_hand = in_hand
        self._fused: dict[int, FusedStart | None] = {}
        self._unit_starts = UnitStarts(plan, useful_exits, cost)
        self.shadow_price = cost.per_second
        """Accuracy per second that a step must buy: the opportunity cost of engine time."""

    def best_step(self, has_room: bool) -> Decision | None:
        """Return the decision that buys most accuracy per second.

        None if no step fits into the slack and is worth its time. ``has_room``: whether another
        cohort could be held.
        """
        batches = self._plan.batches
        if self._plan.is_alone:
            return self._start_alone(batches[0])
        best, best_rate = None, self.shadow_price
        for planned in batches:
            if planned.cohort is not None:
                step = self._continue_cohort(planned.cohort, planned)
            elif has_room:
                step = self._start_batch(planned, best_rate)
            else:
                continue
            # Of equal rates the latest deadline wins: a looser budget must not yield less depth.
            if step is not None and step[0] >= best_rate:
                best_rate, best = step
        return best() if best is not None else None

    def _why_at(self, rate: float) -> Why:
        """Return the reason given for a step that buys ``rate``."""
        slack_ms = self._plan.slack_s * 1e3
        return Why(
            "buys {:.2f} AP/s at a price of {:.2f}, slack {:.1f} ms",
            (rate, self.shadow_price, slack_ms),
        )

    def _start_batch(self, planned: PlannedBatch, min_rate: float) -> _Candidate | None:
        """Return the candidate that starts waiting requests on unit segments, or None.

        They start if that may lead deeper than they must go, at ``min_rate`` or better, and fits
        into the slack of all, and its first segment into the slack of the steps before it; unless a
        fused run, when its turn comes, promises more.
        """
        unit_start = self._unit_starts.best(planned, min_rate)
        if unit_start is None or unit_start.rate < min_rate:
            return None
        if self._models[unit_start.stem.model].stem(len(planned.requests)) > planned.slack_before_s:
            return None
        fused = self.best_fused(planned)
        if fused is not None and fused.worth >= unit_start.worth:
            return None
        return unit_start.rate, lambda: Run(
            unit_start.stem, planned.requests, None, self._why_at(unit_start.rate)
        )

    def best_fused(self, planned: PlannedBatch) -> FusedStart | None:
        """Return the fused run that is worth most to a batch, or to the most urgent of it.

        None if none fits into their share of the slack. The worth is the accuracy of the exit, if
        it is in time, less the opportunity cost of a run that takes longer than planned and cannot
        be stopped; and, while no more than ``MAX_STEPS_AHEAD`` steps wait, what may follow it. Then
        the odds of delays that no plan knows of count as well, between fused runs alone: a start on
        unit segments has as many of them.
        """
        if planned.num_streaming:
            return None
        if id(planned) not in self._fused:
            self._fused[id(planned)] = self._find_fused(planned)
        return self._fused[id(planned)]

    def _find_fused(self, planned: PlannedBatch) -> FusedStart | None:
        """Find what ``best_fused`` returns, and remembers."""
        best = self._best_fused_of(_Part(planned, self._plan.slack_s, self._plan.share_s))
        for part in self._parts(planned):
            found = self._best_fused_of(part)
            if found is not None and (best is None or found.worth > best.worth + TIE):
                best = found
        return best

    def _parts(self, planned: PlannedBatch) -> Iterator[_Part]:
        """Yield the first requests of a batch, as many as pay off, that may start without the rest.

        A batch is as urgent as its first request, whose deadline may leave time for no more than
        the quickest exit. Where the engine can do all that comes one by one, the time that a batch
        saves is better spent on depth.
        """
        plan, costs, depth = self._plan, planned.costs, planned.min_depth
        batch = len(planned.requests)
        if batch == 1 or plan.num_waiting_steps > MAX_STEPS_AHEAD or plan.needs_batches(costs):
            return
        ap = self._useful_exits[costs.paths.model].ap(depth)
        for size in costs.paying_sizes(depth, plan.ways_in.batch_sizes):
            if size < batch:
                times, first = costs.path(depth, size), planned.requests[:size]
                slack_s, share_s, rest_s = plan.slack_in_parts(planned, size, times)
                if slack_s >= 0.0:
                    step = PlannedBatch(first[0].deadline_s, times, first, None, first, costs)
                    more_s = times[1] + rest_s - planned.times[1]
                    yield _Part(step, slack_s, share_s, more_s, ap * (batch - size))

    def _best_fused_of(self, part: _Part) -> FusedStart | None:
        """Return the fused run that is worth most to the requests of ``part``, or None.

        It must not typically take more than their share of the slack longer than planned, and
        seldom more than all of it: a run that is as slow as it seldom is uses up what others leave.
        """
        planned, requests = part.planned, part.planned.requests
        batch, (planned_tail_s, planned_s) = len(requests), planned.times
        limit_s, share_limit_s = planned_tail_s + part.slack_s, planned_tail_s + part.share_s
        left_s = requests[0].deadline_s - self._plan.now_s
        planned_ap = self._useful_exits[planned.costs.paths.model].ap(planned.min_depth) * batch
        looks_ahead = self._plan.num_waiting_steps <= MAX_STEPS_AHEAD
        best: tuple[Segment, bool] | None = None
        best_worth, most_worth, best_ap = -math.inf, -math.inf, 0.0
        for costs, useful in zip(self._models, self._useful_exits, strict=True):
            depth = planned.min_depth
            while depth and depth <= useful.num_exits:
                tail_s, typical_s = times = costs.fused(depth, batch)
                ap, extra_s = useful.ap(depth) * batch, typical_s - planned_s
                if extra_s <= part.share_s and tail_s <= limit_s:
                    late = late_share(times, max(tail_s, share_limit_s))
                    worth = ap * (1.0 - late) - self._cost.of_run(typical_s, extra_s + part.more_s)
                    unseen = follows = 0.0
                    if looks_ahead:
                        point = (costs.paths.model, depth)
                        follows = self._in_hand.worth_of_what_follows(
                            point, times, requests, self._cost
                        )
                        worth += follows
                        unseen = ap * max(0.0, costs.late_odds(times, left_s) - late)
                    if extra_s < 0.0 and ap < planned_ap and not follows:
                        worth = -math.inf  # less accuracy for its time than what is planned
                    better = worth - unseen - best_worth
                    # Of equals the most accurate: who goes there at once needs no second run.
                    if better > TIE * batch or (better > -TIE * batch and ap > best_ap):
                        best_worth, best_ap = worth - unseen, ap
                        best = costs.paths.exits[depth], follows > 0.0
                    most_worth = max(most_worth, worth)
                depth = useful.next(depth, planned.max_depth)
        return FusedStart(most_worth + part.rest_ap, *best, requests) if best is not None else None

    def _continue_cohort(self, cohort: Cohort, planned: PlannedBatch) -> _Candidate | None:
        """Return the candidate that takes a cohort on: one more stack, in most cases.

        Before that comes a head for the streaming rows that have no answer of this depth yet.
        """
        num_rows = len(planned.requests)
        if cohort.depth < planned.min_depth:
            stack_s = planned.costs.stack(cohort.depth + 1, num_rows)
            return (
                (math.inf, lambda: one_stack(cohort)) if stack_s <= planned.slack_before_s else None
            )
        target = self._useful_exits[cohort.model].next(cohort.depth, planned.max_depth)
        if target == 0:
            return self._answer_at_last_exit(cohort, planned)
        if planned.to_answer:
            step = self._answer_streaming(cohort, planned)
        else:
            step = self._one_deeper(cohort, planned, target)
        return step or self._conclude_answered(cohort, planned, target)

    def _answer_at_last_exit(self, cohort: Cohort, planned: PlannedBatch) -> _Candidate | None:
        """Return the candidate that answers a cohort for which no deeper exit is better.

        It may as well be answered now and make room.
        """
        unanswered = tuple(
            r for r in planned.requests if r in planned.owed or r in planned.to_answer
        )
        if not unanswered:
            return math.inf, lambda: Conclude(planned.requests, NOTHING_DEEPER)
        if planned.costs.head(cohort.depth, len(unanswered)) > self._plan.slack_s:
            return self._answer_streaming(cohort, planned) if planned.to_answer else None
        why = Why("nothing deeper is better, and there is time")
        return math.inf, lambda: Run(head_of(cohort), unanswered, cohort.id, why)

    def _answer_streaming(self, cohort: Cohort, planned: PlannedBatch) -> _Candidate | None:
        """Return the candidate that answers streaming rows before the cohort goes on."""
        depth, batch, num_owed = cohort.depth, len(planned.to_answer), len(planned.owed)
        num_plain = len(planned.requests) - planned.num_streaming
        head_s = planned.costs.head(depth, batch)
        extra_s = planned.costs.split_heads(depth, batch, num_plain, num_owed)
        if head_s > planned.slack_before_s or extra_s > self._plan.slack_s:
            return None
        if num_owed > num_plain:  # some are first answers, which are in the plan anyway
            rate = math.inf
        else:
            useful = self._useful_exits[cohort.model]
            rate = max(useful.gain(depth - 1, depth), 0.0) * batch / head_s
        return rate, lambda: Run(head_of(cohort), planned.to_answer, cohort.id, self._why_at(rate))

    def _one_deeper(self, cohort: Cohort, planned: PlannedBatch, target: int) -> _Candidate | None:
        """Return the candidate that runs the next stack on the way to exit ``target``."""
        depth, batch, num_streaming = cohort.depth, len(planned.requests), planned.num_streaming
        extra_s = planned.costs.deeper(depth, target, batch, num_streaming, len(planned.owed))
        if extra_s > self._plan.slack_s:
            return None
        rate = self.rate(cohort, target, batch, num_streaming, planned.costs)
        return rate, lambda: one_stack(cohort, self._why_at(rate))

    def _conclude_answered(
        self, cohort: Cohort, planned: PlannedBatch, target: int
    ) -> _Candidate | None:
        """Return the candidate that concludes a cohort's answered rows to let the others go on.

        What does not fit for all rows may fit for those to whom an answer is owed.
        """
        batch, num_owed = len(planned.requests), len(planned.owed)
        if not 0 < num_owed < batch:
            return None
        if planned.costs.deeper(cohort.depth, target, num_owed, 0, num_owed) > self._plan.slack_s:
            return None
        answered = tuple(request for request in planned.requests if request not in planned.owed)
        rate = self.rate(cohort, target, num_owed, 0, planned.costs)
        return rate, lambda: Conclude(answered, PLACE_NEEDED)

    def rate(
        self, cohort: Cohort, target: int, batch: int, num_streaming: int, costs: Costs
    ) -> float:
        """Return the accuracy per second that going on to exit ``target`` buys a cohort.

        What newcomers lose by its stacks is taken off; heads that would be run anyway are free.
        """
        depth = cohort.depth
        seconds = costs.stacks(depth, target, batch)[1]
        if num_streaming:
            seconds += sum(costs.head(k, num_streaming) for k in range(depth + 1, target + 1))
        lost = blocked_by_stacks(self._cost, costs, depth, target, batch)
        return (self._useful_exits[cohort.model].gain(depth, target) * batch - lost) / seconds

    def _start_alone(self, planned: PlannedBatch) -> Run:
        """Return the run that starts waiting requests when nobody else is here.

        It is on unit segments, which can stop, or a fused run, whichever promises more.
        """
        unit_start = self._unit_starts.best(planned, self.shadow_price)
        fused = self.best_fused(planned)
        slack_ms = self._plan.slack_s * 1e3
        if (
            unit_start is not None
            and unit_start.rate >= self.shadow_price
            and (fused is None or unit_start.worth > fused.worth)
        ):
            segment, why = unit_start.stem, self._why_at(unit_start.rate)
        elif fused is not None:
            why = Why("alone; {:.1f} ms of slack", (slack_ms,))
            return Run(fused.segment, fused.requests, None, why, fused.hold)
        else:
            segment = quickest_first_segment(planned)
            why = Why("the quickest way in: {:.1f} ms of slack", (slack_ms,))
        return Run(segment, planned.requests, None, why)
