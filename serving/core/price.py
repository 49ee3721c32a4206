"""What a second of engine time is worth to those who have not arrived yet.

Work that is done now delays all that comes later, by just as much until the backlog is next gone,
and costs nothing if it goes. If it first grows so long that a newcomer's budget does not reach
beyond it, that much time is missing, and as much accuracy is lost as it would have made. So

    price = accuracy per second at the first exit * P(backlog reaches the limit before it is gone)

The probability is that of a gambler's ruin (Feller, vol. I, ch. XIV) for the backlog as a diffusion
with drift ``rho - 1`` and variance ``rho * c * cv2``, where ``c`` is the time that a request needs
and ``rho`` the share of the engine's time that requests need:

    P = (exp(theta * backlog) - 1) / (exp(theta * limit) - 1),  theta = 2 (1 - rho) / (rho c cv2)
"""

from __future__ import annotations

import math

from serving.core.demand import Demand

CAUTION = 3.0
"""A request that is lost weighs this many times what it would have been answered with: a miss is
worse than the same accuracy gained elsewhere. Simulated (``punctual simulate``, cpu-lite, Poisson,
load .6): with 1, up to 3 in 100 more are lost than if everybody left at the first exit, with 3 less
than 1, for half of the accuracy that depth adds with 1."""
REACH = 0.8
"""Share of the mean budget beyond which a backlog counts as too long."""
MIN_CV2, MAX_CV2 = 0.25, 16.0
"""Arrivals are never taken to be more even or more uneven than this: samples are small."""
_STEEP = 50.0
"""Where an exponential is all that is left of a quotient of two."""


def price(demand: Demand, backlog_s: float, request_s: float, accuracy: float) -> float:
    """Accuracy per second of engine time that delaying a backlog of ``backlog_s`` seconds costs.
    ``request_s``: engine seconds that a request needs; ``accuracy``: what it is answered with."""
    limit_s = REACH * demand.budget_s - request_s
    if demand.rate_hz <= 0.0 or limit_s <= 0.0:
        return 0.0
    rho = demand.rate_hz * request_s
    cv2 = min(max(demand.cv2, MIN_CV2), MAX_CV2)
    theta = 2.0 * (1.0 - rho) / (rho * request_s * cv2)
    ruin = _ruin(theta, backlog_s, limit_s) if backlog_s < limit_s else 1.0
    # Nobody is lost who does not come.
    somebody = -math.expm1(-demand.rate_hz * min(backlog_s, limit_s))
    return CAUTION * min(ruin, somebody) * accuracy / request_s


def _ruin(theta: float, backlog_s: float, limit_s: float) -> float:
    """``(exp(theta * backlog_s) - 1) / (exp(theta * limit_s) - 1)`` for 0 <= backlog_s < limit_s,
    without overflow."""
    here, limit = theta * backlog_s, theta * limit_s
    if abs(limit) < 1e-6:
        return backlog_s / limit_s
    if limit > _STEEP:
        return math.exp(here - limit)
    if limit < -_STEEP:
        return -math.expm1(max(here, -_STEEP))
    return math.expm1(here) / math.expm1(limit)
