"""Admission of requests, by what an idle server needs and by the requests that are due before.

A request is refused whose budget an idle server could not meet, and one for which those inside
leave no time.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from serving.api.backlog import Backlog
from serving.api.problems import to_ms
from serving.api.request_context import RequestContext
from serving.core.catalog import Catalog
from serving.core.errors import (
    BudgetInfeasible,
    DeadlineExceeded,
    Overloaded,
    PayloadTooLarge,
    ShedReason,
)
from serving.core.latency import TAIL_QUANTILE
from serving.core.ports import Backend, Clock
from serving.core.promises import Promises
from serving.core.recent_values import RecentValues
from serving.core.request import Answered
from serving.imaging.decode_lane import Claim
from serving.imaging.decode_pool import DecodePool
from serving.imaging.probing import Header

T = TypeVar("T")

MIN_BUDGET_HEADROOM = 1.25
"""Factor on what an idle server seldom exceeds, in the budget that a refusal suggests.

The suggestion must still do a moment later, when predictions have moved.
"""

USUAL_HEADROOM = 1.5
"""Factor on what an idle server usually needs, from which on a budget was enough for it.

Who has that much and is late all the same was missed by the server, which is slower than it was.
"""

REJECT_WAIT_FACTOR = 0.7
"""Share of the expected wait that already leaves too little time.

