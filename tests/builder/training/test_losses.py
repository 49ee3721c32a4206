"""Losses against formulas written out, and their reaction to better predictions."""

from __future__ import annotations

import math

import pytest
import torch

from builder.config.named import TrainConfig, replace
from builder.modeling.boxes import encode_boxes
from builder.training.losses import (
    BOX_LOSSES,
    Targets,
    assign,
    exit_loss,
    focal_loss,
    giou_loss,
    huber_loss,
)

CONFIG = TrainConfig(dataset="bccd")
ANCHORS = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [40.0, 0.0, 80.0, 40.0]])


def targets() -> Targets:
    """Image 0: one box of class 1 at anchor 0. Image 1: nothing."""
    boxes = [torch.tensor([[0.0, 0.0, 10.0, 12.0]]), torch.zeros(0, 4)]
    labels = [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)]
    return assign(ANCHORS, boxes, labels, 2)


def test_assignment_of_a_batch() -> None:
    found = targets()
    assert found.is_class.nonzero().tolist() == [[0, 0, 1]]
    assert found.rows.tolist() == [0]
    assert found.anchors.tolist() == [[0, 0, 10, 10]]
    assert found.boxes.tolist() == [[0, 0, 10, 12]]


@pytest.mark.parametrize("logit", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize("positive", [True, False])
def test_focal_loss_is_its_formula(logit: float, positive: bool) -> None:
    p = 1 / (1 + math.exp(-logit))
    truth, alpha = (p, 0.25) if positive else (1 - p, 0.75)
    expected = -alpha * (1 - truth) ** 1.5 * math.log(truth)
    got = focal_loss(torch.tensor([logit]), torch.tensor([positive]), 0.25, 1.5)
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_stays_finite() -> None:
    logits = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([True, False]), 0.25, 1.5)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_box_losses_by_hand() -> None:
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    boxes = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    none = torch.zeros(1, 4)
    # IoU .5, hull = union
    assert giou_loss(none, anchors, boxes).item() == pytest.approx(0.5)
    # dy = .5 and dh = log 2, both beyond delta .1
    expected = sum(0.1 * (error - 0.05) for error in (0.5, math.log(2))) / 4
    assert huber_loss(none, anchors, boxes).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_perfect_boxes_cost_nothing(name: str) -> None:
    boxes = torch.tensor([[3.0, 1.0, 12.0, 9.0]])
    anchors = ANCHORS[:1]
    loss = BOX_LOSSES[name](encode_boxes(boxes, anchors), anchors, boxes)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("box_loss", BOX_LOSSES)
def test_descent_reaches_the_truth(box_loss: str) -> None:
    torch.manual_seed(0)
    logits = torch.zeros(2, 3, 2, requires_grad=True)
    deltas = torch.zeros(2, 3, 4, requires_grad=True)
    optimizer = torch.optim.Adam([logits, deltas], lr=0.05)
    config, truth = replace(CONFIG, box_loss=box_loss), targets()
    for _ in range(300):
        parts = exit_loss(logits, deltas, truth, config, len(truth.rows))
        optimizer.zero_grad()
        (parts.classes + parts.boxes).backward()
        optimizer.step()
    assert ((logits > 0) == truth.is_class).all()
    expected = encode_boxes(truth.boxes, truth.anchors)
    torch.testing.assert_close(deltas[0, :1], expected, atol=0.02, rtol=0.0)


def test_images_without_boxes() -> None:
    empty = assign(ANCHORS, [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)], num_classes=2)
    parts = exit_loss(torch.zeros(1, 3, 2), torch.zeros(1, 3, 4), empty, CONFIG, 1)
    assert parts.boxes.item() == 0
    assert parts.classes.item() > 0
