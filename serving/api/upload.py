"""Protocol of ``POST /v1/detect``: the body is the image, everything else is in the head."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serving.api.accept import JSON
from serving.api.admission import Limits
from serving.api.body import check_head, check_type, image_bytes
from serving.api.budget import DEADLINE_PARAMETER
from serving.api.frames import FRAME_PARAMETER, PARAMETERS, STREAM_PARAMETER, parse_frame
from serving.api.options import Options, parse_options
from serving.api.protocol_adapter import DetectionResult, ParsedRequest
from serving.core.family import Family
from serving.imaging.probing import probe

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False).encode


class Upload:
    """``ProtocolAdapter`` for one image file, or a form with one, answered in JSON."""

    def __init__(self, family: Family, limits: Limits) -> None:
        self._family = family
        self._limits = limits

    def read_head(self, http: HttpRequest) -> Options:
        """Return the options, which are in the query string, as a budget may be."""
        query, others = http.query_params, (DEADLINE_PARAMETER, *PARAMETERS)
        options = parse_options(
            [item for item in query.multi_items() if item[0] not in others],
            self._family,
            others,
        )
        frame = parse_frame(query.getlist(STREAM_PARAMETER), query.getlist(FRAME_PARAMETER))
        check_type(http.headers)
        check_head(http.headers, self._limits.max_body_bytes)
        return options if frame is None else replace(options, frame=frame)

    async def read_body(self, headers: Headers, body: bytes, options: Options) -> ParsedRequest:
        """Read the image, which is the body or its only field."""
        data = image_bytes(headers, body)
        header = probe(data, self._limits.max_pixels)
        return ParsedRequest(data, header, options, None, self._write)

    def _write(self, answer: DetectionResult) -> Response:
        placement = answer.placement
        body = {
            "model": answer.model,
            "request_id": answer.request_id,
            "image": {"width": placement.original_width, "height": placement.original_height},
            "detections": _detections(answer, self._family.classes),
            **answer.facts,
        }
        return Response(
            _encode(body).encode(),
            headers={"Vary": "Accept"},  # the same exit by exit is another reply
            media_type=JSON,
        )


def _detections(answer: DetectionResult, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the boxes in the original image, to a hundredth of a pixel."""
    # float64 before rounding, so that JSON shows 12.34 and not 12.34000015258789.
    return [
        {"box": box, "score": score, "label": classes[label], "class_id": label}
        for box, score, label in zip(
            answer.boxes_xyxy.astype(float).round(2).tolist(),
            answer.scores.astype(float).round(4).tolist(),
            answer.labels.tolist(),
            strict=True,
        )
    ]
