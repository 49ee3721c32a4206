"""One detection request, from its head to its reply, whichever protocol it came by.

    budget -> admission -> head -> body -> message -> feasibility -> pixels -> boxes -> reply
                                                                         ^        |
                                                                         '-streaming'

Each arrow can end it with an error of ``core.errors``; whichever way it ends, it is counted once.
What a protocol adds is how the head and the body are read and how the reply is written. A streaming
reply is written exit by exit, and ends as its last event says.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Send

from serving.api.admission import Admission, Limits
from serving.api.body import BodyRoom
from serving.api.budget import DEADLINE_PARAMETER, Budget, parse_budget
from serving.api.connection import while_connected
from serving.api.event_stream import DONE, ERROR, EventStream
from serving.api.lifecycle import Lifecycle
from serving.api.options import parse_options
from serving.api.problems import details_of, to_ms
from serving.api.protocol_adapter import ParsedRequest, ProtocolAdapter
from serving.api.request_context import RequestContext, write_reply
from serving.core.errors import (
    BackendError,
    BodyTimeout,
    DeadlineExceeded,
    Overloaded,
    RequestCancelled,
    ServingError,
    ShedReason,
)
from serving.core.fair_shares import Places
from serving.core.letterbox import Letterbox
from serving.core.ports import Backend, Clock, Image
from serving.core.request import Answered, Request
from serving.imaging.decode_pool import DecodePool
from serving.observability.metrics import AnsweredFacts, Metrics, RequestRecord
from serving.observability.processor_time import ADMISSION, REPLY

if TYPE_CHECKING:
    from serving.observability.tracing import Tracing

logger = logging.getLogger(__name__)

STREAM_GRACE_S = 1.0
"""Seconds after its deadline that a client may take to read what is left of a streaming reply.

