"""Agreement of two answers to one image: which boxes both have, and how far their scores differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.core.request import Detections

MATCH_IOU = 0.5
"""Overlap (intersection over union) from which on boxes of one class are of one object: the lower
of the thresholds that average precision is taken at."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of one answer with another."""

    num_unmatched: tuple[int, int]
    """Number of boxes that only the one, and only the other, has."""
    score_differences: tuple[float, ...]
    """Scores of the one minus those of the other, of the boxes that both have."""

    @property
    def num_matched(self) -> int:
        """Number of boxes that both have."""
        return len(self.score_differences)


def compare(one: Detections, other: Detections, least_score: float) -> Agreement:
    """Return how far two answers agree about what either gives ``least_score`` or more.

    Boxes are in one frame. Each of ``one``, best first, is matched with the box of its class in
    ``other`` that overlaps it most and is still free. A box above ``least_score`` may be matched
    with one below it, so that a score that slips by a hair is a small difference and not a box that
    is missing.
    """
    ious = _ious(one.boxes_xyxy_input, other.boxes_xyxy_input)
    ious[one.labels[:, None] != other.labels] = 0.0
    free = np.ones(len(other.scores), dtype=bool)
    matched = np.zeros(len(one.scores), dtype=bool)
    differences: list[float] = []
    for index in np.argsort(-one.scores, kind="stable").tolist():
        if not free.any():
            break
        best = int(np.where(free, ious[index], -1.0).argmax())
        if ious[index, best] < MATCH_IOU:
            continue
        free[best], matched[index] = False, True
        if max(one.scores[index], other.scores[best]) >= least_score:
            differences.append(float(one.scores[index]) - float(other.scores[best]))
    return Agreement(
        (
            int(np.count_nonzero(~matched & (one.scores >= least_score))),
            int(np.count_nonzero(free & (other.scores >= least_score))),
        ),
        tuple(differences),
    )


def _ious(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the intersections over unions of all pairs of boxes, (N, M); 0 of empty ones."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.clip(high - low, 0.0, None).prod(axis=2)  # (N, M)
    areas = [np.clip(b[:, 2:] - b[:, :2], 0.0, None).prod(axis=1) for b in (one, other)]
    union = areas[0][:, None] + areas[1] - shared
    ious: npt.NDArray[np.float32] = np.divide(
        shared, union, out=np.zeros_like(shared), where=union > 0.0
    )
    return ious
