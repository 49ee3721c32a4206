"""What a head gives, image by image."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from serving.core.request import Detections


def copied_rows(
    boxes: npt.NDArray[Any],
    scores: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    counts: npt.NDArray[Any],
) -> list[Detections]:
    """A batch's outputs, ``(B, K, 4)``, ``(B, K)``, ``(B, K)`` and ``(B,)``, as copies of the first
    ``counts`` of each row. There may be fewer counts than rows: what is beyond is padding."""
    return [
        Detections(boxes[row, :n].copy(), scores[row, :n].copy(), labels[row, :n].copy())
        for row, n in enumerate(counts)
    ]
