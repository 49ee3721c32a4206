"""Protocol of ``POST /v1/detect``: the body is the image, everything else is in the head.

image/jpeg, image/png, image/webp    the image
multipart/form-data                  fields called "image": one, or several under one budget
application/json                     {"image": "<base64>", ...}, the options beside it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serving.api import base64_json
from serving.api.accept import JSON
from serving.api.admission import Limits
from serving.api.body import IMAGE_TYPES, check_head, check_type, media_type
from serving.api.budget import DEADLINE_PARAMETER, deadline_parameter
from serving.api.cutting import NAMES as CUT_NAMES
from serving.api.cutting import parse_cut
from serving.api.forms import MULTIPART, check_fields, read_form
from serving.api.frames import FRAME_PARAMETER, PARAMETERS, STREAM_PARAMETER, parse_frame
from serving.api.options import Options, parse_options
from serving.api.parts_reply import parts_body
from serving.api.protocol_adapter import (
    DetectionResult,
    EncodedImage,
    ParsedRequest,
    Parts,
    PartsResult,
)
from serving.api.result_json import encode_json, result_body
from serving.api.tracking import TRACK_PARAMETER, Tracking, parse_track
from serving.core.errors import InvalidParameter, PayloadTooLarge, ServingError
from serving.core.family import Family
from serving.imaging.decode_pool import DecodePool
from serving.imaging.pixels import go_on
from serving.imaging.probing import probe

FIELD = "image"
_HEAD_ALONE = (*PARAMETERS, TRACK_PARAMETER, *CUT_NAMES)
"""Parameters that are in the query string and never in a message."""
MEDIA_TYPES = (*IMAGE_TYPES, MULTIPART, base64_json.JSON_TYPE)


class Upload:
    """``ProtocolAdapter`` for image files, bare, in a form or in JSON, answered in JSON."""

    def __init__(
        self, family: Family, limits: Limits, pool: DecodePool, tracking: Tracking
    ) -> None:
        self._family = family
        self._limits = limits
        self._pool = pool
        self._tracking = tracking
        self._defaults = parse_options((), family)

    @property
    def default_budget_s(self) -> float:
        """Budget in seconds of a request that states none."""
        return self._limits.default_budget_s

    def may_state_budget(self, headers: Headers) -> bool:
        """Return whether the body is JSON."""
        return media_type(headers) == base64_json.JSON_TYPE

    def read_head(self, http: HttpRequest) -> Options:
        """Return the options, which are in the query string, as a budget may be."""
        query, others = http.query_params, (DEADLINE_PARAMETER, *_HEAD_ALONE)
        given = query.multi_items()
        stated = [item for item in given if item[0] not in others]
        options = parse_options(stated, self._family, others) if stated else self._defaults
        cut = parse_cut([item for item in given if item[0] in CUT_NAMES], self._limits.max_parts)
        frame = parse_frame(query.getlist(STREAM_PARAMETER), query.getlist(FRAME_PARAMETER))
        check_type(http.headers, MEDIA_TYPES)
        check_head(http.headers, self._limits.max_body_bytes)
        if frame is not None and cut is not None:
            raise _one_part()
        track = parse_track(query.getlist(TRACK_PARAMETER), is_frame=frame is not None)
        if track:
            self._tracking.ask()
        if frame is None and cut is None:
            return options
        return replace(options, cut=cut, frame=frame, track=track)

    async def read_body(self, headers: Headers, body: bytes, options: Options) -> ParsedRequest:
        """Read the image, or the images."""
        kind = media_type(headers)
        if kind == base64_json.JSON_TYPE:
            return await self._read_json(body, options)
        if kind == MULTIPART:
            fields = read_form(headers, body, self._limits.max_parts)
            check_fields(fields, (FIELD,))
            if len(fields) > 1:
                return self._several([field.content for field in fields], options)
            body = fields[0].content
        return self._one(body, options, None)

    async def _read_json(self, body: bytes, options: Options) -> ParsedRequest:
        read = partial(base64_json.read_json, body)
        if len(body) <= base64_json.INLINE_BYTES:
            data, members = read(go_on)
        else:
            data, members = await self._pool.run(read, base64_json.S_PER_BYTE * len(body))
        budgets_s = [
            deadline_parameter(value) for name, value in members if name == DEADLINE_PARAMETER
        ]
        if len(budgets_s) > 1:
            raise InvalidParameter(f"{DEADLINE_PARAMETER} was given more than once.")
        stated = [member for member in members if member[0] != DEADLINE_PARAMETER]
        if stated:
            cut, frame, track = options.cut, options.frame, options.track
            if options != replace(self._defaults, cut=cut, frame=frame, track=track):
                raise InvalidParameter(
                    "Options belong either in the message or in the query string, not in both."
                )
            others = (FIELD, DEADLINE_PARAMETER)
            options = parse_options(stated, self._family, others)
            options = replace(options, cut=cut, frame=frame, track=track)
        return self._one(data, options, min(budgets_s, default=None))

    def _one(self, data: bytes, options: Options, timeout_s: float | None) -> ParsedRequest:
        header = probe(data, self._limits.max_pixels)
        parts = None
        if options.cut is not None:
            header = replace(header, is_whole=True)
            self._check_pixels(options.cut.num_pixels(header.width, header.height))
            parts = Parts((), options.cut, self._write_parts)
        return ParsedRequest(data, header, options, timeout_s, self._write, parts)

    def _several(self, images: Sequence[bytes], options: Options) -> ParsedRequest:
        """Return a request for several images. Raises the first one's error if all have one."""
        if options.cut is not None:
            raise InvalidParameter("One image can be cut into parts, not several.")
        if options.frame is not None:
            raise _one_part()
        probed = [self._probed(data) for data in images]
        sound = [each for each in probed if isinstance(each, EncodedImage)]
        if not sound:
            assert isinstance(probed[0], ServingError)
            raise probed[0]
        self._check_pixels(sum(image.header.num_pixels for image in sound))
        first, parts = sound[0], Parts(tuple(probed), None, self._write_parts)
        return ParsedRequest(first.data, first.header, options, None, self._write, parts)

    def _probed(self, data: bytes) -> EncodedImage | ServingError:
        try:
            return EncodedImage(data, probe(data, self._limits.max_pixels))
        except ServingError as error:
            return error

    def _check_pixels(self, num_pixels: int) -> None:
        if num_pixels > self._limits.max_part_pixels:
            raise PayloadTooLarge(
                f"The parts have {num_pixels:,} pixels together; at most "
                f"{self._limits.max_part_pixels:,} are served."
            )

    def _write(self, answer: DetectionResult) -> Response:
        return _json(result_body(answer, self._family.classes))

    def _write_parts(self, result: PartsResult) -> Response:
        return _json(parts_body(result, self._family.classes))


def _one_part() -> InvalidParameter:
    return InvalidParameter("A frame of a stream has one part.")


def _json(body: Mapping[str, Any]) -> Response:
    # The same exit by exit is another reply.
    return Response(encode_json(body), headers={"Vary": "Accept"}, media_type=JSON)
