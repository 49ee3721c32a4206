"""One detection request, from its head to its reply, whichever protocol it came by.

    intake -> inference -> reply
                  ^          |
                  '-streaming'

Each can end it with an error of ``core.errors``; whichever way it ends, it is counted once.
What a protocol adds is how the head and the body are read and how the reply is written. A streaming
reply is written exit by exit, and ends as its last event says.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Send

from serving.api.admission import Admission, Limits
from serving.api.connection import departure_of, while_connected
from serving.api.event_stream import DONE, ERROR, EventStream
from serving.api.frames import FrameTurns
from serving.api.inference import Inference, no_answer, no_boxes
from serving.api.intake import Intake
from serving.api.parts import PartsService
from serving.api.problems import details_of
from serving.api.protocol_adapter import ParsedRequest, ProtocolAdapter
from serving.api.replies import AT_DEADLINE, Replies
from serving.api.reply_times import ReplyTimes
from serving.api.request_context import RequestContext
from serving.core.errors import DeadlineExceeded, InvalidRequest, RequestCancelled, ServingError
from serving.core.ports import Backend, Clock
from serving.imaging.decode_pool import DecodePool
from serving.observability.metrics import Metrics
from serving.observability.processor_time import REPLY
from serving.observability.request_record import AnsweredFacts

logger = logging.getLogger(__name__)

STREAM_GRACE_S = 1.0
"""Seconds after its deadline that a client may take to read what is left of a streaming reply.

Then the server hangs up.
"""


class DetectionService:
    """One server's service of detection requests.

    All of it runs on the event loop except decoding and the backend.
    """

    def __init__(
        self,
        backend: Backend,
        pool: DecodePool,
        admission: Admission,
        intake: Intake,
        *,
        metrics: Metrics,
        limits: Limits,
        clock: Clock,
        turns: FrameTurns,
    ) -> None:
        self._backend = backend
        self._metrics = metrics
        self._clock = clock
        self.admission = admission
        self._intake = intake
        times = ReplyTimes(clock)
        self._inference = Inference(
            backend, pool, self.admission, turns, limits, clock, times.reserve_s
        )
        self._replies = Replies(backend.family, clock, times)
        self._parts = PartsService(
            backend.family,
            pool,
            admission=admission,
            intake=intake,
            inference=self._inference,
            replies=self._replies,
            metrics=metrics,
            clock=clock,
        )

    async def serve(self, http: HttpRequest, adapter: ProtocolAdapter) -> Response:
        """Return the reply to one request. Raises ServingError."""
        context = self._intake.context(http, adapter)
        with self._intake.counted(context):
            message = await self._intake.read(http, adapter, context)
            if message.parts is not None:
                return await self._parts.serve(http, message, message.parts, context)
            inference = self.admission.inside(
                context, message.header, self._inference.infer(message, context)
            )
            found = await while_connected(departure_of(http), inference)
            with self._metrics.processor_time.spending(REPLY):
                try:
                    response, context.reply = self._replies.write(message, context, *found)
                finally:
                    self._replies.learn(found[1])
            return response

    async def stream(
        self, http: HttpRequest, adapter: ProtocolAdapter, media_type: str, send: Send
    ) -> None:
        """Send the reply to one request as a stream of ``media_type``.

        Raises ServingError for as long as nothing has been sent.
        """
        context, stream = self._intake.context(http, adapter), EventStream(media_type, send)
        try:
            with self._intake.counted(context, lambda: stream.num_answers):
                message = await self._intake.read(http, adapter, context)
                if message.parts is not None:
                    raise InvalidRequest(
                        "A request with several parts has one reply, not one exit by exit: ask for "
                        "application/json."
                    )
                if message.options.track:
                    raise InvalidRequest(
                        "The boxes of a frame are tracked once, not exit by exit: ask for "
                        "application/json."
                    )
                streaming = self.admission.inside(
                    context, message.header, self._stream(message, context, stream)
                )
                context.reply, reason = reply, _ = await while_connected(
                    departure_of(http), streaming
                )
            event, details = (
                DONE,
                self._replies.done(context, reply, reason, stream.num_answers),
            )
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

    async def _stream(
        self, message: ParsedRequest, context: RequestContext, stream: EventStream
    ) -> tuple[AnsweredFacts, str]:
        """Decode the image and send the boxes of each exit as they come.

        Returns the facts of the deepest answer, and why there is none deeper. Raises as
        ``Inference.infer``, and RequestCancelled for a client that does not read.
        """
        image, placement = await self._inference.decode(message, context)
        request = self._inference.request(context, streaming=True)
        reply: AnsweredFacts | None = None
        try:
            with context.timer.by(context.deadline_s):
                async with aclosing(self._backend.stream(image, request)) as answers:
                    async for answered in answers:
                        self._inference.answered(answered, context)
                        with self._metrics.processor_time.spending(REPLY):
                            written = self._replies.write(message, context, placement, answered)
                        response, sent = written
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
            raise no_boxes() from error
        if reply is None:
            raise no_answer()
        return self._replies.concluded(context, reply, answered)
