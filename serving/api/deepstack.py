"""``POST /v1/vision/detection``, as DeepStack and CodeProject.AI have it: their clients work.

    image             the image file
    min_confidence    lowest score of a prediction; 0.4 without it
    api_key           key of the sender, where keys are asked for

All are fields of a form. These clients send no deadline, so it is a setting, or in the URL:
``?deadline_ms=80``; other options of ``/v1/detect`` may be there, too. Predictions are sorted by
score, with whole pixels, and called by COCO's names, since some clients stop at the first one that
they do not know.
"""

from __future__ import annotations

import json
from dataclasses import replace

from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serving.api.admission import Limits
from serving.api.body import check_head, check_type
from serving.api.budget import DEADLINE_PARAMETER
from serving.api.forms import MULTIPART, check_fields, read_form
from serving.api.numbers import decimal, shown
from serving.api.options import Options, parse_options
from serving.api.problems import VISION_PREFIX
from serving.api.protocol_adapter import DetectionResult, ParsedRequest
from serving.core.class_names import SYNONYMS
from serving.core.errors import InvalidParameter
from serving.core.family import Family
from serving.imaging.probing import probe

PATH = VISION_PREFIX + "/detection"
IMAGE, MIN_CONFIDENCE, API_KEY = FIELDS = ("image", "min_confidence", "api_key")

DEFAULT_MIN_CONFIDENCE = 0.4
"""Lowest score of a prediction where none is stated."""
_COCO_NAMES = dict(SYNONYMS)


class DeepStack:
    """``ProtocolAdapter`` for forms as DeepStack and CodeProject.AI take them."""

    def __init__(self, family: Family, limits: Limits, default_budget_s: float) -> None:
        self._family = family
        self._limits = limits
        self._default_budget_s = default_budget_s
        self._names = [_COCO_NAMES.get(name, name) for name in family.classes]

    @property
    def default_budget_s(self) -> float:
        """Budget in seconds of a request that states none."""
        return self._default_budget_s

    def may_state_budget(self, headers: Headers) -> bool:
        """Return False: a form has no field for that."""
        return False

    def read_head(self, http: HttpRequest) -> Options:
        """Return the options in the query string, where a budget may be as well."""
        query = http.query_params.multi_items()
        options = parse_options(
            [item for item in query if item[0] != DEADLINE_PARAMETER],
            self._family,
            others=(DEADLINE_PARAMETER,),
        )
        check_type(http.headers, (MULTIPART,))
        check_head(http.headers, self._limits.max_body_bytes)
        return options

    async def read_body(self, headers: Headers, body: bytes, options: Options) -> ParsedRequest:
        """Read the form."""
        fields = read_form(headers, body, len(FIELDS))
        check_fields(fields, FIELDS)
        given = {field.name: field.content for field in fields}
        if len(given) < len(fields):
            raise InvalidParameter("A field of the form was sent more than once.")
        if IMAGE not in given:
            raise InvalidParameter(f"The form has no field {IMAGE!r}.")
        stated = given.get(MIN_CONFIDENCE, b"").decode("latin-1").strip()
        score = decimal(stated) if stated else DEFAULT_MIN_CONFIDENCE
        if score is None or score > 1.0:
            raise InvalidParameter(
                f"{MIN_CONFIDENCE} must be a number from 0 to 1; it is {shown(stated)}."
            )
        options = replace(options, score_threshold=max(score, options.score_threshold))
        data = given[IMAGE]
        header = probe(data, self._limits.max_pixels)
        key = given.get(API_KEY, b"").decode("latin-1").strip()
        return ParsedRequest(data, header, options, None, self._write, key=key or None)

    def _write(self, answer: DetectionResult) -> Response:
        predictions = [
            {
                "label": self._names[label],
                "confidence": score,
                **dict(zip(("x_min", "y_min", "x_max", "y_max"), map(round, box), strict=True)),
            }
            for box, score, label in zip(
                answer.boxes_xyxy.tolist(),
                answer.scores.astype(float).round(4).tolist(),
                answer.labels.tolist(),
                strict=True,
            )
        ]
        body = {
            "success": True,
            "message": f"{len(predictions)} objects were found",
            "count": len(predictions),
            "predictions": predictions,
            "code": 200,
            "command": "detect",
            "duration": round(float(answer.facts["elapsed_ms"])),
            "processMs": round(float(answer.facts["elapsed_ms"])),
            "inferenceMs": round(float(answer.facts["predicted_ms"])),
            "model": answer.model,
            **answer.facts,
        }
        return Response(json.dumps(body, separators=(",", ":")), media_type="application/json")
