"""Answers in hand: a cheap answer first, and a better one while there is time.

Runs are late for reasons that no plan knows: a machine stands still, a neighbour takes its cores.
Whoever has an answer in hand then still has that. So a start at an operating point ``s`` is valued
with what may follow, a run at a better point ``t`` from the same image, also by a fused segment:

    worth(s) = ap(s) (1 - late(s)) - cost(s)
               + max(0, max over t of
                        comes(t) ((ap(s then t) - ap(s)) (1 - late(s + t)) - cost(t)))

``late`` are the odds to be late (``Latency.late_odds``), ``s + t`` is both runs in a row, ``cost``
the opportunity cost of a run that cannot be stopped (see ``opportunity_cost``), and
``ap(s then t)`` that of both answers merged where that was measured, else that of the better one.
``comes`` are the odds that there is time for ``t``: what first answers leave of the engine, if all
are of ``s``, over what second ones would take, if all were of ``t``. Else requests would start at
smaller points for second answers that do not come.

Against ``t`` at once, worth ``ap(t) (1 - late(t)) - cost(t)``, the cheap answer is thus bought
first where the odds to be late times what is lost exceed its price, or where both together are
worth more than ``t``. It is not where that would save nothing: of equals the one run is chosen. And
in a model with unit segments the way to a better answer leads through its features, not from the
image again.

Nothing is owed to a held request. Its *upgrade* is run if it fits the slack of the plan, can be in
time, and is worth more than its time; the plan goes first as long as the upgrade can be in time
after it. Each request has one at most.

Nobody waits for an upgrade that does not come. Those of all who are held are laid out one after the
other, by when they have to be there, on what newcomers leave of the engine: a newcomer's first
answer goes before a second one. A request is concluded at once when by that no better point can be
in time, or after the run that is about to start; or when the engine has nothing else to do and none
is worth it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from serving.core.demand import Demand
from serving.core.ladder import PointId
from serving.core.latency import Times
from serving.core.policy import Conclude, Held, Run, Why
from serving.core.request import Request
from serving.core.scheduling.depth_price import MIN_GAIN
from serving.core.scheduling.edf_plan import EdfPlan
from serving.core.scheduling.opportunity_cost import OpportunityCost
from serving.core.scheduling.path_costs import EPSILON_S, Costs, in_a_row
from serving.core.scheduling.paths import Paths
from serving.core.useful_exits import UsefulExits

MAX_HELD = 32
"""Number of held requests that upgrades are looked for; more are concluded, the least promising
first."""
STRETCHES = ((2.0, 3.0), (4.5, 6.0))
"""Multiples of its typical time: the odds that a run takes longer than the first are taken as those
that it takes the second."""
MAX_NEWCOMERS_SHARE = 0.9
"""Largest share of the engine's time that newcomers are taken to need, which is uncertain."""

Merged = Mapping[PointId, Mapping[PointId, float]]
"""First point -> later point -> AP of the later one's answer once the first one's is merged in."""

_FINAL = Why("no better answer could be in time")
_PASSED = Why("no better answer could be in time after the run that goes first")
_NOT_WORTH_IT = Why("no better answer is worth its time")
_TOO_MANY = Why("too many are held, and these have least to gain")


class Upgrade(NamedTuple):
    """A point that is better than one that a request was answered at."""

    model: int
    depth: int
    gain: float
    """Accuracy that it adds."""


class _Quickest(NamedTuple):
    """The upgrade of requests that are held alike which typically takes least."""

    costs: Costs
    depth: int
    run_s: float
    """Seconds that it typically takes one of them."""
    left_share: float
    """Share of the engine's time that newcomers leave, if their first answers are of the same
    point."""


Upgrades = Mapping[PointId, tuple[Upgrade, ...]]
"""Point of an answer in hand -> the points that are better, by model, then depth."""


def upgrades_of(
    paths: Sequence[Paths], useful_exits: Sequence[UsefulExits], merged: Merged
) -> Upgrades:
    """Return the better points of each point: those with a fused segment, as upgrades need one.

    A model with unit segments goes deeper from the features that it has, not from the image again.
    """
    points = [
        (model, depth)
        for model, useful in enumerate(useful_exits)
        for depth in range(1, useful.num_exits + 1)
    ]

    def gain(first: PointId, then: PointId) -> float:
        first_ap, then_ap = (useful_exits[model].ap(depth) for model, depth in (first, then))
        return merged.get(first, {}).get(then, max(first_ap, then_ap)) - first_ap

    return {
        first: tuple(
            Upgrade(*then, gain(first, then))
            for then in points
            if then[1] in paths[then[0]].fused
            and not (then[0] == first[0] and paths[first[0]].units)
            and gain(first, then) > MIN_GAIN
        )
        for first in points
    }


