"""Optimizers, schedules of the learning rate, and the moving average of weights."""

from __future__ import annotations

import copy
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from builder.config.recipe import TrainConfig

STEP_FACTOR = 0.1
"""Factor by which the step schedule multiplies the learning rate at each milestone."""


def _cosine(progress: float, _: float, config: TrainConfig) -> float:
    """Return the share of the peak, half a cosine down to the final share."""
    floor = config.final_learning_rate_ratio
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def _step(_: float, epoch: float, config: TrainConfig) -> float:
    return STEP_FACTOR ** bisect_right(config.milestones, epoch)


SCHEDULES: dict[str, Callable[[float, float, TrainConfig], float]] = {
    "cosine": _cosine,
    "step": _step,
}
"""Learning rate schedules: name -> function that returns the share of the peak.

It takes the progress after the warm-up in 0..1, the epoch with its fraction, and the recipe.
"""


def learning_rate_at(step: int, num_steps: int, config: TrainConfig) -> float:
    """Return the learning rate of ``step``: linear warm-up, then the recipe's schedule."""
    if step < config.warmup_steps:
        start, progress = config.warmup_ratio, (step + 1) / config.warmup_steps
        return config.learning_rate * (start + (1 - start) * progress)
    progress = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    share = SCHEDULES[config.schedule](min(1.0, progress), step * config.epochs / num_steps, config)
    return config.learning_rate * share


def parameter_groups(
    model: nn.Module, weight_decay: float, slow: nn.Module | None = None, ratio: float = 1.0
) -> list[dict[str, Any]]:
    """Return the optimizer's groups of the parameters that are trained.

    Convolution kernels decay; biases and normalisation scales do not. Then the same of the part
    ``slow``, if its learning rate is another ``ratio``, which every group has in its ``ratio``.
    """
    of_slow = {id(value) for value in slow.parameters()} if slow and ratio != 1 else set()
    trained = [value for value in model.parameters() if value.requires_grad]
    groups = []
    for is_slow, share in ((False, 1.0), (True, ratio)):
        values = [value for value in trained if (id(value) in of_slow) == is_slow]
        for decay, is_kernel in ((weight_decay, True), (0.0, False)):
            of_group = [value for value in values if (value.dim() > 1) == is_kernel]
            if of_group:
                groups.append({"params": of_group, "weight_decay": decay, "ratio": share})
    return groups


Groups = list[dict[str, Any]]

OPTIMIZERS: dict[str, Callable[[Groups, TrainConfig], torch.optim.Optimizer]] = {
    "adamw": lambda groups, config: torch.optim.AdamW(groups, lr=config.learning_rate, fused=True),
    "sgd": lambda groups, config: torch.optim.SGD(
        groups, lr=config.learning_rate, momentum=config.momentum
    ),
}


def make_optimizer(
    model: nn.Module, config: TrainConfig, backbone: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Return the optimizer that the recipe names, for what is trained of ``model``.

    Its ``backbone`` learns at the share of the learning rate that the recipe states.
    """
    groups = parameter_groups(
        model, config.weight_decay, backbone, config.backbone_learning_rate_ratio
    )
    return OPTIMIZERS[config.optimizer](groups, config)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group to its share of ``rate``.

    Groups in runs of earlier versions have no share: they get all of it.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("ratio", 1.0)


class MovingAverage:
    """An exponential moving average of a model's weights and normalisation statistics.

    The decay grows with the number of updates as (1 + n) / (10 + n) up to its value, so that the
    first weights do not linger.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model: Any = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay
        self.num_updates = 0
        # Tensors of a module stay the same objects, and to list them takes longer than to average.
        pairs = list(
            zip(self.model.state_dict().values(), model.state_dict().values(), strict=True)
        )
        self._floats = _columns([pair for pair in pairs if pair[1].is_floating_point()])
        self._others = _columns([pair for pair in pairs if not pair[1].is_floating_point()])

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the model's values; integer buffers are copied."""
        decay = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        averages, values = self._floats
        torch._foreach_lerp_(averages, values, 1 - decay)
        averages, values = self._others
        if averages:
            torch._foreach_copy_(averages, values)


def _columns(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [average for average, _ in pairs], [value for _, value in pairs]
