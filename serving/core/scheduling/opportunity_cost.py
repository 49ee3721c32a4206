"""The opportunity cost of engine time: what a second of it is worth to requests yet to come.

Work that is done now delays all later arrivals that are due after it, each by just as much, until
the engine has next worked off its backlog; if it soon does, nobody is harmed. But while the backlog
is so long that a newcomer's budget does not reach beyond it, newcomers are lost. For a newcomer
with budget ``b_i``, ``backlog_i`` is all work that is due before it, in seconds, and ``limit_i``
how long that may be: ``b_i`` less what a request alone seldom exceeds. With ``n`` budgets, each
that of one request in ``n``, a second of engine time costs

    accuracy / c * min(1, rho / (1 - rho)) * mean of P_i
    P_i = P(backlog_i reaches limit_i before it is gone)

or what it buys others in depth, where that is more: see ``depth_price``. The backlog is then all
work, since whoever overtakes, all of it takes time that others could go deeper in, and its limit
the mean of the ``limit_i``. In this,
``c`` is the time that a request needs, ``rho`` the utilisation (the share of the engine's
time that requests need), and ``accuracy`` what each is answered with, weighed by ``CAUTION``. The
reason: another second of backlog stays above a limit for ``1 / (1 - rho)`` seconds. In each of
these ``rho / c`` requests come, but no more are lost than could have been served in it.

``P_i`` is that of a gambler's ruin (Feller, vol. I, ch. XIV), for the backlog as a diffusion with
drift ``rho - 1`` and variance ``rho * c * cv2``, where ``cv2`` is the squared coefficient of
variation of the times between arrivals:

    P_i = (exp(theta backlog_i) - 1) / (exp(theta limit_i) - 1),  theta = 2 (1 - rho) / (rho c cv2)

A delay also costs those who wait already, however safe the plan: for as long as they wait, the
machine may stand still. Of ``k`` hold-ups that were seen in ``t`` seconds of runs, one of ``e``
seconds makes all late that are due within ``e``. With ``n_e`` of them, a second of delay costs

    accuracy * sum of n_e over the k hold-ups / t,  times HOLD_UP_WEIGHT
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from serving.core.demand import Demand
from serving.core.latency import Times
from serving.core.scheduling.depth_price import (
    CostAndAp,
    DepthPrice,
    concave_envelope,
    fluid_dual,
)

CAUTION = 3.0
"""Weight of a lost request, in multiples of the accuracy that it would have been answered with: a
miss is worse than the same accuracy gained elsewhere, and the odds of a miss are an estimate that
matters the more, the less depth gains. In the simulator (three kinds of arrivals, loads .2 to 1,
five seeds), up to .8 in 100 more are lost than if everybody left at the first exit. With 1.8 it
would be 1.2, for .003 more accuracy where the last exit is a quarter better, and none where it is
better by 7 %."""
HOLD_UP_WEIGHT = 10.0
"""Weight of those who wait and would be late by a hold-up, in multiples of that accuracy. In the
simulator (the default model, stalls of 50 ms a second apart and slow periods, loads .15 to .45,
eight seeds), about a tenth fewer requests are missed by it, and in-time accuracy is .002 lower to
.003 higher. With 30 it is the same within noise."""
RATE_MARGIN = 1.1
"""Factor by which the rate of arrivals is taken to be higher than measured. Over a window the
measured rate is often a tenth too low, and then depth is sold too cheaply by more than it is too
dear where the rate is as much too high. In the simulator, where depth buys little (accuracies .588
to .625, loads .6 and .9), that cost up to 1 in 100 requests."""
MIN_LIMIT = 0.1
"""Share of its typical time that any request is taken to be able to wait: who can be in time by
luck alone is not given up."""
MIN_CV2, MAX_CV2 = 0.25, 16.0
"""Bounds of how even and uneven arrivals are taken to be, since samples are small."""
MIN_ODDS, MAX_ODDS = 1e-6, 700.0
"""Bounds of the exponents in ``P_i``: as good as no odds, and as good as certainty, and both within
what a float can hold."""


class OpportunityCostModel:
    """The part of the opportunity cost that demand alone decides, before backlogs are known."""

    __slots__ = (
        *("accuracy", "arrival_rate_ap", "cv2", "depth_price", "dual", "limits", "max_loss_rate"),
        *("num_skipped", "rate_hz", "rho", "theta"),
    )

    def __init__(self, demand: Demand, request_s: float, accuracy: float, alone: Times) -> None:
        """Derive the model from ``demand``, as measured; depth costs others nothing so far.

        ``request_s``: engine seconds that a request typically needs, in the batches that there are;
        ``alone``: tail and typical seconds that it takes by itself; ``accuracy``: what it is
        answered with.
        """
        tail_s, typical_s = alone
        # A request with no more time than it typically needs is late whatever is decided.
        limits_s = [
            max(budget_s - tail_s, MIN_LIMIT * typical_s)
            for budget_s in demand.budgets_s
            if budget_s > typical_s
        ]
        self.num_skipped = len(demand.budgets_s) - len(limits_s)
        """Number of budgets, the smallest ones, that are too small for any answer."""
        rate_hz = RATE_MARGIN * demand.rate_hz
        if demand.busy_share < 1.0:  # nobody is delayed by an engine that arrivals find idle
            rate_hz = min(rate_hz, demand.busy_share / request_s)
        self.accuracy = accuracy
        """Accuracy that a request is answered with."""
        self.rate_hz = rate_hz
        """Arrivals per second, as far as they find the engine at work."""
        self.rho = rho = rate_hz * request_s
        """Utilisation: share of the engine's time that requests are taken to need."""
        self.cv2 = cv2 = min(max(demand.cv2, MIN_CV2), MAX_CV2)
        """Squared coefficient of variation of the times between arrivals."""
        lost = min(1.0, rho / (1.0 - rho)) if rho < 1.0 else 1.0
        budget_weight = CAUTION * accuracy / max(1, len(demand.budgets_s))
        self.max_loss_rate = budget_weight * lost / request_s
        """Accuracy per second, for each budget, that newcomers lose who are sure to be late."""
        self.arrival_rate_ap = budget_weight * rate_hz
        """Accuracy per second, for each budget, that newcomers come for."""
        self.theta = 0.0
        """Exponent of ``P_i`` for each second of backlog; 0 if nothing arrives."""
        self.limits: list[tuple[float, float]] = []
        """Pairs of a ``limit_i`` in seconds, smallest first, and ``exp(theta limit_i) - 1``."""
        self.depth_price: DepthPrice | None = None
        """Price of what a second buys others in depth; None if it buys nothing."""
        self.dual = 0.0
        """What a second buys others in depth in the long run: the dual of the fluid problem at the
        rate as measured. It jumps with the rate, so that a margin would often be too much."""
        if rho > 0.0 and limits_s:
            theta, longest_s = 2.0 * (1.0 - rho) / (rho * request_s * cv2), limits_s[-1]
            exponent = min(max(abs(theta), MIN_ODDS / longest_s), MAX_ODDS / longest_s)
            self.theta = theta = math.copysign(exponent, theta)
            self.limits = [(limit_s, math.expm1(theta * limit_s)) for limit_s in limits_s]

    def add_depth(self, points: Iterable[CostAndAp]) -> None:
        """Let engine time cost what it buys others in depth.

        ``points`` are operating points, each with the engine seconds that a request typically needs
        to it, in the batches that there are, and its accuracy.
        """
        if self.limits:
            limit_s = sum(limit_s for limit_s, _ in self.limits) / len(self.limits)
            envelope = concave_envelope(points)
            self.depth_price = DepthPrice(envelope, self.rate_hz, self.cv2, limit_s)
            self.dual = fluid_dual(envelope, self.rate_hz / RATE_MARGIN)

    def given(
        self, backlogs_s: Sequence[float], total_s: float = 0.0, exposed_hz: float = 0.0
    ) -> OpportunityCost:
        """Return the opportunity cost at these backlogs.

        They are the seconds that what is due before a newcomer typically takes: one figure for each
        budget of the demand, in their order. ``total_s``: seconds that all work takes;
        ``exposed_hz``: number of those who wait that hold-ups make late in a second of delay.
        """
        return OpportunityCost(self, backlogs_s, total_s, exposed_hz)


