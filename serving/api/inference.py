"""Inference for one admitted request: its image decoded, and the boxes that the backend finds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import aclosing

from serving.api.admission import Admission, Limits
from serving.api.frames import FrameTurns
from serving.api.protocol_adapter import EncodedImage, ParsedRequest
from serving.api.request_context import RequestContext
from serving.core.errors import BackendError, DeadlineExceeded, Overloaded, ShedReason
from serving.core.letterbox import Letterbox
from serving.core.ports import Backend, Clock, Image
from serving.core.request import Answered, Request
from serving.imaging.decode_pool import DecodePool


class Inference:
    """One server's way from an admitted request to its boxes.

    All of it runs on the event loop except decoding and the backend.
    """

    def __init__(
        self,
        backend: Backend,
        pool: DecodePool,
        admission: Admission,
        turns: FrameTurns,
        limits: Limits,
        clock: Clock,
        in_hand_reserve_s: Callable[[float], float],
    ) -> None:
        """Make the way.

        ``in_hand_reserve_s`` says how long before its deadline an answer in hand is to be sent, by
        the request's budget, both in seconds.
        """
        self._backend = backend
        self._pool = pool
        self._admission = admission
        self._turns = turns
        self._limits = limits
        self._clock = clock
        self._in_hand_reserve_s = in_hand_reserve_s
        self._ids = itertools.count()

    async def infer(
        self, image: EncodedImage | ParsedRequest, context: RequestContext
    ) -> tuple[Letterbox, Answered]:
        """Decode the image and find its boxes; return where it lies in the input, and the answer.

        Raises Overloaded, FrameSuperseded, DeadlineExceeded, PayloadTooLarge, InvalidImage or
        BackendError.
        """
        pixels, placement = await self.decode(image, context)
        try:
            with context.timer.by(context.boxes_due_s):
                answers = self._backend.stream(pixels, self.request(context, streaming=False))
                async with aclosing(answers):
                    async for answered in answers:
                        self.answered(answered, context)
        except TimeoutError as error:
            if context.answered is None:
                raise no_boxes() from error
        if context.answered is None:
            raise no_answer()
        return placement, context.answered

    def answered(self, answered: Answered, context: RequestContext) -> None:
        """Note an answer to a request, better than those before."""
        if context.frame is not None:
            self._turns.streams.answered(context.frame)
        self._admission.answered(answered, context)

    async def decode(
        self, image: EncodedImage | ParsedRequest, context: RequestContext
    ) -> tuple[Image, Letterbox]:
        """Return the pixels of a request's image, and where it lies.

        Raises Overloaded, FrameSuperseded, PayloadTooLarge or InvalidImage.
        """
        try:
            with context.timer.by(context.boxes_due_s):
                if context.frame is not None:
                    await self._turns.turn(context.frame)
                decoded = await self._pool.decode(image.data, image.header, context.claim)
        except TimeoutError as error:
            raise Overloaded(
                "The deadline came while the image waited to be decoded.",
                ShedReason.REJECTED_EXPIRED,
            ) from error
        if context.frame is not None:
            self._turns.streams.submit(context.frame)
        context.decoded_s = self._clock()
        self._admission.decoded(context)
        return decoded

    def request(self, context: RequestContext, *, streaming: bool) -> Request:
        """Return what the engine is asked."""
        number = next(self._ids)
        if context.trace is not None:
            context.trace.follow(number)
        return Request(
            id=number,
            arrival_s=context.arrival_s,
            deadline_s=context.boxes_due_s - self._limits.network_reserve_s,
            min_depth=context.options.min_depth,
            max_depth=context.options.max_depth,
            streaming=streaming,
            principal=context.principal.name,
            share=context.principal.share,
            stream=context.stream,
            is_promised=context.frame is not None and context.frame.is_promised,
            in_hand_reserve_s=self._in_hand_reserve_s(context.budget.seconds),
            group=context.group,
        )


def no_answer() -> BackendError:
    """Return the error of a request that the engine has ended with nothing."""
    return BackendError("The engine ended the request without an answer.")


def no_boxes() -> DeadlineExceeded:
    """Return the error of a request whose deadline came before any boxes."""
    return DeadlineExceeded("The engine had no boxes by the deadline.")
