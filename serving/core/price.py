"""What a second of engine time is worth to those who have not arrived yet.

Work that is done now delays all that comes later, by just as much until the backlog is next gone,
and costs nothing if it goes. If it first grows so long that a newcomer's budget does not reach
beyond it, newcomers are lost for as long as it stays so. With budgets ``b_i``, each of one request
in ``n``, that is

    price(backlog) = accuracy / c * min(1, rho / (1 - rho)) * mean of P_i
    P_i = P(the backlog reaches b_i - c before it is gone)

per second, where ``c`` is the time that a request needs and ``rho`` the share of the engine's time
that requests need: another second of backlog stays above a limit for ``1 / (1 - rho)`` seconds, in
which ``rho / c`` requests come each second, but no more are lost than could have been served in it.
``P_i`` is that of a gambler's ruin (Feller, vol. I, ch. XIV) for the backlog as a diffusion with
drift ``rho - 1`` and variance ``rho * c * cv2``:

    P_i = (exp(theta * backlog) - 1) / (exp(theta * limit) - 1),  theta = 2 (1 - rho) / (rho c cv2)
"""

from __future__ import annotations

import math
from bisect import bisect_right

from serving.core.demand import Demand

CAUTION = 1.5
"""A request that is lost weighs this many times what it would have been answered with: a miss is
worse than the same accuracy gained elsewhere. Simulated (``punctual simulate``, cpu-lite, Poisson,
loads .4 and .6): with 1, up to 2 in 100 more are lost than if everybody left at the first exit,
with 1.5 less than 1, for a fifth of the accuracy that depth adds with 1."""
MIN_CV2, MAX_CV2 = 0.25, 16.0
"""Arrivals are never taken to be more even or more uneven than this: samples are small."""
MIN_ODDS, MAX_ODDS = 1e-6, 700.0
"""Exponents that are as good as none, and as good as certain, and that a float can hold."""


class Price:
    """The price as a function of the backlog."""

    __slots__ = ("_blocked", "_flood", "_limits_s", "_ruins", "_theta", "rho")

    def __init__(self, demand: Demand, request_s: float, accuracy: float) -> None:
        """``request_s``: engine seconds that a request typically needs; ``accuracy``: what it is
        answered with."""
        # Whoever has no more time than it needs is late anyway.
        limits_s = [budget_s - request_s for budget_s in demand.budgets_s if budget_s > request_s]
        self.rho = rho = demand.rate_hz * request_s
        cv2 = min(max(demand.cv2, MIN_CV2), MAX_CV2)
        lost = min(1.0, rho / (1.0 - rho)) if rho < 1.0 else 1.0
        each = CAUTION * accuracy / max(1, len(demand.budgets_s))
        self._flood = each * lost / request_s
        self._blocked = each * demand.rate_hz
        self._theta = 0.0
        self._limits_s: list[float] = []
        self._ruins: list[float] = []
        if rho > 0.0 and limits_s:
            theta, longest_s = 2.0 * (1.0 - rho) / (rho * request_s * cv2), limits_s[-1]
            odds = min(max(abs(theta), MIN_ODDS / longest_s), MAX_ODDS / longest_s)
            self._theta = theta = math.copysign(odds, theta)
            self._limits_s = limits_s
            self._ruins = [math.expm1(theta * limit_s) for limit_s in limits_s]

    def at(self, backlog_s: float) -> float:
        """Accuracy per second of engine time that is lost behind a backlog of so many seconds."""
        if not self._limits_s:
            return 0.0
        num_short = bisect_right(self._limits_s, backlog_s)
        ruin = float(num_short)
        if num_short < len(self._limits_s):
            here = math.expm1(self._theta * backlog_s)
            ruin += sum([here / there for there in self._ruins[num_short:]])
        return self._flood * ruin

    def of_run(self, seconds: float, extra_s: float, backlog_s: float) -> float:
        """Accuracy that is lost by a run of so many seconds that cannot be stopped, and that adds
        ``extra_s`` to the backlog: whoever comes early in it, with less time than is left of it, is
        late whatever is decided then."""
        blocked_s = sum([seconds - s for s in self._limits_s if s < seconds])
        priced_s = backlog_s + max(0.0, extra_s)
        return self.at(priced_s) * extra_s + self._blocked * blocked_s
