"""Losses that every exit is trained on: a class loss on all anchors, a box loss on positive ones.

Anchors are assigned once per image and the assignment is shared by all exits. Labels may be less
than certain, as those of another detector are, and of some places and classes nothing may be known:
that is left out of the class loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from builder.config.recipe import TrainConfig
from builder.modeling.boxes import (
    BACKGROUND,
    box_iou,
    decode_boxes,
    encode_boxes,
    generalized_iou,
    match_anchors,
    pairwise_iou,
)

HUBER_DELTA = 0.1
"""Error where the box loss turns from quadratic to linear, in units of the deltas.

It is that of tensorflow/tpu.
"""


IGNORED_IOU = 0.4
"""Least overlap with an ignored region at which an anchor is not asked about its class."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Everything that is known about one image: G objects, R regions.

    Boxes are xyxy in input pixels.
    """

    boxes: Tensor
    """Boxes of the objects, (G, 4)."""
    labels: Tensor
    """Classes of the objects, (G,) int64."""
    scores: Tensor
    """Certainty of each label, (G,) from 0 to 1."""
    ignored: Tensor
    """Regions where finding one of ``ignored_labels`` is neither right nor wrong, (R, 4)."""
    ignored_labels: Tensor
    """Class of each region, (R,) int64."""
    unlabelled: Tensor
    """Classes of whose objects nothing is known, (U,) int64."""

    def to(self, device: torch.device) -> Truth:
        """Return the truth on a device."""
        return Truth(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """One batch's assignment of anchors to boxes: P positive anchors of B * A."""

    is_class: Tensor
    """Whether an anchor has a box of a class, (B, A, C) bool."""
    ignored: Tensor | None
    """What the class loss leaves out, (B, A, C) bool; None is nothing."""
    rows: Tensor
    """Positive rows of the flattened (B * A) anchors, (P,) int64."""
    labels: Tensor
    """Classes of those rows, (P,) int64."""
    scores: Tensor
    """Certainty of those classes from 0 to 1, (P,)."""
    objects: Tensor
    """Object of the batch that each row answers for, (P,) int64."""
    anchors: Tensor
    """Anchors of those positive rows, (P, 4) xyxy."""
    boxes: Tensor
    """Boxes that the positive anchors answer for, (P, 4) xyxy."""

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Return the fields in order."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def to(self, device: torch.device) -> Targets:
        """Return the targets on a device."""
        moved = (None if value is None else value.to(device) for value in self.tensors())
        return Targets(*moved)


def assign(anchors: Tensor, truths: Sequence[Truth], num_classes: int) -> Targets:
    """Return the targets of a batch of images."""
    is_class = torch.zeros(
        len(truths), len(anchors), num_classes, dtype=torch.bool, device=anchors.device
    )
    rows, boxes, positive_anchors, labels, scores, objects = [], [], [], [], [], []
    num_objects = 0
    for index, truth in enumerate(truths):
        match = match_anchors(anchors, truth.boxes)
        positive = (match != BACKGROUND).nonzero()[:, 0]
        matched = match[positive]
        is_class[index, positive, truth.labels[matched]] = True
        rows.append(positive + index * len(anchors))
        positive_anchors.append(anchors[positive])
        boxes.append(truth.boxes[matched])
        labels.append(truth.labels[matched])
        scores.append(truth.scores[matched])
        objects.append(matched + num_objects)
        num_objects += len(truth.boxes)
    return Targets(
        is_class,
        _ignored(anchors, truths, is_class),
        torch.cat(rows),
        torch.cat(labels),
        torch.cat(scores),
        torch.cat(objects),
        torch.cat(positive_anchors),
        torch.cat(boxes),
    )


def _ignored(anchors: Tensor, truths: Sequence[Truth], is_class: Tensor) -> Tensor | None:
    """Return what the class loss leaves out of one batch, (B, A, C) bool, or None for nothing.

    An object's own class is never among it.
    """
    if not any(len(truth.ignored) or len(truth.unlabelled) for truth in truths):
        return None
    ignored = torch.zeros_like(is_class)
    for index, truth in enumerate(truths):
        if len(truth.ignored):
            row, region = (pairwise_iou(anchors, truth.ignored) >= IGNORED_IOU).nonzero().T
            ignored[index, row, truth.ignored_labels[region]] = True
        ignored[index, :, truth.unlabelled] = True
    return ignored & ~is_class


