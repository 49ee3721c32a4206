"""Admission of requests, by what an idle server needs and by the requests that are due before.

A request is refused whose budget an idle server could not meet, and one for which those inside
leave no time.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from serving.api.backlog import Backlog
from serving.api.problems import to_ms
from serving.api.request_context import RequestContext
from serving.core.errors import BudgetInfeasible, Overloaded, ShedReason
from serving.core.ports import Backend, Clock
from serving.imaging.decoding import DecodePool, Header

T = TypeVar("T")

MIN_BUDGET_HEADROOM = 1.5
"""Factor on what an idle server needs, in the budget that a refusal suggests.

The suggestion must still do a moment later, when predictions have moved.
"""

REJECT_WAIT_FACTOR = 0.7
"""Share of the expected wait that already leaves too little time.

The estimate is rough, and who is refused for it might have been served.
"""

MAX_READ_SHARE = 0.1
"""Most share that reading a body is taken to need of what follows it, on an idle server."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one server; durations in seconds."""

    default_budget_s: float
    min_budget_s: float
    max_budget_s: float
    network_reserve_s: float
    max_body_bytes: int
    max_pixels: int
    max_requests: int


class Admission:
    """One server's admission of requests. Not thread-safe: the event loop owns it."""

    def __init__(self, backend: Backend, pool: DecodePool, limits: Limits, clock: Clock) -> None:
        self._backend = backend
        self._pool = pool
        self._limits = limits
        self._backlog = Backlog(clock)

    def min_budget_s(self, header: Header, engine_s: float) -> float:
        """Return the seconds that an idle server needs for an answer, once the body is there.

        ``engine_s`` are those of them that the answer takes the engine.
        """
        return max(
            self._limits.min_budget_s,
            self._pool.predicted_s(header) + engine_s + self._limits.network_reserve_s,
        )

    def check_feasible(self, header: Header, context: RequestContext) -> float:
        """Return what an idle server would still need, in seconds.

        Raises BudgetInfeasible if the budget is too small for that, Overloaded if it would do for
        an idle server but for the time that reading took.
        """
        needed_s = self.min_budget_s(header, self._backend.predicted_s(context.options.min_depth))
        elapsed_s = context.read_s - context.arrival_s
        if context.budget.seconds >= needed_s + elapsed_s:
            return needed_s
        # Reading takes a little always, which an idle server needs as well. What exceeds that is a
        # slow sender or a busy server, and no reason to call the budget too small for ever.
        needed_s += min(elapsed_s, needed_s * MAX_READ_SHARE)
        if context.budget.seconds >= needed_s:
            raise Overloaded(
                f"The request took {to_ms(elapsed_s)} ms to arrive and be read, which left too "
                "little time.",
                ShedReason.REJECTED_EXPIRED,
            )
        min_budget_s = math.ceil(needed_s * MIN_BUDGET_HEADROOM * 1e3) / 1e3
        raise BudgetInfeasible(
            f"An idle server needs {to_ms(needed_s)} ms to read this image and answer at depth "
            f"{context.options.min_depth}; allow {to_ms(min_budget_s)} ms.",
            min_budget_s,
        )

    def check_room(self, needed_s: float, context: RequestContext) -> None:
        """Raise Overloaded if the requests that are due before this one leave too little time.

        That is so if it needs ``needed_s`` once they have left, and would then be late. It is
        checked before the image is decoded: decoding takes the time from those that are served.
        """
        wait_s = self._backlog.wait_s(context.deadline_s) * REJECT_WAIT_FACTOR
        if context.read_s + wait_s + needed_s > context.deadline_s and wait_s > 0.0:
            num_ahead = self._backlog.num_ahead(context.deadline_s)
            raise Overloaded(
                f"The {num_ahead} requests that are due before leave no time for this one.",
                ShedReason.REJECTED_OVERLOAD,
                wait_s,
            )

    async def inside(self, context: RequestContext, work: Awaitable[T]) -> T:
        """Return what ``work`` does, which sets ``context.answered``.

        Meanwhile others count this request as ahead of them.
        """
        with self._backlog.joined(context.deadline_s):
            result = await work
            self._backlog.answered(self._shallowest_share(context))
        return result

    def _shallowest_share(self, context: RequestContext) -> float:
        """Return what share of the answer's time the shallowest allowed exit would have taken.

        A request that is answered at depth because there is time for it stands in nobody's way.
        """
        assert context.answered is not None, "it has ended without an answer and without an error"
        shallowest_s = self._backend.predicted_s(context.options.min_depth)
        taken_s = self._backend.predicted_s(context.answered.depth, context.answered.model)
        return shallowest_s / max(shallowest_s, taken_s)
