from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.agreement import compare
from serving.core.request import Detections

BOX = (10.0, 10.0, 30.0, 30.0)
NEAR = (11.0, 10.0, 31.0, 30.0)
FAR = (100.0, 100.0, 120.0, 120.0)


def found(*rows: tuple[tuple[float, ...], float, int]) -> Detections:
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int32),
    )


def test_the_same_answer_agrees_with_itself() -> None:
    answer = found((BOX, 0.9, 1), (FAR, 0.5, 0))
    agreement = compare(answer, answer, 0.3)
    assert agreement.num_unmatched == (0, 0)
    assert agreement.score_differences == (0.0, 0.0)


def test_boxes_are_matched_by_class_and_overlap() -> None:
    agreement = compare(found((BOX, 0.9, 1), (FAR, 0.8, 1)), found((NEAR, 0.7, 1)), 0.3)
    assert agreement.num_unmatched == (1, 0)
    assert agreement.score_differences == pytest.approx((0.2,))
    agreement = compare(found((BOX, 0.9, 1)), found((BOX, 0.9, 2)), 0.3)
    assert (agreement.num_matched, agreement.num_unmatched) == (0, (1, 1))


def test_boxes_that_just_overlap_enough_are_of_one_object() -> None:
    half = (BOX[0], BOX[1], BOX[2], (BOX[1] + BOX[3]) / 2)
    assert compare(found((BOX, 0.9, 1)), found((half, 0.9, 1)), 0.3).num_matched == 1
    less = (*half[:3], half[3] - 0.1)
    assert compare(found((BOX, 0.9, 1)), found((less, 0.9, 1)), 0.3).num_matched == 0


def test_a_box_is_matched_once_by_the_best() -> None:
    agreement = compare(found((NEAR, 0.5, 1), (BOX, 0.9, 1)), found((BOX, 0.8, 1)), 0.3)
    assert agreement.num_unmatched == (1, 0)
    assert agreement.score_differences == pytest.approx((0.1,))


def test_guesses_below_the_least_score_do_not_count() -> None:
    assert compare(found((BOX, 0.2, 1)), found((FAR, 0.1, 1)), 0.3).num_unmatched == (0, 0)
    slipped = compare(found((BOX, 0.31, 1)), found((BOX, 0.29, 1)), 0.3)
    assert slipped.num_unmatched == (0, 0)
    assert slipped.score_differences == pytest.approx((0.02,))


def test_nothing_agrees_with_nothing() -> None:
    assert compare(found(), found(), 0.3).num_matched == 0
    assert compare(found(), found((BOX, 0.9, 1)), 0.3).num_unmatched == (0, 1)


def answers() -> st.SearchStrategy[Detections]:
    corner = st.integers(0, 4).map(float)
    row = st.tuples(
        st.tuples(corner, corner).map(lambda c: (c[0], c[1], c[0] + 3.0, c[1] + 3.0)),
        st.sampled_from((0.1, 0.4, 0.9)),
        st.integers(0, 1),
    )
    return st.lists(row, max_size=5).map(lambda rows: found(*rows))


@given(answers(), answers())
def test_every_box_that_counts_is_matched_or_not(one: Detections, other: Detections) -> None:
    agreement = compare(one, other, 0.3)
    for index, answer in enumerate((one, other)):
        counting = int((answer.scores >= 0.3).sum())
        assert agreement.num_unmatched[index] <= counting
        assert counting <= agreement.num_unmatched[index] + agreement.num_matched
