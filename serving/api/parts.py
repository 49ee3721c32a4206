"""Requests with several parts: images, tiles or regions, all under one budget.

    message -> cut once -> part: claim -> inference -.
                           part: claim -> inference --> one reply, an outcome for each
                           part: claim -> inference -'

Each part is an engine request like any other, with the deadline of all: the policy spends depth
where it buys most, over them as over everybody. Each counts as a request: in places, quotas, fair
shares and metrics; and each ends once, with boxes or with a problem of its own. If none has boxes,
the problem of the first that could be tried is the reply.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serving.api.admission import Admission
from serving.api.connection import departure_of, while_connected
from serving.api.cutting import Cut, Tiles
from serving.api.inference import Inference
from serving.api.intake import Intake
from serving.api.problems import to_ms
from serving.api.protocol_adapter import (
    DetectionResult,
    EncodedImage,
    ParsedRequest,
    PartResult,
    Parts,
    PartsResult,
)
from serving.api.replies import Replies
from serving.api.request_context import RequestContext, add_headers, result_of
from serving.core.errors import (
    InvalidRequest,
    Overloaded,
    RequestCancelled,
    ServingError,
    ShedReason,
)
from serving.core.family import Family
from serving.core.letterbox import Letterbox
from serving.core.ports import Clock
from serving.core.request import Answered
from serving.core.tiling import ImageDetections, Region, merge_tiles
from serving.imaging.cropping import Crop, Crops
from serving.imaging.decode_pool import DecodePool
from serving.observability.metrics import Metrics
from serving.observability.request_record import AnsweredFacts

logger = logging.getLogger(__name__)

WRITE_S = 0.5e-3
"""Seconds before the deadline, for each part, at which the engine's time ends.

