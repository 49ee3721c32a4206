"""The JSON of a request with several parts; see ``schemas.PartsResponse``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.api.problems import describe_problem
from serving.api.protocol_adapter import DetectionResult, PartResult, PartsResult
from serving.api.result_json import detections

ANSWERED = "answered"
_OF_THE_REQUEST = ("request_id", "budget_ms", "elapsed_ms", "slack_ms")
"""What is said once for all parts."""


def parts_body(result: PartsResult, classes: Sequence[str]) -> dict[str, Any]:
    """Return the reply to a request with several parts.

    Boxes of tiles are merged and stand in one list; of regions and images each part has its own.
    """
    merged = result.merged
    parts = [_part(part, classes, with_boxes=merged is None) for part in result.parts]
    body: dict[str, Any] = {
        "request_id": result.request_id,
        "num_parts": len(parts),
        "num_answered": sum(part["outcome"] == ANSWERED for part in parts),
    }
    if result.size is not None:
        body["image"] = dict(zip(("width", "height"), result.size, strict=True))
    if merged is not None:
        body["detections"] = detections(*merged, classes)
    return {**body, "parts": parts, **result.facts}


def _part(part: PartResult, classes: Sequence[str], *, with_boxes: bool) -> dict[str, Any]:
    region = {} if part.region is None else {"region": list(part.region)}
    answer = part.outcome
    if not isinstance(answer, DetectionResult):
        return {"outcome": answer.slug, **region, "problem": describe_problem(answer)}
    placement = answer.placement
    size = {"width": placement.original_width, "height": placement.original_height}
    boxes: dict[str, Any] = {"num_detections": len(answer.scores)}
    if with_boxes:
        boxes["detections"] = detections(answer.boxes_xyxy, answer.scores, answer.labels, classes)
    facts = {name: fact for name, fact in answer.facts.items() if name not in _OF_THE_REQUEST}
    return {
        "outcome": ANSWERED,
        **(region or {"image": size}),
        "model": answer.model,
        **facts,
        **boxes,
    }
