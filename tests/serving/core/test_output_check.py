"""What no sound model gives is found, whichever number it is in; what one gives is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.output_check import BOX_REACH, find_fault
from serving.core.request import Detections

SIDE, NUM_CLASSES, MOST = 320.0, 3, 5


def found(count: int = MOST) -> Detections:
    corners = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
    scores = np.linspace(1.0, 0.1, count, dtype=np.float32)
    return Detections(corners, scores, np.arange(count, dtype=np.int32) % NUM_CLASSES)


def fault(detections: Detections) -> str | None:
    return find_fault(detections, SIDE, NUM_CLASSES, MOST)


@given(
    count=st.integers(0, MOST),
    shift=st.floats(-BOX_REACH / 2, BOX_REACH / 2),
    size=st.floats(0, BOX_REACH / 4),
)
def test_sound_boxes_have_no_fault(count: int, shift: float, size: float) -> None:
    """None at all, of no area, and far beyond the image are all what models give."""
    corner = np.full((count, 2), shift * SIDE, np.float32)
    boxes = np.concatenate([corner, corner + np.float32(size * SIDE)], axis=1)
    sound = found(count)
    assert fault(Detections(boxes, sound.scores, sound.labels)) is None


@pytest.mark.parametrize("row", range(MOST))
@pytest.mark.parametrize("column", range(4))
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e30])
def test_a_coordinate_that_is_none(row: int, column: int, number: float) -> None:
    wrong = found()
    wrong.boxes_xyxy_input[row, column] = number
    assert fault(wrong) == "a box is not near the image"


@pytest.mark.parametrize("row", range(MOST))
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 7.0, -0.5])
def test_a_score_that_is_none(row: int, number: float) -> None:
    wrong = found()
    wrong.scores[row] = number
    assert fault(wrong) == "a score is not in 0..1"


@pytest.mark.parametrize("label", [-1, NUM_CLASSES])
def test_a_label_of_no_class(label: int) -> None:
    wrong = found()
    wrong.labels[2] = label
    assert fault(wrong) == "a label is not that of one of 3 classes"


def test_a_box_that_ends_before_it_begins() -> None:
    wrong = found()
    wrong.boxes_xyxy_input[1, 2] = wrong.boxes_xyxy_input[1, 0] - 1
    assert fault(wrong) == "a box ends before it begins"


def test_more_boxes_than_there_can_be() -> None:
    assert fault(found(MOST + 1)) == "there are 6 boxes, of at most 5"


@pytest.mark.parametrize("part", ["boxes_xyxy_input", "scores", "labels"])
def test_parts_that_do_not_belong_together(part: str) -> None:
    wrong = replace(found(), **{part: getattr(found(MOST - 1), part)})
    assert fault(wrong) == "boxes, scores and labels do not belong together"