class OpportunityCost:
    """The accuracy that others lose by engine time that is used now."""

    __slots__ = (
        *(
            "_blocked",
            "_exposed",
            "_is_highest",
            "_model",
            "_total_s",
            "_with_backlog",
            "_without_backlog",
        ),
        *("max_free_s", "per_second"),
    )

    def __init__(
        self,
        model: OpportunityCostModel,
        backlogs_s: Sequence[float],
        total_s: float,
        exposed_hz: float,
    ) -> None:
        self._model = model
        self._exposed = HOLD_UP_WEIGHT * model.accuracy * exposed_hz
        self._total_s = total_s
        self._blocked: dict[float, float] = {}
        self._with_backlog: list[tuple[float, float, float]] = []
        self._without_backlog: list[tuple[float, float]] = []
        for limit, backlog_s in zip(model.limits, backlogs_s[model.num_skipped :], strict=False):
            if backlog_s > 0.0:
                self._with_backlog.append((*limit, backlog_s))
            else:
                self._without_backlog.append(limit)
        self.max_free_s = 0.0
        """Seconds up to which a run blocks nobody."""
        if not self._without_backlog:
            self.max_free_s = model.limits[0][0] if model.limits else math.inf
        self._is_highest = self._beyond_limits()
        """Whether longer backlogs cost no more."""
        self.per_second = self._per_second(0.0)
        """Shadow price of engine time: accuracy lost for each second of it."""

    def _beyond_limits(self) -> bool:
        """Return whether every backlog there is has reached its limit."""
        depth_price = self._model.depth_price
        if depth_price is not None and not depth_price.is_highest(self._total_s):
            return False
        return all(ahead_s >= limit_s for limit_s, _, ahead_s in self._with_backlog)

    def _per_second(self, more_s: float) -> float:
        """Return the accuracy lost per second if every backlog there is were ``more_s`` longer."""
        theta, ruin = self._model.theta, 0.0
        for limit_s, expm1_limit, backlog_s in self._with_backlog:
            ahead_s = backlog_s + more_s
            ruin += math.expm1(theta * ahead_s) / expm1_limit if ahead_s < limit_s else 1.0
        lost, depth_price = self._model.max_loss_rate * ruin, self._model.depth_price
        return lost if depth_price is None else max(lost, depth_price.at(self._total_s + more_s))

    def blocked(self, seconds: float) -> float:
        """Return the accuracy that is lost because a run of so many seconds cannot be stopped.

        Whoever comes early in it, with less time than is left of it, is late whatever is decided
        then. And newcomers who are due before everybody else, so that they have no backlog, have
        one by its end of what has come meanwhile: half of that, on average.
        """
        if seconds <= self.max_free_s:
            return 0.0
        known = self._blocked.get(seconds)
        if known is None:
            known = self._blocked[seconds] = self._find_blocked(seconds)
        return known

    def _find_blocked(self, seconds: float) -> float:
        """Find what ``blocked`` returns, and remembers: few lengths are asked for again."""
        model, lost, delayed = self._model, 0.0, 0.0
        for limit_s, _ in model.limits:
            if limit_s >= seconds:
                break
            lost += seconds - limit_s
        if self._without_backlog:
            mean_backlog_s = 0.5 * model.rho * seconds
            for limit_s, expm1_limit in self._without_backlog:
                delayed += (
                    math.expm1(model.theta * mean_backlog_s) / expm1_limit
                    if mean_backlog_s < limit_s
                    else 1.0
                )
        return model.arrival_rate_ap * lost + model.max_loss_rate * model.rho * seconds * delayed

    def of_time(self, extra_s: float) -> float:
        """Return the accuracy lost by delaying backlogs by ``extra_s``.

        The price is that of the middle: backlogs grow meanwhile, and the price with them.
        """
        if self._is_highest:
            return self.per_second * extra_s
        return self._per_second(max(0.0, 0.5 * extra_s)) * extra_s

    def of_committed(self, seconds: float, extra_s: float) -> float:
        """Return the accuracy lost by the last ``extra_s`` of a run of ``seconds``.

        They delay backlogs, and cannot be taken back. On an engine that is idle for a moment they
        look free, and whoever comes meanwhile pays for them. So they cost at least what time is
        worth in the long run, for as long as they delay the next newcomer on average. With arrivals
        at random, at a rate ``r``, it comes after ``A``, and a run of ``c`` delays it by
        ``(c - A)+``, of which the mean is ``c - (1 - exp(-r c)) / r``.
        """
        model, cost = self._model, self.of_time(extra_s) + self._exposed * max(0.0, extra_s)
        if model.dual <= 0.0 or extra_s <= 0.0:
            return cost
        rate_hz, without_s = model.rate_hz, max(0.0, seconds - extra_s)
        none_yet = math.exp(-rate_hz * without_s) - math.exp(-rate_hz * seconds)
        return max(cost, model.dual * (extra_s - none_yet / rate_hz))

    def of_upgrade(self, seconds: float) -> float:
        """Return the accuracy lost by a run of ``seconds`` for somebody with an answer in hand."""
        return self.of_run(seconds, seconds)

    def of_run(self, seconds: float, extra_s: float) -> float:
        """Return the accuracy lost by a run of ``seconds`` that delays backlogs by ``extra_s``."""
        return self.of_committed(seconds, extra_s) + self.blocked(seconds)
