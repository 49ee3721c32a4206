"""Starts of waiting requests on unit segments, which can stop at every boundary.

Such a start is worth the accuracy of the best exit that it leads to, less the opportunity cost of
its time beyond the plan. Whether it is made depends on its *first step*, to the next exit beyond
the plan: that must buy enough accuracy per second, whatever may follow it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from serving.core.scheduling.edf_plan import EdfPlan
from serving.core.scheduling.opportunity_cost import OpportunityCost
from serving.core.scheduling.path_costs import EPSILON_S, Costs
from serving.core.scheduling.planned_batch import PlannedBatch
from serving.core.segment import Segment
from serving.core.useful_exits import UsefulExits


class UnitStart(NamedTuple):
    """A start of waiting requests on unit segments, and what it promises."""

    worth: float
    """Accuracy of the best exit that it leads to, less the opportunity cost of the time it takes
    beyond the plan, and of the runs on the way, which cannot be stopped."""
    rate: float
    """Accuracy per second that its first step beyond the shallowest exit buys."""
    stem: Segment
    """Segment that it starts with."""


class _FirstStep(NamedTuple):
    """The first step beyond the plan of a start on unit segments of some model."""

    target: int
    """Exit that it leads to."""
    gain: float
    """Accuracy that it adds to that of the plan."""
    extra_s: float
    """Seconds that it typically takes beyond the plan."""
    split_s: float
    """Seconds of these in which those who stream are answered apart from the others."""


def blocked_by_stacks(
    cost: OpportunityCost, costs: Costs, depth: int, target: int, batch: int
) -> float:
    """Return the accuracy that newcomers lose by the stacks from ``depth`` to ``target``.

    Each of these runs to its end.
    """
    if costs.stacks(depth, target, batch)[1] <= cost.max_free_s:
        return 0.0
    lost = 0.0
    for start in range(depth, target):
        lost += cost.blocked(costs.stacks(start, start + 1, batch)[1])
    return lost


class UnitStarts:
    """The choice of the model through which a planned batch starts on unit segments."""

    def __init__(
        self, plan: EdfPlan, useful_exits: Sequence[UsefulExits], cost: OpportunityCost
    ) -> None:
        self._plan = plan
        self._models = plan.models
        self._useful_exits = useful_exits
        self._cost = cost

    def best(self, planned: PlannedBatch, min_rate: float) -> UnitStart | None:
        """Return the start on unit segments that promises most, of what fits into the slack.

        None if nothing deeper than the shallowest exit fits, or no first step buys ``min_rate``.
        The most promising start is returned even if its own does not, so that it is passed over and
        no lesser one is taken for it.
        """
        found = []
        for costs, useful in zip(self._models, self._useful_exits, strict=True):
            first = self._first_step(costs, useful, planned)
            if first is not None:
                found.append((costs, useful, first))
        # What is lost by a step, and what could follow it, do not make it buy more.
        if max([first.gain / first.extra_s for *_, first in found], default=0.0) < min_rate:
            return None
        best: UnitStart | None = None
        for costs, useful, first in found:
            start = self._start(costs, useful, planned, first)
            if best is None or start.worth > best.worth:
                best = start
        return best

    def _first_step(
        self, costs: Costs, useful: UsefulExits, planned: PlannedBatch
    ) -> _FirstStep | None:
        """Return the first step beyond the plan of a start on unit segments of a model.

        None if there is none, or it does not fit into the slack.
        """
        batch, num_streaming = len(planned.requests), planned.num_streaming
        min_depth, planned_s = planned.min_depth, planned.times[1]
        if not costs.paths.units or useful.num_exits < min_depth:
            return None
        # Another model may be more accurate at the shallowest exit already.
        base_ap, target = self._useful_exits[planned.costs.paths.model].ap(min_depth), min_depth
        if costs is planned.costs or useful.ap(target) <= base_ap:
            target = useful.next(min_depth, planned.max_depth)
        if not target:
            return None
        tail_s, typical_s = costs.unit_path(min_depth, batch)
        num_plain = batch - num_streaming
        split_s = costs.split_heads(min_depth, num_streaming, num_plain, batch)
        more_s = split_s + costs.deeper(min_depth, target, batch, num_streaming, num_plain)
        if tail_s + more_s - planned.tail_s > self._plan.slack_s:
            return None
        extra_s = typical_s * (1.0 + more_s / tail_s) - planned_s
        gain = (useful.ap(target) - base_ap) * batch
        return _FirstStep(target, gain, max(extra_s, EPSILON_S), split_s)

    def _start(
        self, costs: Costs, useful: UsefulExits, planned: PlannedBatch, first: _FirstStep
    ) -> UnitStart:
        """Return the start on unit segments of a model to the best exit that fits."""
        batch, num_streaming = len(planned.requests), planned.num_streaming
        blocked = self._cost.blocked
        num_plain, min_depth = batch - num_streaming, planned.min_depth
        lost = blocked(costs.stem(batch)) + blocked(costs.head(min_depth, batch))
        lost += blocked_by_stacks(self._cost, costs, 0, first.target, batch)
        rate = (first.gain - max(0.0, lost - blocked(planned.times[1]))) / first.extra_s
        tail_s, typical_s = costs.unit_path(min_depth, batch)
        committed_s = max(0.0, typical_s - planned.times[1])
        committed = self._cost.of_committed(typical_s, committed_s)
        target, best_worth = first.target, -math.inf
        while target:
            more_s = costs.deeper(min_depth, target, batch, num_streaming, num_plain)
            more_s += first.split_s
            # The first step may use all of the slack, and those after it their share.
            if target != first.target and tail_s + more_s - planned.tail_s > self._plan.share_s:
                break
            extra_s = typical_s * (1.0 + more_s / tail_s) - planned.times[1]
            worth = useful.ap(target) * batch - committed - lost
            worth -= self._cost_of(extra_s - committed_s)
            if worth < best_worth:
                break  # each exit gains less than the one before, and time gets dearer
            best_worth = worth
            depth, target = target, useful.next(target, planned.max_depth)
            lost += blocked_by_stacks(self._cost, costs, depth, target, batch) if target else 0.0
        return UnitStart(best_worth, rate, costs.paths.stem)

    def _cost_of(self, extra_s: float) -> float:
        """Return the opportunity cost of ``extra_s`` on unit segments beyond the plan.

        Who is alone pays today's price for all of it: if somebody comes meanwhile, and the price
        rises, it can stop. Where others wait, they pay for all of it.
        """
        if self._plan.is_alone:
            return self._cost.per_second * extra_s
        return self._cost.of_time(extra_s)