def may_be_answered_at(request: Request, depth: int) -> bool:
    """Return whether a request allows an exit of this depth."""
    return request.min_depth <= depth <= request.max_depth


def lost_by_a_stall(costs: Costs, cost: OpportunityCost, times: Times) -> float:
    """Return the accuracy that newcomers are likely to lose since a run may take much longer.

    ``times`` are those of the run; the odds are that it takes a few times as long, and whoever
    comes then waits for its end.
    """
    lost, blocked = 0.0, cost.blocked(times[1])
    for longer, much_longer in STRETCHES:
        last, blocked = blocked, cost.blocked(much_longer * times[1])
        if blocked > last:
            lost += costs.late_odds(times, longer * times[1]) * (blocked - last)
    return lost


class AnswersInHand:
    """What held requests, and those who would be, can still gain during one decision."""

    def __init__(
        self, plan: EdfPlan, upgrades: Upgrades, batch_sizes: Sequence[int], demand: Demand
    ) -> None:
        self._plan = plan
        self._models: Sequence[Costs] = plan.models
        self._upgrades = upgrades
        self._batch_sizes = batch_sizes
        self._demand = demand
        self._known: dict[tuple[int, int, int, int], _Quickest | None] = {}
        self._upgrades_s = 0.0  # what the upgrades of those who stay held typically take

    # -- those who will be held ------------------------------------------------------------------

    def worth_of_what_follows(
        self, start: PointId, times: Times, requests: Sequence[Request], cost: OpportunityCost
    ) -> float:
        """Return what a better answer after one of ``start`` is worth to ``requests``, at most.

        ``times`` are those of the run at ``start``. 0 if none can be in time or is worth its time.
        """
        first, batch, best = requests[0], len(requests), 0.0
        share = self._left_share(start)
        left_s = first.conclude_by_s - self._plan.now_s - self._upgrades_s / share
        for model, depth, gain in self._upgrades[start]:
            costs = self._models[model]
            then = costs.fused(depth, batch)
            if times[1] + then[1] / share > left_s or then[0] > self._plan.slack_s:
                continue
            if not may_be_answered_at(first, depth):
                continue
            late = costs.late_odds(in_a_row(times, then), left_s)
            lost = cost.of_upgrade(then[1]) + lost_by_a_stall(costs, cost, then)
            comes = self._odds_to_come(share, costs, depth)
            best = max(best, comes * (gain * batch * (1.0 - late) - lost))
        return best

    # -- those who are held ----------------------------------------------------------------------

    def final(self, held: Sequence[Held]) -> Conclude | None:
        """Return the end of held requests whom no better answer reaches in time; None if none.

        If more than ``MAX_HELD`` are left, those who have least to gain end as well.
        """
        final, plan, queued_s = [], self._plan, 0.0
        lefts_s = [one.request.conclude_by_s - plan.now_s for one in held]
        due_before_s = plan.backlogs_s(lefts_s)
        for one, left_s, before_s in zip(held, lefts_s, due_before_s, strict=True):
            quickest = self._quickest(one)
            if quickest is not None:
                all_s = queued_s + quickest.run_s
                # Those in the plan who are due later go first if they cannot wait for so much.
                ahead_s = before_s if all_s <= plan.slack_s else plan.length_s
                if (ahead_s + all_s) / quickest.left_share <= left_s + EPSILON_S:
                    queued_s += self._each_s(quickest.costs, quickest.depth, len(held))
                    continue
            final.append(one.request)
        self._upgrades_s = queued_s
        if final:
            return Conclude(tuple(final), _FINAL)
        if len(held) <= MAX_HELD:
            return None
        by_gain = sorted(held, key=lambda one: (self._most_gain(one), one.request.id))
        least = tuple(one.request for one in by_gain[: len(held) - MAX_HELD])
        return Conclude(least, _TOO_MANY)

    def passed_by(self, run: Run, held: Sequence[Held]) -> Conclude | None:
        """Return the end of held requests for whom it will be too late after ``run``; None if none.

        They are not in it, and a better answer would typically come too late.
        """
        costs = self._models[run.segment.model]
        end_s = self._plan.now_s + costs.run(run.segment, len(run.requests))[1] - EPSILON_S
        again = {request.id for request in run.requests}
        passed = []
        for one in held:
            if one.request.id in again:
                continue
            quickest = self._quickest(one)
            assert quickest is not None, "its end is final"
            if end_s + quickest.run_s > one.request.conclude_by_s:
                passed.append(one.request)
        return Conclude(tuple(passed), _PASSED) if passed else None

    def _quickest(self, held: Held) -> _Quickest | None:
        """Return the upgrade of a held request that typically takes least; None if there is none.

        It is found once for all who are held alike.
        """
        kind = _kind(held)
        if kind not in self._known:
            self._known[kind] = self._find_quickest(held)
        return self._known[kind]

    def _find_quickest(self, held: Held) -> _Quickest | None:
        """Find what ``_quickest`` returns, and remembers."""
        point = held.model, held.depth
        found: _Quickest | None = None
        for model, depth, _ in self._upgrades[point]:
            if may_be_answered_at(held.request, depth):
                run_s = self._models[model].fused(depth, 1)[1]
                if found is None or run_s < found.run_s:
                    found = _Quickest(self._models[model], depth, run_s, self._left_share(point))
        return found

    def _left_share(self, point: PointId) -> float:
        """Return the share of the engine's time that first answers leave, if they are of ``point``.

        A client that sends its next image when it has the answer to the last finds the engine idle,
        however often it does (see ``Demand.busy_share``).
        """
        model, depth = point
        each_s = self._each_s(self._models[model], depth, self._batch_sizes[-1])
        taken = min(self._demand.rate_hz * each_s, self._demand.busy_share, MAX_NEWCOMERS_SHARE)
        return 1.0 - taken

    def _odds_to_come(self, left_share: float, costs: Costs, depth: int) -> float:
        """Return the odds that there is time for a second run, if all newcomers want one as well.

        They are the share of the engine's time that first answers leave, over what second runs at
        exit ``depth`` of the model with these ``costs`` would take.
        """
        each_s = self._each_s(costs, depth, self._batch_sizes[-1])
        wanted = min(self._demand.rate_hz * each_s, self._demand.busy_share)
        return 1.0 if wanted <= left_share else left_share / wanted

    def _each_s(self, costs: Costs, depth: int, most: int) -> float:
        """Return the seconds that an image typically takes to exit ``depth``, in paying batches."""
        size = max(size for size in costs.paying_sizes(depth, self._batch_sizes) if size <= most)
        return costs.path(depth, size)[1] / size

    def _most_gain(self, held: Held) -> float:
        """Return the most that a held request could gain."""
        return max(
            (
                upgrade.gain
                for upgrade in self._upgrades[held.model, held.depth]
                if may_be_answered_at(held.request, upgrade.depth)
            ),
            default=0.0,
        )

    def upgrade(self, held: Sequence[Held], cost: OpportunityCost) -> Run | None:
        """Return the upgrade of held requests that is worth most; None if none is or fits.

        While the plan has something to do, only of those who cannot wait for all of it.
        """
        best, best_worth = None, 0.0
        # Each kind stays by deadline, since sorting is stable.
        for (model, depth, _, _), members in groupby(sorted(held, key=_kind), key=_kind):
            requests = [one.request for one in members]
            for upgrade in self._upgrades[model, depth]:
                if may_be_answered_at(requests[0], upgrade.depth):
                    found = self._best_batch(requests, upgrade, cost)
                    if found is not None and found[0] > best_worth:
                        best_worth, best = found
        return best

    def _best_batch(
        self, requests: Sequence[Request], upgrade: Upgrade, cost: OpportunityCost
    ) -> tuple[float, Run] | None:
        """Return what an upgrade is worth, and its run for as many as it can be in time for."""
        plan, costs = self._plan, self._models[upgrade.model]
        left_s = requests[0].conclude_by_s - plan.now_s
        for size in reversed(costs.paying_sizes(upgrade.depth, self._batch_sizes)):
            if size > len(requests):
                continue
            times = costs.fused(upgrade.depth, size)
            if times[1] > left_s or times[0] > plan.slack_s:
                continue
            if plan.batches and plan.length_s + times[0] <= left_s:
                return None  # they can wait for the plan
            gain = upgrade.gain * size * (1.0 - costs.late_odds(times, left_s))
            worth = gain - cost.of_upgrade(times[1]) - lost_by_a_stall(costs, cost, times)
            why = Why("{:.3f} more AP than in hand, worth {:.3f}", (upgrade.gain, worth / size))
            segment = costs.paths.exits[upgrade.depth]
            return worth, Run(segment, tuple(requests[:size]), None, why)
        return None

    @staticmethod
    def none_is_worth_it(held: Sequence[Held]) -> Conclude:
        """Return the end of held requests that no better answer is worth its time for."""
        return Conclude(tuple(one.request for one in held), _NOT_WORTH_IT)


def _kind(held: Held) -> tuple[int, int, int, int]:
    """Return what held requests that can be run again together have in common."""
    return held.model, held.depth, held.request.min_depth, held.request.max_depth