The estimate is rough, and who is refused for it might have been served.
"""

MAX_READ_SHARE = 0.1
"""Most share that reading a body is taken to need of what follows it, on a busy server."""

OVERHEAD_WINDOW = 64
"""Number of latest requests that the overhead of one alone is taken from."""
OVERHEAD_WINDOW_S = 30.0
OVERHEAD_SEED_S = 0.002
"""Seconds of overhead that are reckoned with at least."""

_OUT_OF_TIME = frozenset(
    (ShedReason.REJECTED_EXPIRED, ShedReason.REJECTED_OVERLOAD, ShedReason.EVICTED_EXPIRED)
)
"""Reasons to shed a request for want of time."""


_ROUND_MS = ((200.0, 10.0), (1000.0, 50.0), (math.inf, 500.0))
"""Pairs of milliseconds, and what budgets below that are multiples of when they are shown."""


def typical_header(catalog: Catalog) -> Header:
    """Return the header of a JPEG of the model's input size."""
    return Header.typical("jpeg", catalog.input_width, catalog.input_height)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one server; durations in seconds."""

    default_budget_s: float
    min_budget_s: float
    max_budget_s: float
    network_reserve_s: float
    max_body_bytes: int
    max_bodies_bytes: int
    max_pixels: int
    max_requests: int
    max_parts: int
    max_part_pixels: int


class Admission:
    """One server's admission of requests. Not thread-safe: the event loop owns it."""

    def __init__(self, backend: Backend, pool: DecodePool, limits: Limits, clock: Clock) -> None:
        self._backend = backend
        self._pool = pool
        self._limits = limits
        self._clock = clock
        self._backlog = Backlog(clock)
        self.promises = Promises()
        self._overheads_s = RecentValues(OVERHEAD_WINDOW_S, OVERHEAD_WINDOW, [OVERHEAD_SEED_S])

    def reserve_s(self, header: Header) -> float:
        """Return the seconds that an idle server typically needs for an image beside the engine."""
        return self._pool.predicted_s(header) + self._limits.network_reserve_s

    def min_budget_s(self, header: Header, depth: int, model: int | None = None) -> float:
        """Return a budget, in seconds, that a server as it is now keeps while nobody else is here.

        It is for an image that is there at once, and exit ``depth`` of ``model``, or of whichever
        is there first. Other than what a request is admitted by, it has in it what the engine, and
        everything around it, seldom exceeds.
        """
        overhead_s = self._overheads_s.quantile(self._clock(), TAIL_QUANTILE)
        tail_s = self._backend.tail_s(depth, model)
        needed_s = self.reserve_s(header) + overhead_s + tail_s
        return max(self._limits.min_budget_s, needed_s * MIN_BUDGET_HEADROOM)

    def ample_budget_s(self) -> float:
        """Return a budget, in seconds, that is ample for each exit of each model, to be shown.

        It is twice the largest ``min_budget_s`` of an image of the model's input size, in round
        numbers, and no more than is served.
        """
        largest_s = max(
            self.min_budget_s(typical_header(catalog), entry.depth, model)
            for model, catalog in enumerate(self._backend.family.catalogs)
            for entry in catalog.exits
        )
        ample_ms = 2.0 * largest_s * 1e3
        step_ms = next(step for below, step in _ROUND_MS if ample_ms < below)
        return min(math.ceil(ample_ms / step_ms) * step_ms / 1e3, self._limits.max_budget_s)

    def promised_hz(self, depth: int, model: int | None = None) -> float:
        """Return the frames a second that can be promised to a stream at exit ``depth``.

        It is that of ``model``, or of whichever is there first, beside what has been promised.
        """
        return self.promises.rate_hz(self._frame_s(depth, model))

    def promise(self, rate_hz: float, depth: int, principal: str) -> AbstractContextManager[None]:
        """Promise a stream of ``principal`` a rate at exit ``depth``, while the context lasts.

        Raises Overloaded if that is more than can be promised.
        """
        return self.promises.made(rate_hz, self._frame_s(depth, None), principal)

    def _frame_s(self, depth: int, model: int | None) -> float:
        """Return the seconds of this server that a frame of the model's input size takes."""
        header = typical_header(self._backend.family.catalogs[model or 0])
        engine_s = self._backend.predicted_s(depth, model) / self._backend.num_instances
        return self._pool.predicted_s(header) + engine_s

    def check_budget(self, context: RequestContext) -> None:
        """Raise BudgetInfeasible for a budget below those that its sender may state."""
        least_s = context.principal.min_budget_s
        if context.budget.seconds < least_s:
            raise BudgetInfeasible(
                "The budget is below the smallest that this key may state; "
                f"allow {to_ms(least_s)} ms.",
                least_s,
            )

    def check_turn(self, context: RequestContext) -> None:
        """Raise Overloaded if the requests that are due before leave no time for any image.

        It is checked before the body is read, which would be in vain. What no image could make good
        on an idle server either is left to ``check_feasible``, which says what could.
        """
        engine_s = self._backend.predicted_s(context.options.min_depth)
        least_s = max(self._limits.min_budget_s, self._limits.network_reserve_s + engine_s)
        if context.budget.seconds < least_s:
            return
        wait_s = self._wait_s(context, least_s)
        if wait_s > 0.0 and self._clock() + wait_s + least_s > context.deadline_s:
            raise self._behind(context, wait_s)

    def check_feasible(
        self, header: Header, context: RequestContext, num_cut_pixels: int = 0
    ) -> float:
        """Return what an idle server would still need, in seconds.

        ``num_cut_pixels`` are those of the parts that are cut out of the image.

        Raises PayloadTooLarge for an image that takes more memory than there is, or more time to
        decode than any budget allows; BudgetInfeasible if the budget is too small for that;
        Overloaded if it would do for an idle server, which this one is not, but for the time that
        reading took.
        """
        self._pool.check_memory(header, num_cut_pixels)
        needed_s = self.needed_s(header, context.options.min_depth)
        max_budget_s = self._limits.max_budget_s
        if needed_s > max_budget_s and (decode_s := self._pool.predicted_s(header)) > max_budget_s:
            raise PayloadTooLarge(
                f"Decoding this image takes {to_ms(decode_s)} ms; no budget is larger than "
                f"{to_ms(max_budget_s)} ms."
            )
        read_s = context.read_s - context.arrival_s
        if context.budget.seconds >= needed_s + read_s:
            return needed_s
        if self._backlog.num_inside:
            # Reading takes a little always, which an idle server needs as well. What exceeds that
            # is a slow sender or a busy server, and no reason to call the budget too small for
            # ever.
            usual_s = min(read_s, needed_s * MAX_READ_SHARE)
            if context.budget.seconds >= needed_s + usual_s:
                raise Overloaded(
                    f"The request took {to_ms(read_s)} ms to arrive and be read, which left too "
                    "little time.",
                    ShedReason.REJECTED_EXPIRED,
                    self._drained_s(),
                )
            read_s = usual_s
        raise self._infeasible(
            f"This request took {to_ms(read_s)} ms to arrive and be read, and an idle server "
            f"usually needs {to_ms(needed_s)} ms to decode its image and answer at depth "
            f"{context.options.min_depth}",
            self._suggested_s(header, context.options.min_depth, read_s),
        )

    def needed_s(self, header: Header, depth: int) -> float:
        """Return the seconds that an idle server usually needs for an image that is there."""
        engine_s = self._backend.predicted_s(depth)
        return max(self._limits.min_budget_s, self.reserve_s(header) + engine_s)

    def claim(self, needed_s: float, context: RequestContext) -> Claim:
        """Return what a request's turn to be decoded depends on, which needs ``needed_s`` yet."""
        principal = context.principal
        return Claim(
            context.deadline_s,
            context.deadline_s - needed_s,
            principal.name,
            principal.share,
            context.stream,
        )

    def check_room(self, header: Header, claim: Claim, context: RequestContext) -> None:
        """Raise Overloaded if the requests that are due before this one leave too little time.

        That is so if it would have to start after its claim's time, be it because of the images
        that are decoded before or because of the requests that are answered before. It is checked
        before the image is decoded: decoding takes the time from those that are served.
        """
        needed_s = context.deadline_s - claim.latest_start_s
        wait_s = self._wait_s(context, needed_s)
        decode_wait_s = self._pool.wait_s(header, claim) * REJECT_WAIT_FACTOR
        if context.read_s + decode_wait_s > claim.latest_start_s and decode_wait_s > wait_s:
            raise Overloaded(
                "The images that are decoded before leave no time for this one.",
                ShedReason.REJECTED_OVERLOAD,
                decode_wait_s,
            )
        if context.read_s + wait_s > claim.latest_start_s and wait_s > 0.0:
            raise self._behind(context, wait_s)

    def _wait_s(self, context: RequestContext, needed_s: float) -> float:
        """Return the seconds until a request that needs ``needed_s`` has its turn, at least."""
        wait_s = self._backlog.wait_s(context.deadline_s, context.principal, needed_s, context.turn)
        return wait_s * REJECT_WAIT_FACTOR

    def _behind(self, context: RequestContext, wait_s: float) -> Overloaded:
        """Return the error of a request that would have its turn too late, after ``wait_s``."""
        num_ahead = self._backlog.num_ahead(context.deadline_s)
        return Overloaded(
            f"The {num_ahead} requests that are due before leave no time for this one.",
            ShedReason.REJECTED_OVERLOAD,
            wait_s,
        )

    def not_read(self) -> Overloaded | DeadlineExceeded:
        """Return the error of a request whose deadline came while it waited to be read."""
        detail = "The deadline came while the request waited to be read."
        if not self._backlog.num_inside:
            return DeadlineExceeded(detail)
        return Overloaded(detail, ShedReason.REJECTED_EXPIRED, self._drained_s())

    async def inside(self, context: RequestContext, header: Header, work: Awaitable[T]) -> T:
        """Return what ``work`` does, which tells ``answered`` of each answer that comes.

        Until the first, others count this request as ahead of them; of a dear image, not before
        ``decoded`` is told that there are pixels. Raises what ``work`` does; but who had the server
        for itself is not told that the server has too much to do.
        """
        is_queued = not self._pool.is_dear(header)
        with self._backlog.joined(
            context.deadline_s, context.principal, context.turn, is_queued=is_queued
        ) as place:
            context.place = place
            try:
                result = await work
            except (Overloaded, DeadlineExceeded) as error:
                if not place.was_alone:
                    if isinstance(error, Overloaded) and not error.retry_after_s:
                        error.retry_after_s = self._drained_s()
                    raise
                if isinstance(error, Overloaded) and error.reason not in _OUT_OF_TIME:
                    raise
                raise self._missed_alone(error, header, context) from error
            if place.was_alone:
                self._observe_overhead(header, context)
        return result

    def decoded(self, context: RequestContext) -> None:
        """Note that a request that is inside waits for nothing but the engine."""
        assert context.place is not None, "it is not inside"
        context.place.queue()

    def answered(self, answered: Answered, context: RequestContext) -> None:
        """Note an answer to a request that is inside, better than those before."""
        assert context.place is not None, "it is not inside"
        context.answered = answered
        context.place.answered(self._shallowest_share(answered, context))

    def _missed_alone(
        self, error: Overloaded | DeadlineExceeded, header: Header, context: RequestContext
    ) -> BudgetInfeasible | DeadlineExceeded:
        """Return the error of a request that had no time left though nobody else was here."""
        depth, read_s = context.options.min_depth, context.read_s - context.arrival_s
        suggested_s = self._suggested_s(header, depth, read_s)
        enough_s = min(suggested_s, self.needed_s(header, depth) * USUAL_HEADROOM + read_s)
        if context.budget.seconds < enough_s:
            return self._infeasible(error.detail.rstrip("."), suggested_s)
        return DeadlineExceeded(error.detail)

    def _suggested_s(self, header: Header, depth: int, read_s: float) -> float:
        """Return the budget to suggest to a request that took ``read_s`` to arrive, in seconds."""
        return math.ceil((self.min_budget_s(header, depth) + read_s) * 1e3) / 1e3

    @staticmethod
    def _infeasible(why: str, suggested_s: float) -> BudgetInfeasible:
        """Return the refusal of a budget in whose place ``suggested_s`` seconds seldom fail."""
        return BudgetInfeasible(
            f"{why}; allow {to_ms(suggested_s)} ms, which is seldom exceeded.", suggested_s
        )

    def _observe_overhead(self, header: Header, context: RequestContext) -> None:
        """Learn what a request that was here alone took besides decoding and the engine."""
        assert context.answered is not None, "it has ended without an answer and without an error"
        now_s, answered = self._clock(), context.answered
        spent_s = now_s - context.read_s - answered.engine_s - context.in_hand_s(answered, now_s)
        self._overheads_s.add(now_s, max(0.0, spent_s - self._pool.predicted_s(header)))

    def _drained_s(self) -> float:
        """Return the seconds until those inside have left."""
        return max(
            self._backlog.wait_s(math.inf),
            self._backlog.num_ahead(math.inf)
            * self._backend.predicted_s(1)
            / self._backend.num_instances,
        )

    def _shallowest_share(self, answered: Answered, context: RequestContext) -> float:
        """Return what share of the answer's time the shallowest allowed exit would have taken.

        A request that is answered at depth because there is time for it stands in nobody's way.
        """
        shallowest_s = self._backend.predicted_s(context.options.min_depth)
        taken_s = self._backend.predicted_s(answered.depth, answered.model)
        return shallowest_s / max(shallowest_s, taken_s)
