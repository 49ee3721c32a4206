"""Replies to answered requests, and the facts that are recorded of each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starlette.responses import Response

from serving.api.problems import to_ms
from serving.api.protocol_adapter import ParsedRequest
from serving.api.reply_times import ReplyTimes
from serving.api.request_context import RequestContext, write_reply
from serving.core.errors import DeadlineExceeded
from serving.core.family import Family
from serving.core.letterbox import Letterbox
from serving.core.ports import Clock
from serving.core.request import Answered
from serving.observability.request_record import AnsweredFacts

TIMER_RESOLUTION_S = 1e-3
"""Seconds by which a timer of the event loop may be early."""

# Why a streaming reply went no deeper, as its last event says.
AT_MAX_DEPTH = "max-depth"
AT_BEST = "best"
CONCLUDED = "concluded"
AT_DEADLINE = "deadline"
# How else an answer in hand may end.
BETTER = "better"


class Replies:
    """One server's replies.

    They are from one family of models or, where it may be changed, from those that its answers
    name.
    """

    def __init__(self, family: Family, clock: Clock, times: ReplyTimes) -> None:
        self._family = family
        self._clock = clock
        self._times = times

    def write(
        self,
        message: ParsedRequest,
        context: RequestContext,
        placement: Letterbox,
        answered: Answered,
    ) -> tuple[Response, AnsweredFacts]:
        """Return the response to an answer, and its facts for the record.

        Raises DeadlineExceeded.
        """
        begun_s = self._clock()
        in_hand = self.in_hand(answered)
        family = self.family_of(answered)
        response = write_reply(context, message.write, placement, answered, family, begun_s)
        # Asked last: a reply that took too long to write is late as well.
        now_s = self.check_in_time(context)
        return response, self.facts(context, answered, in_hand, begun_s, now_s)

    def learn(self, answered: Answered) -> None:
        """Learn how long a reply took that is now written, or too late, from when it was due.

        Of an answer in hand that the engine has concluded it is not known when that was.
        """
        if not answered.held:
            self._times.observe(answered.finished_s, self._clock())
        elif self._waited(answered):
            self._times.observe(answered.request.conclude_by_s, self._clock())

    def check_in_time(self, context: RequestContext) -> float:
        """Return the present instant. Raises DeadlineExceeded if the deadline has passed."""
        now_s = self._clock()
        if now_s > context.deadline_s:
            late_ms = to_ms(now_s - context.deadline_s)
            raise DeadlineExceeded(f"The boxes were ready {late_ms} ms after the deadline.")
        return now_s

    def facts(
        self,
        context: RequestContext,
        answered: Answered,
        in_hand: str | None,
        begun_s: float,
        now_s: float,
    ) -> AnsweredFacts:
        """Return the facts of an answer whose reply was written from ``begun_s`` to ``now_s``.

        ``in_hand`` is what became of the answer that it had in hand, when that was begun.
        """
        family = self.family_of(answered)
        return AnsweredFacts(
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

    def concluded(
        self, context: RequestContext, reply: AnsweredFacts, answered: Answered
    ) -> tuple[AnsweredFacts, str]:
        """Return the facts of the last answer of a stream, and why none deeper follows it."""
        waited = self._waited(answered)
        if reply.in_hand == CONCLUDED and waited:
            reply = replace(reply, in_hand=AT_DEADLINE)
        if reply.degraded and waited:
            return reply, AT_DEADLINE
        family = self.family_of(answered)
        is_only = len(family.catalogs) == 1
        is_deepest = reply.depth == family.deepest(reply.model, context.options.max_depth)
        if is_deepest and (is_only or not reply.degraded):
            return reply, AT_MAX_DEPTH
        return reply, CONCLUDED if reply.degraded else AT_BEST

    def done(
        self, context: RequestContext, reply: AnsweredFacts, reason: str, num_answers: int
    ) -> dict[str, Any]:
        """Return the last event of a stream; see ``schemas.Done``."""
        assert context.answered is not None, "a stream is done without an answer"
        family, point = self.family_of(context.answered), (reply.model, reply.depth)
        points = (*reply.earlier, point)
        return {
            "request_id": context.request_id,
            "model": family.names[reply.model],
            "reason": reason,
            "num_answers": num_answers,
            **context.facts(family, points, self._clock()),
        }

    def in_hand(self, answered: Answered) -> str | None:
        """Return what became of the answer that the request had in hand, if ``answered`` is sent.

        That is one of ``IN_HAND_ENDS``, or None.
        """
        if answered.held:
            return AT_DEADLINE if self._waited(answered) else CONCLUDED
        return BETTER if answered.upgrades else None

    def family_of(self, answered: Answered) -> Family:
        """Return what gave an answer."""
        return answered.family or self._family

    def _waited(self, answered: Answered) -> bool:
        """Return whether the instant has come to send that answer, since it was there."""
        due_s = answered.request.conclude_by_s - TIMER_RESOLUTION_S
        return answered.finished_s < due_s <= self._clock()