def focal_loss(logits: Tensor, is_class: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return the focal loss of every element (Lin et al., 2017, equation 5).

    ``-alpha_t (1 - p_t)**gamma log p_t`` where p_t is the probability given to the truth, alpha_t
    is alpha for positives and 1 - alpha for negatives. Float logits, bool targets, same shape.
    """
    margin = torch.where(is_class, logits, -logits)  # p_t = sigmoid(margin)
    weight = torch.where(is_class, alpha, 1 - alpha)
    return -(weight * torch.sigmoid(-margin) ** gamma * F.logsigmoid(margin))


def quality_focal_loss(logits: Tensor, quality: Tensor, gamma: float) -> Tensor:
    """Return the quality focal loss of every element (Li et al., 2020, equation 5).

    From Generalized Focal Loss: ``|q - p|**gamma`` times the cross-entropy between p =
    sigmoid(logit) and q, ``quality``, in 0..1; least, and 0 in its gradient, where p is q. Same
    shape.
    """
    distance = (quality - torch.sigmoid(logits)).abs()
    return distance**gamma * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")


def giou_loss(deltas: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return 1 - GIoU of the decoded deltas and the boxes, (P, 4) pairs -> (P,)."""
    return 1 - generalized_iou(decode_boxes(deltas, anchors), boxes)


def huber_loss(deltas: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return the mean Huber loss of the four deltas, (P, 4) pairs -> (P,)."""
    target = encode_boxes(boxes, anchors)
    return F.huber_loss(deltas, target, delta=HUBER_DELTA, reduction="none").mean(dim=-1)


BOX_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "giou": giou_loss,
    "huber": huber_loss,
}


def _focal(logits: Tensor, deltas: Tensor, targets: Targets, config: TrainConfig) -> Tensor:
    """Return the focal loss, for which every label counts as certain."""
    return focal_loss(logits, targets.is_class, config.focal_alpha, config.focal_gamma)


def _quality_focal(logits: Tensor, deltas: Tensor, targets: Targets, config: TrainConfig) -> Tensor:
    """Return the quality focal loss towards how certain a label is and how well its box fits.

    A positive anchor's quality is how certain the label is, times the IoU of its box as a share of
    the best one's for that object: whose box fits best shall score most, and as much as its label
    is certain (after Feng et al., TOOD, 2021).
    """
    with torch.no_grad():
        fit = box_iou(decode_boxes(deltas, targets.anchors), targets.boxes)  # (P,)
        best = fit.new_zeros(int(targets.objects.max()) + 1 if len(fit) else 0)
        best.scatter_reduce_(0, targets.objects, fit, "amax")
        share = fit / best[targets.objects].clamp(min=1e-6)
        quality = torch.zeros_like(logits)
        quality.flatten(0, 1)[targets.rows, targets.labels] = targets.scores * share
    return quality_focal_loss(logits, quality, config.focal_gamma)


def _soft_focal(logits: Tensor, deltas: Tensor, targets: Targets, config: TrainConfig) -> Tensor:
    """Return the quality focal loss towards how certain a positive anchor's label is."""
    quality = torch.zeros_like(logits)
    quality.flatten(0, 1)[targets.rows, targets.labels] = targets.scores
    return quality_focal_loss(logits, quality, config.focal_gamma)


CLASS_LOSSES: dict[str, Callable[[Tensor, Tensor, Targets, TrainConfig], Tensor]] = {
    "focal": _focal,
    "soft_focal": _soft_focal,
    "quality_focal": _quality_focal,
}
"""Class losses: name -> function of logits, deltas, targets and recipe.

Logits are (B, A, C), as is the result; deltas are those of the positive anchors, (P, 4).
"""


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
    batch that these images are of. A box counts as far as its label is certain.
    """
    positive = deltas.float().flatten(0, 1)[targets.rows]  # (P, 4)
    losses = CLASS_LOSSES[config.class_loss](logits.float(), positive, targets, config)
    if targets.ignored is not None:
        losses = losses.masked_fill(targets.ignored, 0.0)
    boxes = BOX_LOSSES[config.box_loss](positive, targets.anchors, targets.boxes)
    return ExitLoss(losses.sum() / count, (boxes * targets.scores).sum() / count)
