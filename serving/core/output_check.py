"""Check of what an engine gives: boxes that no sound model has are the engine's failure.

A kernel that overflows, a damaged weight or a buffer that was not written shows as numbers that are
none, or out of all proportion. They must not reach a client as an answer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from serving.core.request import Detections

FindFault = Callable[[Detections], str | None]
"""Function from the boxes of one image to what is wrong with them, as a clause; None if nothing
is."""

BOX_REACH = 100.0
"""Number of the input's longer sides that a box may lie beyond it. Models do not clip boxes, but
bound by how much one exceeds its anchor: to less than that."""
SCORE_SLACK = 1e-3
"""Amount by which rounding may take a score out of 0..1."""


def find_fault(found: Detections, side: float, num_classes: int, most: int) -> str | None:
    """Return what is wrong with the boxes of one image, as a clause; None if nothing is.

    The input's longer side is ``side`` pixels, the model knows ``num_classes`` and gives no more
    than ``most`` boxes.
    """
    boxes, scores, labels = found.boxes_xyxy_input, found.scores, found.labels
    count = len(scores)
    if scores.shape != (count,) or boxes.shape != (count, 4) or labels.shape != (count,):
        return "boxes, scores and labels do not belong together"
    if count > most:
        return f"there are {count} boxes, of at most {most}"
    if count == 0:
        return None
    # The least and the largest of anything with a NaN are NaN, and every comparison with that is
    # false: what is finite need not be asked for by itself.
    reach = BOX_REACH * side
    if not (boxes.min() >= -reach and boxes.max() <= reach):
        return "a box is not near the image"
    if not (boxes[:, :2] <= boxes[:, 2:]).all():
        return "a box ends before it begins"
    return _find_fault_of_scores(scores, labels, num_classes)


def _find_fault_of_scores(
    scores: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], num_classes: int
) -> str | None:
    if not (scores.min() >= -SCORE_SLACK and scores.max() <= 1.0 + SCORE_SLACK):
        return "a score is not in 0..1"
    if not (labels.min() >= 0 and labels.max() < num_classes):
        return f"a label is not that of one of {num_classes} classes"
    return None
