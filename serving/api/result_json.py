"""The JSON of answered requests; see ``schemas.DetectionResponse``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic_core import to_json

from serving.api.protocol_adapter import DetectionResult


def encode_json(body: Mapping[str, Any]) -> bytes:
    """Return the JSON of a tree without cycles, as short as it can be.

    That NaN is no JSON is for whoever takes an answer from an engine to check (``output_check``).
    """
    # In half the time of the standard library's, most of which goes to numbers.
    return to_json(body)


def result_body(answer: DetectionResult, classes: Sequence[str]) -> dict[str, Any]:
    """Return the reply to a request for one image."""
    placement = answer.placement
    found = detections(answer.boxes_xyxy, answer.scores, answer.labels, classes)
    if answer.track_ids is not None:
        for each, track_id in zip(found, answer.track_ids, strict=True):
            each["track_id"] = track_id
    return {
        "model": answer.model,
        "request_id": answer.request_id,
        "image": {"width": placement.original_width, "height": placement.original_height},
        "detections": found,
        **answer.facts,
    }


def detections(
    boxes_xyxy: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Return boxes (N, 4) in pixels of the original image, to a hundredth of one, as JSON has them.

    ``scores`` (N,) are from 0 to 1, ``labels`` (N,) positions in ``classes``.
    """
    # float64 before rounding, so that JSON shows 12.34 and not 12.34000015258789.
    return [
        {"box": box, "score": score, "label": classes[label], "class_id": label}
        for box, score, label in zip(
            boxes_xyxy.astype(float).round(2).tolist(),
            scores.astype(float).round(4).tolist(),
            labels.tolist(),
            strict=True,
        )
    ]