Then the server hangs up.
"""

TIMER_RESOLUTION_S = 1e-3
"""Seconds by which a timer of the event loop may be early."""

# Why a streaming reply went no deeper, as its last event says.
AT_MAX_DEPTH = "max-depth"
AT_BEST = "best"
CONCLUDED = "concluded"
AT_DEADLINE = "deadline"
# How else an answer in hand may end.
BETTER = "better"


class DetectionService:
    """One server's service of detection requests.

    All of it runs on the event loop except decoding and the backend.
    """

    def __init__(
        self,
        backend: Backend,
        pool: DecodePool,
        *,
        lifecycle: Lifecycle,
        metrics: Metrics,
        limits: Limits,
        clock: Clock,
        tracing: Tracing | None = None,
    ) -> None:
        self._backend = backend
        self._pool = pool
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._limits = limits
        self._clock = clock
        self._tracing = tracing
        self._ids = itertools.count()
        self._places = Places(limits.max_requests)
        self._bodies = BodyRoom(limits.max_bodies_bytes)
        self.admission = Admission(backend, pool, limits, clock)

    async def serve(self, http: HttpRequest, adapter: ProtocolAdapter) -> Response:
        """Return the reply to one request. Raises ServingError."""
        context = self._context(http)
        with self._counted(context):
            message = await self._parse_and_admit(http, adapter, context)
            inference = self.admission.inside(
                context, message.header, self._infer(message, context)
            )
            found = await while_connected(http.receive, inference)
            with self._metrics.processor_time.spending(REPLY):
                response, context.reply = self._reply(message, context, *found)
            return response

    async def stream(
        self, http: HttpRequest, adapter: ProtocolAdapter, media_type: str, send: Send
    ) -> None:
        """Send the reply to one request as a stream of ``media_type``.

        Raises ServingError for as long as nothing has been sent.
        """
        context, stream = self._context(http), EventStream(media_type, send)
        try:
            with self._counted(context, stream):
                message = await self._parse_and_admit(http, adapter, context)
                streaming = self.admission.inside(
                    context, message.header, self._stream(message, context, stream)
                )
                context.reply, reason = reply, _ = await while_connected(http.receive, streaming)
            event, details = DONE, self._done(context, reply, reason, stream)
        except Exception as error:
            if not stream.started:
                raise
            if isinstance(error, RequestCancelled):
                return  # there is nobody to be told
            if not isinstance(error, ServingError):
                logger.error("request %s failed", context.request_id, exc_info=error)
            event, details = ERROR, details_of(http, error)
        try:
            async with asyncio.timeout(context.deadline_s + STREAM_GRACE_S - self._clock()):
                await stream.end(event, details)
        except TimeoutError:
            logger.info("request %s: hung up, since nobody reads its answers", context.request_id)

    def _context(self, http: HttpRequest) -> RequestContext:
        state = http.scope["state"]
        limits = self._limits
        return RequestContext(
            state["request_id"],
            state["arrival_s"],
            Budget(limits.default_budget_s, limits.max_budget_s),
            parse_options((), self._backend.family),
            self._bodies.place(),
            state["principal"],
            trace=None if self._tracing is None else self._tracing.start(http),
        )

    @contextmanager
    def _counted(
        self, context: RequestContext, stream: EventStream | None = None
    ) -> Iterator[None]:
        """Count what is done in the context as one request, however it ends.

        It ends with ``context.reply`` or with an error.
        """
        ending: AnsweredFacts | BaseException | None = None
        try:
            with context.body:
                yield
            ending = context.reply
        except BaseException as error:
            ending = error
            raise
        finally:
            if context.has_place:
                self._places.leave(context.principal)
            assert ending is not None
            num_answers = None if stream is None else stream.num_answers
            duration_s = self._clock() - context.arrival_s
            record = RequestRecord(
                duration_s, context.budget.seconds, ending, num_answers, context.principal.label
            )
            self._metrics.ended_request(record)
            _log(record, context.request_id)
            if context.trace is not None:
                context.trace.end(record, context.read_s, context.decoded_s)

    async def _parse_and_admit(
        self, http: HttpRequest, adapter: ProtocolAdapter, context: RequestContext
    ) -> ParsedRequest:
        """Return all that is asked, once it is known to be feasible."""
        with self._metrics.processor_time.spending(ADMISSION):
            self._parse_head(http, adapter, context)
        message = await self._read(http, adapter, context)
        context.options = message.options
        if message.timeout_s is not None:
            _set_budget(http, context, context.budget.wished(message.timeout_s))
            self.admission.check_budget(context)
        context.read_s = self._clock()
        with self._metrics.processor_time.spending(ADMISSION):
            needed_s = self.admission.check_feasible(message.header, context)
            self._metrics.demanded()
            context.claim = self.admission.claim(needed_s, context)
            self.admission.check_room(message.header, context.claim, context)
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
                default_s=limits.default_budget_s,
                max_s=limits.max_budget_s,
                deadlines_ms=http.query_params.getlist(DEADLINE_PARAMETER),
            ),
        )
        self._lifecycle.admit()
        self.admission.check_budget(context)
        with self._demanded():
            self._places.check(context.principal)
        context.options = adapter.read_head(http)

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
            async with asyncio.timeout(context.arrival_s + patience_s - self._clock()):
                body = await context.body.read(http.receive, self._limits.max_body_bytes)
                # Only now: whoever takes its time to send keeps nobody else waiting.
                with self._demanded():
                    self._places.take(context.principal)
                context.has_place = True
                return await adapter.read_body(http.headers, body, context.options)
        except TimeoutError as error:
            if body is None:
                raise BodyTimeout(
                    f"The body had not arrived after {to_ms(patience_s)} ms."
                ) from error
            raise self.admission.not_read() from error

    async def _decode(
        self, message: ParsedRequest, context: RequestContext
    ) -> tuple[Image, Letterbox]:
        """Return the pixels of a request's image.

        Raises Overloaded, PayloadTooLarge or InvalidImage.
        """
        try:
            async with asyncio.timeout(context.deadline_s - self._clock()):
                decoded = await self._pool.decode(message.data, message.header, context.claim)
        except TimeoutError as error:
            raise Overloaded(
                "The deadline came while the image waited to be decoded.",
                ShedReason.REJECTED_EXPIRED,
            ) from error
        context.decoded_s = self._clock()
        self.admission.decoded(context)
        return decoded

    def _request(self, context: RequestContext, streaming: bool) -> Request:
        number = next(self._ids)
        if context.trace is not None:
            context.trace.follow(number)
        return Request(
            id=number,
            arrival_s=context.arrival_s,
            deadline_s=context.deadline_s - self._limits.network_reserve_s,
            min_depth=context.options.min_depth,
            max_depth=context.options.max_depth,
            streaming=streaming,
            principal=context.principal.name,
            share=context.principal.share,
        )

    async def _infer(
        self, message: ParsedRequest, context: RequestContext
    ) -> tuple[Letterbox, Answered]:
        """Decode the image and find its boxes; return where it lies in the input, and the answer.

        Raises Overloaded, DeadlineExceeded, InvalidImage or BackendError.
        """
        image, placement = await self._decode(message, context)
        try:
            async with asyncio.timeout(context.deadline_s - context.decoded_s):
                answers = self._backend.stream(image, self._request(context, streaming=False))
                async with aclosing(answers):
                    async for answered in answers:
                        self.admission.answered(answered, context)
        except TimeoutError as error:
            if context.answered is None:
                raise _late() from error
        if context.answered is None:
            raise _no_answer()
        return placement, context.answered

    async def _stream(
        self, message: ParsedRequest, context: RequestContext, stream: EventStream
    ) -> tuple[AnsweredFacts, str]:
        """Decode the image and send the boxes of each exit as they come.

        Returns the facts of the deepest answer, and why there is none deeper. Raises as ``_infer``,
        and RequestCancelled for a client that does not read.
        """
        image, placement = await self._decode(message, context)
        request = self._request(context, streaming=True)
        reply: AnsweredFacts | None = None
        try:
            async with (
                asyncio.timeout(context.deadline_s - context.decoded_s),
                aclosing(self._backend.stream(image, request)) as answers,
            ):
                async for answered in answers:
                    self.admission.answered(answered, context)
                    with self._metrics.processor_time.spending(REPLY):
                        response, sent = self._reply(message, context, placement, answered)
                    await stream.answer(response)
                    reply = sent
        except DeadlineExceeded:
            if reply is None:
                raise
            return reply, AT_DEADLINE
        except TimeoutError as error:
            if reply is not None:
                return reply, AT_DEADLINE
            if stream.started:
                raise RequestCancelled("The client did not read its first answer.") from error
            raise _late() from error
        if reply is None:
            raise _no_answer()
        waited = self._waited(answered, context)
        if reply.in_hand == CONCLUDED and waited:
            reply = replace(reply, in_hand=AT_DEADLINE)
        if reply.degraded and waited:
            return reply, AT_DEADLINE
        family = self._backend.family
        is_only = len(family.catalogs) == 1
        is_deepest = reply.depth == family.deepest(reply.model, context.options.max_depth)
        if is_deepest and (is_only or not reply.degraded):
            return reply, AT_MAX_DEPTH
        return reply, CONCLUDED if reply.degraded else AT_BEST

    def _reply(
        self,
        message: ParsedRequest,
        context: RequestContext,
        placement: Letterbox,
        answered: Answered,
    ) -> tuple[Response, AnsweredFacts]:
        """Return the response to an answer, and its facts for the record.

        Raises DeadlineExceeded.
        """
        family, begun_s = self._backend.family, self._clock()
        in_hand = self._in_hand(answered, context)
        response = write_reply(context, message.write, placement, answered, family, begun_s)
        # Asked last: a reply that took too long to write is late as well.
        now_s = self._clock()
        if now_s > context.deadline_s:
            late_ms = to_ms(now_s - context.deadline_s)
            raise DeadlineExceeded(f"The boxes were ready {late_ms} ms after the deadline.")
        return response, AnsweredFacts(
            operating_point=family.answer_label(answered.points),
            depth=answered.depth,
            degraded=context.degraded(family, answered.points),
            decode_s=context.decoded_s - context.read_s,
            queue_s=context.queue_s(answered),
            engine_s=answered.engine_s,
            write_s=max(0.0, now_s - (begun_s if answered.held else answered.finished_s)),
            model=answered.model,
            earlier=answered.earlier,
            in_hand=in_hand,
            depth_ratio=family.ladder.height(
                (answered.model, answered.depth), context.options.max_depth
            ),
        )

    def _in_hand(self, answered: Answered, context: RequestContext) -> str | None:
        """Return what became of the answer that the request had in hand, if ``answered`` is sent.

        That is one of ``IN_HAND_ENDS``, or None.
        """
        if answered.held:
            return AT_DEADLINE if self._waited(answered, context) else CONCLUDED
        return BETTER if answered.upgrades else None

    def _waited(self, answered: Answered, context: RequestContext) -> bool:
        """Return whether the deadline has come, of the engine, after that answer."""
        due_s = context.deadline_s - self._limits.network_reserve_s - TIMER_RESOLUTION_S
        return answered.finished_s < due_s <= self._clock()

    def _done(
        self, context: RequestContext, reply: AnsweredFacts, reason: str, stream: EventStream
    ) -> dict[str, Any]:
        """Return the last event of a stream; see ``schemas.Done``."""
        family, point = self._backend.family, (reply.model, reply.depth)
        points = (*reply.earlier, point)
        return {
            "request_id": context.request_id,
            "model": family.names[reply.model],
            "reason": reason,
            "num_answers": stream.num_answers,
            **context.facts(family, points, self._clock()),
        }


def _no_answer() -> BackendError:
    return BackendError("The engine ended the request without an answer.")


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("The engine had no boxes by the deadline.")


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
