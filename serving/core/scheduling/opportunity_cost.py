"""What a second of engine time is worth to those who have not arrived yet.

Work that is done now delays all that comes later and is not due before it, by just as much until
the backlog is next gone, and costs nothing if it goes. If it first grows so long that a newcomer's
budget does not reach beyond it, newcomers are lost for as long as it stays so. What is due before
whoever comes with budget ``b_i`` is its backlog, and ``limit_i`` how long that may be: ``b_i`` less
what a request seldom exceeds. With budgets of one request in ``n`` each, that is

    price(backlogs) = accuracy / c * min(1, rho / (1 - rho)) * mean of P_i
    P_i = P(backlog_i reaches limit_i before it is gone)

per second, where ``c`` is the time that a request needs and ``rho`` the share of the engine's time
that requests need: another second of backlog stays above a limit for ``1 / (1 - rho)`` seconds, in
which ``rho / c`` requests come each second, but no more are lost than could have been served in it.
``P_i`` is that of a gambler's ruin (Feller, vol. I, ch. XIV) for the backlog as a diffusion with
drift ``rho - 1`` and variance ``rho * c * cv2``:

    P_i = (exp(theta backlog_i) - 1) / (exp(theta limit_i) - 1),  theta = 2 (1 - rho) / (rho c cv2)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from serving.core.demand import Demand
from serving.core.latency import Times

CAUTION = 3.0
"""A request that is lost weighs this many times what it would have been answered with: a miss is
worse than the same accuracy gained elsewhere, and the odds of a miss are an estimate that matters
the more, the less depth gains. In the simulator (three kinds of arrivals, loads .2 to 1, five
seeds), up to .8 in 100 more are lost than if everybody left at the first exit. With 1.8 it would be
1.2, for .003 more accuracy where the last exit is a quarter better, and none where it is 7 %."""
RATE_MARGIN = 1.1
"""The price is that of so many times the measured rate of arrivals. Over a window it is often a
tenth too low, and then depth is sold too cheaply by more than it is too dear where the rate is as
much too high. In the simulator, where depth buys little (accuracies .588 to .625, loads .6 and .9),
that cost up to 1 in 100 requests."""
MIN_LIMIT = 0.1
"""Who can be in time by luck alone is not given up: it can wait for this share of what a request
typically takes."""
MIN_CV2, MAX_CV2 = 0.25, 16.0
"""Arrivals are never taken to be more even or more uneven than this: samples are small."""
MIN_ODDS, MAX_ODDS = 1e-6, 700.0
"""Exponents that are as good as none, and as good as certain, and that a float can hold."""


class OpportunityCostModel:
    """What of the price the demand decides."""

    __slots__ = ("arrival_rate_ap", "limits", "max_loss_rate", "num_skipped", "rho", "theta")

    def __init__(self, demand: Demand, request_s: float, accuracy: float, alone: Times) -> None:
        """``request_s``: engine seconds that a request typically needs, in the batches that there
        are; ``alone``: what it takes by itself; ``accuracy``: what it is answered with."""
        tail_s, typical_s = alone
        # Whoever has no more time than it needs is late anyway.
        limits_s = [
            max(budget_s - tail_s, MIN_LIMIT * typical_s)
            for budget_s in demand.budgets_s
            if budget_s > typical_s
        ]
        self.num_skipped = len(demand.budgets_s) - len(limits_s)
        """Budgets, the smallest ones, that are too small."""
        rate_hz = RATE_MARGIN * demand.rate_hz
        self.rho = rho = rate_hz * request_s
        """Share of the engine's time that requests are taken to need."""
        cv2 = min(max(demand.cv2, MIN_CV2), MAX_CV2)
        lost = min(1.0, rho / (1.0 - rho)) if rho < 1.0 else 1.0
        budget_weight = CAUTION * accuracy / max(1, len(demand.budgets_s))
        self.max_loss_rate = budget_weight * lost / request_s
        """Accuracy per second, for each budget, that newcomers who are sure to be late lose."""
        self.arrival_rate_ap = budget_weight * rate_hz
        """Accuracy per second, for each budget, that newcomers come for."""
        self.theta = 0.0
        self.limits: list[tuple[float, float]] = []
        """Seconds, smallest first, and ``exp(theta limit) - 1``."""
        if rho > 0.0 and limits_s:
            theta, longest_s = 2.0 * (1.0 - rho) / (rho * request_s * cv2), limits_s[-1]
            exponent = min(max(abs(theta), MIN_ODDS / longest_s), MAX_ODDS / longest_s)
            self.theta = theta = math.copysign(exponent, theta)
            self.limits = [(limit_s, math.expm1(theta * limit_s)) for limit_s in limits_s]

    def given(self, backlogs_s: Sequence[float]) -> OpportunityCost:
        """The price, given how long what is due before newcomers takes: one figure for each budget
        of the demand, in their order."""
        return OpportunityCost(self, backlogs_s)


class OpportunityCost:
    """What newcomers lose by engine time that is used now."""

    __slots__ = ("_model", "_with_backlog", "_without_backlog", "per_second")

    def __init__(self, model: OpportunityCostModel, backlogs_s: Sequence[float]) -> None:
        self._model = model
        self._with_backlog: list[tuple[float, float, float]] = []
        self._without_backlog: list[tuple[float, float]] = []
        for limit, backlog_s in zip(model.limits, backlogs_s[model.num_skipped :], strict=False):
            if backlog_s > 0.0:
                self._with_backlog.append((*limit, backlog_s))
            else:
                self._without_backlog.append(limit)
        self.per_second = self._per_second(0.0)
        """Accuracy per second of engine time."""

    def _per_second(self, more_s: float) -> float:
        """With so much more before those who have something before them."""
        theta, ruin = self._model.theta, 0.0
        for limit_s, expm1_limit, backlog_s in self._with_backlog:
            ahead_s = backlog_s + more_s
            ruin += math.expm1(theta * ahead_s) / expm1_limit if ahead_s < limit_s else 1.0
        return self._model.max_loss_rate * ruin

    def blocked(self, seconds: float) -> float:
        """Accuracy that is lost by a run of so many seconds, since it cannot be stopped: whoever
        comes early in it, with less time than is left of it, is late whatever is decided then; and
        newcomers who are due before everybody else, so that they have no backlog, have one by its
        end of what has come meanwhile: half of that, on average."""
        model, lost, delayed = self._model, 0.0, 0.0
        for limit_s, _ in model.limits:
            if limit_s >= seconds:
                break
            lost += seconds - limit_s
        if self._without_backlog:
            half_s = 0.5 * model.rho * seconds
            for limit_s, expm1_limit in self._without_backlog:
                delayed += (
                    math.expm1(model.theta * half_s) / expm1_limit if half_s < limit_s else 1.0
                )
        return model.arrival_rate_ap * lost + model.max_loss_rate * model.rho * seconds * delayed

    def of_run(self, seconds: float, extra_s: float) -> float:
        """Accuracy that is lost by a run of so many seconds that adds ``extra_s`` to the
        backlogs."""
        return self._per_second(max(0.0, extra_s)) * extra_s + self.blocked(seconds)
