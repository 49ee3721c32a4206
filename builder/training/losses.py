"""Losses that every exit is trained on: focal loss on all anchors, a box loss on the positive ones.

Anchors are assigned once per image and the assignment is shared by all exits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from builder.config.named import TrainConfig
from builder.modeling.boxes import (
    BACKGROUND,
    decode_boxes,
    encode_boxes,
    generalized_iou,
    match_anchors,
)

HUBER_DELTA = 0.1
"""Error where the box loss turns from quadratic to linear, in units of the deltas.

It is that of tensorflow/tpu.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """One batch's assignment of anchors to boxes: P positive anchors of B * A."""

    is_class: Tensor
    """Whether an anchor has a box of a class, (B, A, C) bool."""
    rows: Tensor
    """Positive rows of the flattened (B * A) anchors, (P,) int64."""
    anchors: Tensor
    """Anchors of those positive rows, (P, 4) xyxy."""
    boxes: Tensor
    """Boxes that the positive anchors answer for, (P, 4) xyxy."""


def assign(
    anchors: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor], num_classes: int
) -> Targets:
    """Return the targets of a batch of images, given the (G, 4) boxes and (G,) labels of each."""
    is_class = torch.zeros(
        len(boxes), len(anchors), num_classes, dtype=torch.bool, device=anchors.device
    )
    rows, positive_boxes, positive_anchors = [], [], []
    for index, (image_boxes, image_labels) in enumerate(zip(boxes, labels, strict=True)):
        match = match_anchors(anchors, image_boxes)
        positive = (match != BACKGROUND).nonzero()[:, 0]
        is_class[index, positive, image_labels[match[positive]]] = True
        rows.append(positive + index * len(anchors))
        positive_anchors.append(anchors[positive])
        positive_boxes.append(image_boxes[match[positive]])
    return Targets(
        is_class, torch.cat(rows), torch.cat(positive_anchors), torch.cat(positive_boxes)
    )


def focal_loss(logits: Tensor, is_class: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return the focal loss (Lin et al., 2017, equation 5), summed over all elements.

    ``-alpha_t (1 - p_t)**gamma log p_t`` where p_t is the probability given to the truth, alpha_t
    is alpha for positives and 1 - alpha for negatives. Float logits, bool targets, same shape.
    """
    margin = torch.where(is_class, logits, -logits)  # p_t = sigmoid(margin)
    weight = torch.where(is_class, alpha, 1 - alpha)
    return -(weight * torch.sigmoid(-margin) ** gamma * F.logsigmoid(margin)).sum()


def giou_loss(deltas: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return the sum over (P, 4) pairs of 1 - GIoU of the decoded deltas and the boxes."""
    return (1 - generalized_iou(decode_boxes(deltas, anchors), boxes)).sum()


def huber_loss(deltas: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return the sum over (P, 4) pairs of the mean Huber loss of the four deltas."""
    target = encode_boxes(boxes, anchors)
    return F.huber_loss(deltas, target, delta=HUBER_DELTA, reduction="sum") / 4


BOX_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "giou": giou_loss,
    "huber": huber_loss,
}


@dataclass(frozen=True, slots=True, eq=False)
class ExitLoss:
    """One exit's loss, in its two parts: that of the classes and that of the boxes."""

    classes: Tensor
    boxes: Tensor


def exit_loss(
    logits: Tensor, deltas: Tensor, targets: Targets, config: TrainConfig, count: float
) -> ExitLoss:
    """Return the loss of one exit's logits (B, A, C) and deltas (B, A, 4).

    It is computed in float32 and divided by ``count``, the number of positive anchors in the whole
    batch that these images are of.
    """
    classes = focal_loss(logits.float(), targets.is_class, config.focal_alpha, config.focal_gamma)
    positive = deltas.float().flatten(0, 1)[targets.rows]  # (P, 4)
    boxes = BOX_LOSSES[config.box_loss](positive, targets.anchors, targets.boxes)
    return ExitLoss(classes / count, boxes / count)
