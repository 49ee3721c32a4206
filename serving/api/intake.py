"""Intake of detection requests: each is read, checked and counted here, before it is decoded.

    budget -> admission -> head -> turn -> body -> message -> feasibility

Whichever way a request ends afterwards, it is counted once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starlette.requests import Request as HttpRequest

from serving.api.admission import Admission, Limits
from serving.api.body import BodyRoom
from serving.api.budget import DEADLINE_PARAMETER, Budget, parse_budget
from serving.api.connection import departure_of, while_connected
from serving.api.frames import FrameTurns
from serving.api.lifecycle import Lifecycle
from serving.api.options import parse_options
from serving.api.problems import to_ms
from serving.api.protocol_adapter import ParsedRequest, ProtocolAdapter
from serving.api.request_context import RequestContext
from serving.api.request_timer import RequestTimer
from serving.api.tracking import Tracking
from serving.core.errors import BackendError, BodyTimeout, DeadlineExceeded, Overloaded
from serving.core.fair_shares import Places
from serving.core.ports import Backend, Clock
from serving.core.principals import Principal
from serving.observability.metrics import Metrics
from serving.observability.processor_time import ADMISSION
from serving.observability.request_record import AnsweredFacts, RequestRecord

if TYPE_CHECKING:
    from serving.observability.tracing import Tracing

logger = logging.getLogger(__name__)

Charge = Callable[[Principal, int], None]
"""Function that counts further requests of a principal."""
CountAnswers = Callable[[], int]
"""Function that returns how many answers a streaming reply has sent."""


class Intake:
    """One server's intake of requests. Not thread-safe: the event loop owns it."""

    def __init__(
        self,
        backend: Backend,
        admission: Admission,
        *,
        lifecycle: Lifecycle,
        metrics: Metrics,
        limits: Limits,
        clock: Clock,
        turns: FrameTurns,
        tracking: Tracking,
        bodies: BodyRoom,
        charge: Charge,
        tracing: Tracing | None = None,
    ) -> None:
        self._backend = backend
        self._admission = admission
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._limits = limits
        self._clock = clock
        self._tracing = tracing
        self.charge = charge
        """What counts the further requests that come in one."""
        self._defaults = parse_options((), backend.family)
        self._turns = turns
        self._tracking = tracking
        self._bodies = bodies
        self.places = Places(limits.max_requests)

    def context(self, http: HttpRequest, adapter: ProtocolAdapter) -> RequestContext:
        """Return the context of a request of which only the head is there."""
        state, limits = http.scope["state"], self._limits
        return RequestContext(
            state["request_id"],
            state["arrival_s"],
            Budget(adapter.default_budget_s, limits.max_budget_s),
            self._defaults,
            self._bodies.place(),
            RequestTimer(self._clock),
            state["principal"],
            trace=None if self._tracing is None else self._tracing.start(http),
        )

    @contextmanager
    def counted(
        self, context: RequestContext, num_answers: CountAnswers | None = None
    ) -> Iterator[None]:
        """Count what is done in the context as one request, however it ends.

        It ends with ``context.reply`` or with an error, unless it was split: then whoever split it
        counts its parts. ``num_answers`` is asked of a reply that streams.
        """
        ending: AnsweredFacts | BaseException | None = None
        try:
            with context.body, context.exits:
                yield
            ending = context.reply
        except BaseException as error:
            ending = error
            raise
        finally:
            context.timer.stop()
            if not context.is_split:
                assert ending is not None
                self.end(context, ending, None if num_answers is None else num_answers())

    def end(
        self,
        context: RequestContext,
        ending: AnsweredFacts | BaseException,
        num_answers: int | None = None,
    ) -> None:
        """Count one request, which has ended so, and give its place back."""
        if context.has_place:
            context.has_place = False
            self.places.leave(context.principal)
        record = RequestRecord(
            self._clock() - context.arrival_s,
            context.budget.seconds,
            ending,
            num_answers,
            context.principal.label,
        )
        self._metrics.ended_request(record)
        _log(record, context.request_id)
        if context.trace is not None:
            context.trace.end(record, context.read_s, context.decoded_s)

    async def read(
        self, http: HttpRequest, adapter: ProtocolAdapter, context: RequestContext
    ) -> ParsedRequest:
        """Return all that is asked, once it is known to be feasible. Raises ServingError."""
        with self._metrics.processor_time.spending(ADMISSION):
            self._parse_head(http, adapter, context)
        message = await self._read(http, adapter, context)
        self._identify(http, message.key, context)
        context.options = message.options
        if message.timeout_s is not None:
            _set_budget(http, context, context.budget.wished(message.timeout_s))
            self._admission.check_budget(context)
        context.read_s = self._clock()
        with self._metrics.processor_time.spending(ADMISSION):
            cut, header = context.options.cut, message.header
            num_pixels = 0 if cut is None else cut.num_pixels(header.width, header.height)
            needed_s = self._admission.check_feasible(header, context, num_pixels)
            self._metrics.demanded()
            context.claim = self._admission.claim(needed_s, context)
            self._admission.check_room(header, context.claim, context)
        if context.frame is not None:  # now it is worth the place of an older one
            self._turns.admit(context.frame)
        return message

    def _parse_head(
        self, http: HttpRequest, adapter: ProtocolAdapter, context: RequestContext
    ) -> None:
        """Read what is asked before the body, unless there is no room for another request."""
        limits = self._limits
        _set_budget(
            http,
            context,
            parse_budget(
                http.headers,
                default_s=adapter.default_budget_s,
                max_s=limits.max_budget_s,
                deadlines_ms=http.query_params.getlist(DEADLINE_PARAMETER),
            ),
        )
        self._lifecycle.admit()
        self._admission.check_budget(context)
        with self._demanded():
            self.places.check(context.principal)
        context.options = adapter.read_head(http)
        if (frame := context.options.frame) is not None:
            key = (context.principal.name, frame.stream)
            context.frame = context.exits.enter_context(self._turns.entered(key, frame.number))
            if context.options.track:
                context.track = self._tracking.of(context.frame, context.arrival_s)
        if not adapter.may_state_budget(http.headers) and not _has_key_in_body(http):
            with self._demanded():
                self._admission.check_turn(context)

    def _identify(self, http: HttpRequest, key: str | None, context: RequestContext) -> None:
        """Find out whose request it is, where its head did not say.

        Raises Unauthenticated, TooManyRequests, BudgetInfeasible or Overloaded.
        """
        if not _has_key_in_body(http):
            return
        principal = http.scope["state"]["admit_by_key"](key)
        self.places.leave(context.principal)
        context.has_place = False
        context.principal = principal
        self._admission.check_budget(context)
        with self._demanded():
            self.places.take(principal)
        context.has_place = True

    @contextmanager
    def _demanded(self) -> Iterator[None]:
        """Count a request that is refused for want of a place as demand.

        Of those that are not read most could have been answered.
        """
        try:
            yield
        except Overloaded:
            self._metrics.demanded()
            raise

    async def _read(
        self, http: HttpRequest, adapter: ProtocolAdapter, context: RequestContext
    ) -> ParsedRequest:
        # A budget that no server could meet is waited for as long as the smallest that one could,
        # so that it is refused with that number rather than for being slow.
        engine_s = self._backend.predicted_s(context.options.min_depth)
        patience_s = max(context.budget.seconds, engine_s + self._limits.network_reserve_s)
        body = None
        try:
            with context.timer.by(context.arrival_s + patience_s):
                body = await context.body.read(http.receive, self._limits.max_body_bytes)
                # Only now: whoever takes its time to send keeps nobody else waiting.
                with self._demanded():
                    self.places.take(context.principal)
                context.has_place = True
                reading = adapter.read_body(http.headers, body, context.options)
                return await while_connected(departure_of(http), reading)
        except TimeoutError as error:
            if body is None:
                raise BodyTimeout(
                    f"The body had not arrived after {to_ms(patience_s)} ms."
                ) from error
            raise self._admission.not_read() from error


def _has_key_in_body(http: HttpRequest) -> bool:
    """Return whether the body says whose request it is."""
    return "admit_by_key" in http.scope["state"]


def _set_budget(http: HttpRequest, context: RequestContext, budget: Budget) -> None:
    """Let ``budget`` apply from now on, and state it in problems."""
    context.budget = budget
    http.scope["state"]["budget_ms"] = to_ms(budget.seconds)


def _log(record: RequestRecord, request_id: str) -> None:
    level = (
        logging.WARNING
        if isinstance(record.ending, (DeadlineExceeded, BackendError))
        else logging.DEBUG
    )
    logger.log(
        level,
        "request %s: %s%s after %.1f ms of %.1f ms%s",
        request_id,
        record.outcome,
        f" at {record.ending.operating_point}" if isinstance(record.ending, AnsweredFacts) else "",
        record.duration_s * 1e3,
        record.budget_s * 1e3,
        "" if isinstance(record.ending, AnsweredFacts) else f" ({record.ending})",
    )
