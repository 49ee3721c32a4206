"""Box coding, overlap and matching."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builder.modeling.boxes import (
    BACKGROUND,
    MAX_LOG_SCALE,
    decode_boxes,
    encode_boxes,
    generalized_iou,
    match_anchors,
    pairwise_iou,
)
from tests.properties import examples


def random_boxes(seed: int, count: int, size: float = 100.0) -> torch.Tensor:
    """(count, 4) valid boxes with sides of at least 1."""
    random = np.random.default_rng(seed)
    corner = random.uniform(0, size, (count, 2))
    sides = random.uniform(1, size, (count, 2))
    return torch.from_numpy(np.concatenate([corner, corner + sides], axis=1)).float()


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 20))
@examples(50)
def test_decoding_inverts_encoding(seed: int, count: int) -> None:
    boxes, anchors = random_boxes(seed, count), random_boxes(seed + 1, count, size=50)
    # Size ratios beyond the clamp cannot come back.
    decoded = decode_boxes(encode_boxes(boxes, anchors), anchors)
    fits = (encode_boxes(boxes, anchors)[:, 2:] < MAX_LOG_SCALE).all(dim=1)
    torch.testing.assert_close(decoded[fits], boxes[fits], rtol=1e-4, atol=1e-3)


def test_deltas_worked_out_by_hand() -> None:
    anchor = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    box = torch.tensor([[5.0, 10.0, 25.0, 20.0]])  # centre (15, 15), 20 by 10
    expected = torch.tensor([[1.0, 0.25, math.log(2), -math.log(2)]])
    torch.testing.assert_close(encode_boxes(box, anchor), expected)


def test_decoding_stays_finite() -> None:
    anchor = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    decoded = decode_boxes(torch.tensor([[0.0, 0.0, 1e4, 1e4]]), anchor)
    torch.testing.assert_close(decoded, torch.tensor([[-492.0, -492.0, 508.0, 508.0]]))


def test_iou_table() -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    b = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [8.0, 8.0, 9.0, 9.0]])
    expected = torch.tensor([[1.0, 1 / 3, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(pairwise_iou(a, b), expected)


def test_generalized_iou_table() -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
    b = torch.tensor([[0.0, 0.0, 2.0, 2.0], [3.0, 0.0, 4.0, 1.0]])
    # Apart: union 2 in a hull of 4.
    torch.testing.assert_close(generalized_iou(a, b), torch.tensor([1.0, -0.5]))


def test_matching() -> None:
    anchors = torch.tensor(
        [
            [0.0, 0.0, 10.0, 10.0],  # box 0 exactly
            [0.0, 0.0, 10.0, 5.0],  # IoU .5 with box 0: positive
            [0.0, 0.0, 10.0, 4.9],  # just below
            [50.0, 50.0, 54.0, 54.0],  # the best there is for box 1, however poor
            [80.0, 80.0, 90.0, 90.0],
        ]
    )
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 70.0, 70.0]])
    assert match_anchors(anchors, boxes).tolist() == [0, 0, BACKGROUND, 1, BACKGROUND]


def test_matching_without_boxes() -> None:
    assert match_anchors(random_boxes(0, 3), torch.zeros(0, 4)).tolist() == [BACKGROUND] * 3


@pytest.mark.parametrize("seed", range(5))
def test_every_box_is_answered_for(seed: int) -> None:
    anchors, boxes = random_boxes(seed, 200), random_boxes(seed + 100, 8)
    match = match_anchors(anchors, boxes)
    wanted = pairwise_iou(anchors, boxes).argmax(dim=0)
    if len(set(wanted.tolist())) == len(boxes):
        assert set(range(len(boxes))) <= set(match.tolist())
