"""Two answers for one image as one: large objects of the smaller input, small ones of the larger.

A detector finds best what is as large, in pixels of its input, as what its anchors were trained on.
A larger input shows small objects at that size, but large ones beyond it; an answer in hand from a
smaller input has those already. The border between the two is a side in pixels of the larger input,
and around it both are heard.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serving.core.model_entry import Merging
from serving.core.request import Detections

OVERLAP = 1.25
"""Both inputs are heard about boxes from the border divided by this to the border times this."""


def merge(
    smaller: Detections,
    larger: Detections,
    merging: Merging,
    *,
    scale: float,
    max_detections: int,
) -> Detections:
    """Return one answer from those at a smaller and at a larger input, best first.

    The boxes of both, and of the result, are in one frame, of which a pixel has ``scale`` pixels of
    the larger input each way. Of boxes of one class that overlap by more than
    ``merging.iou_threshold`` the best is kept, of equal scores the one from the smaller input; of
    what is kept, the best ``max_detections``.
    """
    border = merging.border_side / scale
    heard = (
        (smaller, _sides(smaller) > border / OVERLAP),
        (larger, _sides(larger) < border * OVERLAP),
    )
    boxes = np.concatenate([found.boxes_xyxy_input[keep] for found, keep in heard])
    scores = np.concatenate([found.scores[keep] for found, keep in heard])
    labels = np.concatenate([found.labels[keep] for found, keep in heard])
    order = np.argsort(-scores, kind="stable")
    kept = suppress(boxes[order], labels[order], merging.iou_threshold)[:max_detections]
    chosen = order[kept]
    return Detections(boxes[chosen], scores[chosen], labels[chosen])


def _sides(found: Detections) -> npt.NDArray[np.float32]:
    """Return the square roots of the boxes' areas, (N,)."""
    extent = found.boxes_xyxy_input[:, 2:] - found.boxes_xyxy_input[:, :2]  # (N, 2)
    sides: npt.NDArray[np.float32] = np.sqrt(extent.prod(axis=1))
    return sides


def suppress(
    boxes: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], iou_threshold: float
) -> npt.NDArray[np.intp]:
    """Return the indices, ascending, of the boxes (N, 4) xyxy to keep, given best first.

    A box is kept unless a better one that is kept, of the same label, overlaps it with an
    intersection over union above ``iou_threshold``. ``labels`` are (N,).
    """
    left, top, right, bottom = boxes.T
    # Axis by axis, since a last axis of two is slow; in place, since fresh memory is.
    shared = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)  # (N, N)
    height = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)
    np.maximum(shared, 0.0, out=shared)
    shared *= np.maximum(height, 0.0, out=height)
    area = (right - left) * (bottom - top)
    # IoU > t, without a division: shared > t * (a + b - shared).
    shared *= np.float32(1.0 + iou_threshold)
    area *= np.float32(iou_threshold)
    overlaps = shared > area[:, None] + area
    overlaps &= labels[:, None] == labels
    place = np.arange(len(boxes))
    overlaps &= place[:, None] < place
    kept = [True] * len(boxes)
    # Few boxes overlap, and a better one comes first: whether it is kept has been settled by then.
    for better, worse in zip(*(places.tolist() for places in overlaps.nonzero()), strict=True):
        if kept[better]:
            kept[worse] = False
    return np.flatnonzero(kept)
