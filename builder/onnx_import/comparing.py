"""Whether two ways to the boxes of an image find the same, as far as rounding lets them.

Scores that differ by less than rounding come in any order. Where there are more boxes than are
kept, or one suppresses another, the order decides which stay: a box that another may have put out
is no difference, as long as the other is a box that the detector does give there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from builder.onnx_import.errors import ForeignModelError
from builder.onnx_import.sizing import Size

Rows = list[tuple[int, float, tuple[float, ...]]]
"""Boxes of one image: label, score, box xyxy in pixels of the input; best first."""

MAX_SCORE_ERROR = 2e-3
MAX_SCORE_SHARE = 1e-2
"""Most difference of two scores taken for the same, and as a share of the score, where that is
less: scores of little, too, tell boxes apart."""
MAX_BOX_ERROR = 2e-3
"""Most difference of corners of two boxes taken for the same, in sides of the input."""
MAX_UNMATCHED = 0.02
"""Share of boxes that may have no counterpart: rounding decides about those that overlap by just
the threshold, or score just as much."""


class CheckFailed(ForeignModelError):
    """The segments do not find what the file finds."""


@dataclass(frozen=True)
class Checked:
    """What a check has found."""

    num_images: int
    num_boxes: int
    """Number of boxes that the file finds, at all exits."""
    num_unmatched: int
    """Number of boxes, of the file or of the segments, without a counterpart."""
    num_undecided: int = 0
    """Number of others that are missing in one of both for another that scores as much."""

    def __str__(self) -> str:
        undecided = f", and {self.num_undecided} give way to equals" if self.num_undecided else ""
        return (
            f"on {self.num_images} images, {self.num_boxes} boxes, of which {self.num_unmatched} "
            f"have no counterpart{undecided}"
        )


@dataclass(frozen=True)
class Expected:
    """What a file finds in one image."""

    rows: Rows
    """The answers."""
    candidates: Rows
    """All boxes that they were chosen of, best first."""
    iou_threshold: float = 1.0
    """Overlap beyond which one box of a class puts out another."""

    def near(self, score: float) -> Rows:
        """Return the candidates that score as much or nearly, and all that score more."""
        return [row for row in self.candidates if row[1] >= score - _error(score)]


def compare(
    found: Sequence[Sequence[Rows]], expected: Sequence[Sequence[Expected]], size: Size
) -> Checked:
    """Return how far the boxes of each exit in each image are the same.

    Raises CheckFailed beyond ``MAX_UNMATCHED``.
    """
    num_boxes = num_rows = num_unmatched = num_undecided = 0
    for of_exit, other in zip(found, expected, strict=True):
        for mine, theirs in zip(of_exit, other, strict=True):
            num_boxes += len(theirs.rows)
            num_rows += len(mine) + len(theirs.rows)
            known = theirs.near(mine[-1][1]) if mine else []
            for rows, others in ((mine, theirs.rows), (theirs.rows, mine)):
                missing = _missing(rows, others, max(size))
                wrong = _missing(missing, known, max(size)) if rows is mine else []
                undecided = [
                    row
                    for row in missing
                    if row not in wrong and _gives_way(row, others, theirs.iou_threshold)
                ]
                num_undecided += len(undecided)
                num_unmatched += len(missing) - len(undecided)
    checked = Checked(len(expected[0]), num_boxes, num_unmatched, num_undecided)
    if num_unmatched > MAX_UNMATCHED * max(1, num_rows):
        raise CheckFailed(f"the segments do not find what the file finds: {checked}")
    return checked


def _error(score: float) -> float:
    """Return how much a score may differ from another that is the same but for rounding."""
    return min(MAX_SCORE_ERROR, MAX_SCORE_SHARE * abs(score))


def _missing(rows: Rows, others: Rows, side: int) -> Rows:
    """Return which of ``rows`` are not among ``others``."""
    if not rows or not others:
        return list(rows)
    one, other = (
        np.array([(label, score, *box) for label, score, box in some]) for some in (rows, others)
    )
    there = []
    for row in one:
        limits = np.array([0.0, _error(row[1]), *[MAX_BOX_ERROR * side] * 4])
        there.append(bool((np.abs(other - row) <= limits).all(axis=1).any()))
    return [row for row, is_there in zip(rows, there, strict=True) if not is_there]


def _gives_way(row: tuple[int, float, tuple[float, ...]], others: Rows, threshold: float) -> bool:
    """Return whether ``others`` may lack a box since one of them scores as much.

    That one is of the same class and overlaps it, or it is the last of those that are kept.
    """
    label, score, box = row
    if not others:
        return False
    if abs(score - others[-1][1]) <= _error(score):
        return True
    return any(
        label == other_label
        and other_score >= score - _error(score)
        and iou(box, other_box) > threshold - MAX_BOX_ERROR
        for other_label, other_score, other_box in others
    )


def iou(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the intersection of two boxes over their union; 0 of two that are empty."""
    across = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    down = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other))
    union = areas - across * down
    return across * down / union if union > 0 else 0.0
