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

from serving.core.demand import Demand

CAUTION = 1.5
"""A request that is lost weighs this many times what it would have been answered with: a miss is
worse than the same accuracy gained elsewhere. Simulated (``punctual simulate``, cpu-lite, Poisson,
load .6): with 1, up to 3 in 100 more are lost than if everybody left at the first exit, with 3 less
than 1, for half of the accuracy that depth adds with 1."""
MIN_CV2, MAX_CV2 = 0.25, 16.0
"""Arrivals are never taken to be more even or more uneven than this: samples are small."""
_STEEP = 50.0
"""Where an exponential is all that is left of a quotient of two."""


class Price:
    """The price as a function of the backlog."""

    __slots__ = ("_blocked", "_limits_s", "_theta", "flood", "rho")

    def __init__(self, demand: Demand, request_s: float, accuracy: float) -> None:
        """``request_s``: engine seconds that a request typically needs; ``accuracy``: what it is
        answered with."""
        self._limits_s = [budget_s - request_s for budget_s in demand.budgets_s]
        self.rho = rho = demand.rate_hz * request_s
        cv2 = min(max(demand.cv2, MIN_CV2), MAX_CV2)
        self._theta = 2.0 * (1.0 - rho) / (rho * request_s * cv2) if rho > 0.0 else 0.0
        lost = min(1.0, rho / (1.0 - rho)) if rho < 1.0 else 1.0
        each = CAUTION * accuracy / max(1, len(self._limits_s))
        self.flood = each * lost / request_s
        self._blocked = each * demand.rate_hz

    def at(self, backlog_s: float) -> float:
        """Accuracy per second of engine time that is lost behind a backlog of so many seconds."""
        if not self.flood:
            return 0.0
        theta = self._theta
        ruin = 0.0
        for limit_s in self._limits_s:
            if limit_s > backlog_s:
                ruin += _ruin(theta * backlog_s, theta * limit_s, backlog_s / limit_s)
            elif limit_s > 0.0:  # else whoever has so little time is late anyway
                ruin += 1.0
        return self.flood * ruin

    def of_run(self, seconds: float, extra_s: float, backlog_s: float) -> float:
        """Accuracy that is lost by a run of so many seconds that cannot be stopped, and that adds
        ``extra_s`` to the backlog: whoever comes early in it, with less time than is left of it, is
        late whatever is decided then."""
        blocked_s = sum([seconds - s for s in self._limits_s if 0.0 < s < seconds])
        priced_s = backlog_s + max(0.0, extra_s)
        return self.at(priced_s) * extra_s + self._blocked * blocked_s


def _ruin(here: float, limit: float, share: float) -> float:
    """``(exp(here) - 1) / (exp(limit) - 1)`` without overflow; ``share``: ``here / limit``."""
    if abs(limit) < 1e-6:
        return share
    if limit > _STEEP:
        return math.exp(here - limit)
    if limit < -_STEEP:
        return -math.expm1(max(here, -_STEEP))
    return math.expm1(here) / math.expm1(limit)