It takes so long at most to write what a part has found, and to merge it.
"""
MAX_MERGED_INLINE = 100
"""Most boxes that are merged on the event loop; it takes less than a millisecond."""
MERGE_S_PER_BOX = 2e-5
"""Seconds that merging takes for each box, of a few hundred."""


@dataclass(slots=True)
class _Part:
    """One part of a request, and how far it has come."""

    context: RequestContext
    image: EncodedImage | ServingError
    region: Region | None = None
    found: tuple[Letterbox, Answered] | None = None
    error: BaseException | None = None
    """Why there is no answer, if there is none."""
    in_hand: str | None = None
    """What became of the answer that it had in hand."""


@dataclass(frozen=True, slots=True)
class _Split:
    """A request in its parts."""

    parts: tuple[_Part, ...]
    size: tuple[int, int] | None
    """Upright width and height of the image that was cut, if one was."""


class PartsService:
    """One server's service of requests with several parts.

    All of it runs on the event loop except cutting and merging.
    """

    def __init__(
        self,
        family: Family,
        pool: DecodePool,
        *,
        admission: Admission,
        intake: Intake,
        inference: Inference,
        replies: Replies,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._family = family
        self._pool = pool
        self._admission = admission
        self._intake = intake
        self._inference = inference
        self._replies = replies
        self._metrics = metrics
        self._clock = clock
        self._groups = itertools.count()

    async def serve(
        self, http: HttpRequest, message: ParsedRequest, parts: Parts, context: RequestContext
    ) -> Response:
        """Return the reply to a request that has been read and admitted.

        Raises ServingError if no part has an answer.
        """
        work = self._serve(message, parts, context)
        return await while_connected(departure_of(http), work)

    async def _serve(
        self, message: ParsedRequest, parts: Parts, context: RequestContext
    ) -> Response:
        split = await self._split(message, parts, context)
        context.is_split = True
        self._intake.charge(context.principal, len(split.parts) - 1)
        try:
            async with asyncio.TaskGroup() as group:
                for part in split.parts:
                    group.create_task(self._run(part))
            for part in split.parts:
                if part.found is not None:
                    part.in_hand = self._replies.in_hand(part.found[1])
            begun_s = self._clock()
            response = await self._reply(split, parts, context)
            now_s = self._replies.check_in_time(context)
        except BaseException as error:
            self._end(split.parts, error)
            raise
        for part in split.parts:
            self._intake.end(part.context, self._ending(part, begun_s, now_s))
        return response

    # -- into parts ------------------------------------------------------------------------------

    async def _split(self, message: ParsedRequest, parts: Parts, context: RequestContext) -> _Split:
        """Return the parts, each with a context of its own.

        The first has the place of the request, and its trace. Raises ServingError if there is
        nothing that could be tried.
        """
        size: tuple[int, int] | None = None
        if parts.cut is None:
            found: Sequence[tuple[EncodedImage | ServingError, Region | None]]
            found = [(image, None) for image in parts.images]
        else:
            crops = await self._cut(message, parts.cut, context)
            size = (crops.width, crops.height)
            found = [_of_crop(crop) for crop in crops.parts]
        write_s = WRITE_S * len(found)
        group = next(self._groups)
        split = [_Part(context.part(write_s, group), image, region) for image, region in found]
        first = split[0].context
        first.has_place, context.has_place = context.has_place, False
        first.trace, context.trace = context.trace, None
        return _Split(tuple(split), size)

    async def _cut(self, message: ParsedRequest, cut: Cut, context: RequestContext) -> Crops:
        """Return the parts that an image is cut into, once it is decoded."""
        header = message.header
        num_pixels = cut.num_pixels(header.width, header.height)
        try:
            with context.timer.by(context.deadline_s):
                crops = await self._pool.cut(
                    message.data, header, cut.parts, num_pixels, context.claim
                )
        except TimeoutError as error:
            raise Overloaded(
                "The deadline came while the image waited to be cut into parts.",
                ShedReason.REJECTED_EXPIRED,
            ) from error
        context.body.hold(sum(len(each.data) for each in crops.parts if isinstance(each, Crop)))
        context.decoded_s = self._clock()
        return crops

    # -- each part -------------------------------------------------------------------------------

    async def _run(self, part: _Part) -> None:
        """Find the boxes of one part, or why there are none. Raises nothing but cancellation."""
        if isinstance(part.image, ServingError):
            part.error = part.image
            return
        try:
            part.found = await self._infer(part.image, part.context)
        except ServingError as error:
            part.error = error
        except Exception as error:
            logger.error("a part of request %s failed", part.context.request_id, exc_info=error)
            part.error = error
        finally:
            part.context.timer.stop()

    async def _infer(
        self, image: EncodedImage, context: RequestContext
    ) -> tuple[Letterbox, Answered]:
        if not context.has_place:
            self._metrics.demanded()
            self._intake.places.take(context.principal)
            context.has_place = True
        context.read_s = self._clock()
        needed_s = self._admission.needed_s(image.header, context.options.min_depth)
        context.claim = self._admission.claim(needed_s, context)
        self._admission.check_room(image.header, context.claim, context)
        inference = self._inference.infer(image, context)
        return await self._admission.inside(context, image.header, inference)

    # -- all together ----------------------------------------------------------------------------

    async def _reply(self, split: _Split, parts: Parts, context: RequestContext) -> Response:
        """Return the reply to all parts. Raises an error if none has an answer."""
        begun_s = self._clock()
        results = tuple(self._result(part, begun_s) for part in split.parts)
        if not any(isinstance(result.outcome, DetectionResult) for result in results):
            raise _error_of_all([part.error for part in split.parts])
        merged = None
        if isinstance(parts.cut, Tiles) and split.size is not None:
            merged = await self._merge(results, *split.size)
        elapsed_s = self._clock() - context.arrival_s
        response = parts.write(
            PartsResult(
                context.request_id,
                results,
                split.size,
                merged,
                {
                    "budget_ms": to_ms(context.budget.seconds),
                    "elapsed_ms": to_ms(elapsed_s),
                    "slack_ms": to_ms(context.budget.seconds - elapsed_s),
                },
            )
        )
        cut_s = max(0.0, context.decoded_s - context.read_s)
        stages = (
            ("read", context.read_s - context.arrival_s, ""),
            ("cut", cut_s, ""),
            ("parts", begun_s - context.read_s - cut_s, f';desc="parts={len(results)}"'),
            ("total", self._clock() - context.arrival_s, ""),
        )
        add_headers(response, context, stages)
        return response

    def _result(self, part: _Part, now_s: float) -> PartResult:
        if part.found is None:
            error = part.error
            if not isinstance(error, ServingError):
                error = ServingError("The server failed on this part; its log says how.")
            return PartResult(part.region, error)
        placement, answered = part.found
        family = self._replies.family_of(answered)
        result = result_of(part.context, placement, answered, family, now_s)
        if part.region is not None:
            result = replace(result, boxes_xyxy=_moved(result.boxes_xyxy, part.region))
        return PartResult(part.region, result)

    async def _merge(
        self, results: Sequence[PartResult], width: int, height: int
    ) -> ImageDetections:
        """Return the boxes of all tiles as one answer."""
        found = [
            (
                each.region,
                ImageDetections(each.outcome.boxes_xyxy, each.outcome.scores, each.outcome.labels),
            )
            for each in results
            if each.region is not None and isinstance(each.outcome, DetectionResult)
        ]
        most = len(found) * max(catalog.max_detections for catalog in self._family.catalogs)
        merge = partial(merge_tiles, found, width, height, most)
        num_boxes = sum(len(each.scores) for _, each in found)
        if num_boxes <= MAX_MERGED_INLINE:
            return merge()
        try:
            return await self._pool.run(lambda _: merge(), MERGE_S_PER_BOX * num_boxes)
        except Overloaded:  # no reason to throw away what has been found
            return merge()

    # -- counting --------------------------------------------------------------------------------

    def _ending(self, part: _Part, begun_s: float, now_s: float) -> AnsweredFacts | BaseException:
        """Return how a part ended whose reply was written from ``begun_s`` to ``now_s``."""
        if part.found is None:
            assert part.error is not None, "it has ended without an answer and without an error"
            return part.error
        context, (_, answered) = part.context, part.found
        return self._replies.facts(context, answered, part.in_hand, begun_s, now_s)

    def _end(self, parts: Sequence[_Part], error: BaseException) -> None:
        """Count parts of which nobody has heard, because of ``error``."""
        if isinstance(error, asyncio.CancelledError):
            error = RequestCancelled("The client left.")
        for part in parts:
            own = part.error
            self._intake.end(part.context, error if own is None else own)


def _error_of_all(errors: Sequence[BaseException | None]) -> BaseException:
    """Return what is told of a request of which no part has an answer.

    It is the error of the first part that could be tried, since another try may help it.
    """
    known = [error for error in errors if error is not None]
    return min(known, key=lambda error: isinstance(error, InvalidRequest))


def _of_crop(crop: Crop | ServingError) -> tuple[EncodedImage | ServingError, Region | None]:
    if isinstance(crop, ServingError):
        return crop, None
    return EncodedImage(crop.data, crop.header), crop.region


def _moved(boxes_xyxy: npt.NDArray[np.float32], region: Region) -> npt.NDArray[np.float32]:
    """Return boxes in pixels of a region in those of the image that it is of."""
    return boxes_xyxy + np.array([region.x1, region.y1] * 2, np.float32)
