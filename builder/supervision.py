"""Which exits are trained, how much each counts, and what they learn from one another.

stem -> stack 1 -> stack 2 -> ... -> stack N        exits drawn for this step
           |          |                 |
         head 1     head 2            head N        truth: focal and box loss, weighted by exit
           ^          ^_________________|           distillation: outputs of the deepest exit, and
           |____________________________|           the features that its head takes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from builder.config import TrainConfig, replace
from builder.losses import BOX_LOSSES, ExitLoss, Targets, exit_loss
from builder.modeling.boxes import decode_boxes
from builder.modeling.detector import Detector, RawOutputs

TEACHER_SCORE = 0.3
"""Anchors with a class that the teacher gives more are its positives. Focal loss keeps scores low:
half would leave out much of what the teacher finds."""

EXIT_WEIGHTS: dict[str, Callable[[int], list[float]]] = {
    "uniform": lambda count: [1.0] * count,
    "rising": lambda count: [2 * depth / (count + 1) for depth in range(1, count + 1)],
    "last": lambda count: [count / (count + 1)] * (count - 1) + [2 * count / (count + 1)],
}
"""Name -> loss weight of each of so many exits, 1 on average: all alike, in proportion to depth,
and the last twice as much as any other."""


def _deepest(outputs: Mapping[int, RawOutputs]) -> RawOutputs:
    return outputs[max(outputs)]


def _ensemble(outputs: Mapping[int, RawOutputs]) -> RawOutputs:
    logits, deltas = zip(*outputs.values(), strict=True)
    return torch.stack(logits).mean(dim=0), torch.stack(deltas).mean(dim=0)


TEACHERS: dict[str, Callable[[Mapping[int, RawOutputs]], RawOutputs]] = {
    "deepest": _deepest,
    "ensemble": _ensemble,
}
"""Name -> what exits learn from: the deepest exit of the step, or the mean of all, which is nearer
to what a shallow one can do."""


def draw_exits(num_exits: int, count: int | None, random: np.random.Generator) -> list[int]:
    """The exits to train in one step: all, or the last and ``count - 1`` others, ascending."""
    if count is None or count >= num_exits:
        return list(range(1, num_exits + 1))
    others = random.choice(np.arange(1, num_exits), size=count - 1, replace=False)
    return [*sorted(others.tolist()), num_exits]


def in_force(recipe: TrainConfig, progress: float) -> TrainConfig:
    """What counts of ``recipe`` after a share ``progress`` of its steps: before
    ``distillation_start`` the truth alone."""
    if progress >= recipe.distillation_start:
        return recipe
    return replace(recipe, distillation_weight=0.0, feature_distillation_weight=0.0)


class Supervised(nn.Module):
    """A detector as it is trained: ``forward`` gives the raw outputs of the exits of one step, and
    the features that their heads take.

    In gradient equilibrium (Li et al., Improved Techniques for Training Adaptive Deep Networks,
    2019), exit i of k sends back 1 / (k - i + 1) of its gradient, and what comes from all deeper
    ones passes it as (k - i) / (k - i + 1): whatever the depth, the shares add up to one.
    """

    def __init__(self, detector: Detector, gradient_equilibrium: bool) -> None:
        super().__init__()
        self.detector = detector
        self._gradient_equilibrium = gradient_equilibrium

    def forward(
        self, images: Tensor, exits: Sequence[int]
    ) -> tuple[dict[int, RawOutputs], dict[int, list[Tensor]]]:
        """Exits ascending. Images as ``Detector.stem`` takes them."""
        features = self.detector.stem(images)
        outputs: dict[int, RawOutputs] = {}
        features_of: dict[int, list[Tensor]] = {}
        for depth in range(1, exits[-1] + 1):
            features = self.detector.stack(depth, features)
            if depth in exits:
                of_head, remaining = features, len(exits) - len(outputs)
                if self._gradient_equilibrium:
                    of_head = [scale_gradient(x, 1 / remaining) for x in features]
                    features = [scale_gradient(x, 1 - 1 / remaining) for x in features]
                features_of[depth] = of_head
                outputs[depth] = self.detector.head(depth, of_head)
        return outputs, features_of


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * context.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """``x`` itself; the gradient that goes back through it is multiplied by ``factor``."""
    scaled: Tensor = _ScaleGradient.apply(x, factor)
    return scaled


def distillation_loss(
    student: RawOutputs, teacher: RawOutputs, anchors: Tensor, config: TrainConfig, count: float
) -> ExitLoss:
    """How far one exit's outputs are from another's, which are taken as they are; divided by
    ``count``.

    Classes at all anchors by the quality focal loss (Li et al., Generalized Focal Loss, 2020,
    equation 3): cross entropy to the teacher's probability q, times ``|q - p|**gamma``. Boxes at
    the teacher's positives by the recipe's box loss.
    """
    logits, deltas = (tensor.float() for tensor in student)
    teacher_logits, teacher_deltas = (tensor.detach().float() for tensor in teacher)
    target = torch.sigmoid(teacher_logits)  # (B, A, C)
    distance = (target - torch.sigmoid(logits)).abs() ** config.focal_gamma
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    image, row = (target.amax(dim=2) > TEACHER_SCORE).nonzero(as_tuple=True)  # (P,) each
    boxes = decode_boxes(teacher_deltas[image, row], anchors[row])
    of_boxes = BOX_LOSSES[config.box_loss](deltas[image, row], anchors[row], boxes)
    return ExitLoss((distance * entropy).sum() / count, of_boxes / count)


def feature_distillation_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """How far one exit's features (B, C, H, W) of each level are from another's, which are taken
    as they are: 0 to 2, the mean over levels.

    Half the mean squared difference, as from the deepest exit in Be Your Own Teacher (Zhang et al.,
    2019), of channels that have mean 0 and variance 1 over batch and positions, as in PKD (Cao et
    al., 2022): one minus Pearson's correlation, whatever the scale of a channel or a level.
    """
    distances = [
        F.mse_loss(_standardised(of_student), _standardised(of_teacher.detach())) / 2
        for of_student, of_teacher in zip(student, teacher, strict=True)
    ]
    return torch.stack(distances).mean()


def _standardised(x: Tensor) -> Tensor:
    return F.batch_norm(x.float(), None, None, training=True)


def step_loss(
    outputs: Mapping[int, RawOutputs],
    features: Mapping[int, Sequence[Tensor]],
    targets: Targets,
    anchors: Tensor,
    config: TrainConfig,
    exit_weights: Sequence[float],
    count: float,
    share: float,
) -> tuple[Tensor, dict[int, ExitLoss]]:
    """What to minimise, given outputs and features of the exits of one step, and the parts of it
    that compare an exit with the truth. ``exit_weights[k - 1]`` belongs to exit k. What is summed
    over anchors is divided by ``count``; what is a mean over images is multiplied by ``share``,
    that of these images in the whole batch."""
    losses = {
        depth: exit_loss(logits, deltas, targets, config, count)
        for depth, (logits, deltas) in outputs.items()
    }
    terms = [exit_weights[depth - 1] * _sum(loss, config) for depth, loss in losses.items()]
    if config.distillation_weight:
        teacher = TEACHERS[config.teacher](outputs)
        terms.extend(
            config.distillation_weight
            * exit_weights[depth - 1]
            * _sum(distillation_loss(of_exit, teacher, anchors, config, count), config)
            for depth, of_exit in outputs.items()
            if of_exit is not teacher
        )
    if config.feature_distillation_weight:
        deepest = max(features)
        terms.extend(
            config.feature_distillation_weight
            * share
            * exit_weights[depth - 1]
            * feature_distillation_loss(of_features, features[deepest])
            for depth, of_features in features.items()
            if depth != deepest
        )
    return torch.stack(terms).sum(), losses


def _sum(loss: ExitLoss, config: TrainConfig) -> Tensor:
    return loss.classes + config.box_weight * loss.boxes
