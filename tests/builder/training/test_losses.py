"""Losses against formulas written out, and their reaction to better predictions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from builder.config.recipe import TrainConfig
from builder.modeling.boxes import encode_boxes
from builder.training.losses import (
    BOX_LOSSES,
    CLASS_LOSSES,
    Targets,
    Truth,
    assign,
    exit_loss,
    focal_loss,
    giou_loss,
    huber_loss,
    quality_focal_loss,
)

CONFIG = TrainConfig(dataset="bccd")
ANCHORS = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [40.0, 0.0, 80.0, 40.0]])


def truth(
    boxes: list[list[float]],
    labels: list[int],
    scores: list[float] | None = None,
    ignored: list[list[float]] | None = None,
    unlabelled: list[int] | None = None,
) -> Truth:
    """Ignored regions are of class 0."""
    return Truth(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor([1.0] * len(labels) if scores is None else scores),
        torch.tensor(ignored or []).reshape(-1, 4),
        torch.zeros(len(ignored or []), dtype=torch.int64),
        torch.tensor(unlabelled or [], dtype=torch.int64),
    )


def targets() -> Targets:
    """Image 0: one box of class 1 at anchor 0. Image 1: nothing."""
    return assign(ANCHORS, [truth([[0.0, 0.0, 10.0, 12.0]], [1]), truth([], [])], 2)


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
    got = focal_loss(torch.tensor([logit]), torch.tensor([positive]), 0.25, 1.5).sum()
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_stays_finite() -> None:
    logits = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([True, False]), 0.25, 1.5).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_box_losses_by_hand() -> None:
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    boxes = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    none = torch.zeros(1, 4)
    # IoU .5, hull = union
    assert giou_loss(none, anchors, boxes).sum().item() == pytest.approx(0.5)
    # dy = .5 and dh = log 2, both beyond delta .1
    expected = sum(0.1 * (error - 0.05) for error in (0.5, math.log(2))) / 4
    assert huber_loss(none, anchors, boxes).sum().item() == pytest.approx(expected)


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_perfect_boxes_cost_nothing(name: str) -> None:
    boxes = torch.tensor([[3.0, 1.0, 12.0, 9.0]])
    anchors = ANCHORS[:1]
    loss = BOX_LOSSES[name](encode_boxes(boxes, anchors), anchors, boxes).sum()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("box_loss", BOX_LOSSES)
def test_descent_reaches_the_truth(box_loss: str) -> None:
    torch.manual_seed(0)
    logits = torch.zeros(2, 3, 2, requires_grad=True)
    deltas = torch.zeros(2, 3, 4, requires_grad=True)
    optimizer = torch.optim.Adam([logits, deltas], lr=0.05)
    config, wanted = replace(CONFIG, box_loss=box_loss), targets()
    for _ in range(300):
        parts = exit_loss(logits, deltas, wanted, config, len(wanted.rows))
        optimizer.zero_grad()
        (parts.classes + parts.boxes).backward()
        optimizer.step()
    assert ((logits > 0) == wanted.is_class).all()
    expected = encode_boxes(wanted.boxes, wanted.anchors)
    torch.testing.assert_close(deltas[0, :1], expected, atol=0.02, rtol=0.0)


def test_images_without_boxes() -> None:
    empty = assign(ANCHORS, [truth([], [])], num_classes=2)
    parts = exit_loss(torch.zeros(1, 3, 2), torch.zeros(1, 3, 4), empty, CONFIG, 1)
    assert parts.boxes.item() == 0
    assert parts.classes.item() > 0


@pytest.mark.parametrize(("logit", "quality"), [(0.0, 0.7), (2.0, 0.0), (-1.0, 1.0)])
def test_quality_focal_loss_is_its_formula(logit: float, quality: float) -> None:
    p = 1 / (1 + math.exp(-logit))
    entropy = -(quality * math.log(p) + (1 - quality) * math.log(1 - p))
    got = quality_focal_loss(torch.tensor([logit]), torch.tensor([quality]), 2.0)
    assert got.item() == pytest.approx(abs(quality - p) ** 2 * entropy, rel=1e-5)


def test_the_best_box_is_to_score_as_much_as_its_label_is_certain() -> None:
    """Boxes that overlap an object by .5 and .9, a label of .8."""
    anchors = torch.tensor(
        [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 18.0], [40.0, 0.0, 80.0, 40.0]]
    )
    wanted = assign(anchors, [truth([], []), truth([[0.0, 0.0, 10.0, 20.0]], [1], [0.8])], 2)
    assert wanted.rows.tolist() == [3, 4]
    logits = torch.zeros(2, 3, 2, requires_grad=True)
    config = replace(CONFIG, class_loss="quality_focal", focal_gamma=1.0)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        exit_loss(logits, torch.zeros(2, 3, 4), wanted, config, 1).classes.backward()
        optimizer.step()
    scores = logits.sigmoid().flatten(0, 1)
    assert scores[3, 1].item() == pytest.approx(0.8 * 0.5 / 0.9, abs=0.01)
    assert scores[4, 1].item() == pytest.approx(0.8, abs=0.01)
    assert scores.sum().item() == pytest.approx(1.245, abs=0.4)


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_what_is_unknown_does_not_count(name: str) -> None:
    region = [20.0, 20.0, 30.0, 28.0]  # most of anchor 1
    known = truth([[0.0, 0.0, 10.0, 10.0]], [1])
    unknown = truth([[0.0, 0.0, 10.0, 10.0]], [1], ignored=[region], unlabelled=[2])
    logits = torch.zeros(1, 3, 3, requires_grad=True)
    config, gradients = replace(CONFIG, class_loss=name), []
    for of_image in (known, unknown):
        loss = exit_loss(logits, torch.zeros(1, 3, 4), assign(ANCHORS, [of_image], 3), config, 1)
        gradients.append(torch.autograd.grad(loss.classes, logits)[0][0])
    same = gradients[0] == gradients[1]
    assert (gradients[1] == 0).tolist() == (~same).tolist()
    # Class 2 nowhere, class 0 where the region is.
    assert (~same).tolist() == [[False, False, True], [True, False, True], [False, False, True]]


def test_an_object_counts_within_an_ignored_region() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    found = assign(ANCHORS, [truth([box], [0], ignored=[box])], 2)
    assert found.ignored is not None
    assert not found.ignored.any()


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_a_box_counts_as_far_as_its_label_is_certain(name: str) -> None:
    config = replace(CONFIG, box_loss=name)
    boxes = [
        exit_loss(
            torch.zeros(1, 3, 2),
            torch.zeros(1, 3, 4),
            assign(ANCHORS, [truth([[0.0, 0.0, 10.0, 12.0]], [1], [score])], 2),
            config,
            1,
        ).boxes.item()
        for score in (1.0, 0.25)
    ]
    assert boxes[1] == pytest.approx(boxes[0] / 4)
