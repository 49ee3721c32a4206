"""The RetinaNet head, shared by all levels and by the exits that it serves.

Convolution weights exist once: for all levels and for every exit. Only the batch normalisations
are separate for each (exit, level), because the statistics of their inputs differ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from builder.modeling.layers import ACTIVATIONS, CONVS

PRIOR_PROBABILITY = 0.01
"""Score that every anchor starts with, so that background does not drown the first steps.

It is that of Lin et al., 2017.
"""

PRIOR_LOGIT = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
"""The logit of that score: bias of a layer that predicts classes, before it is trained."""

PREDICTION_STD = 0.01
"""Standard deviation of a prediction layer's first weights (Lin et al., 2017)."""


class Tower(nn.Module):
    """One tower of a head: convolution, normalisation, activation, repeated; then a prediction."""

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        num_convs: int,
        num_outputs: int,
        num_levels: int,
        num_exits: int,
        conv: str,
        activation: str,
    ) -> None:
        super().__init__()
        self._activation = ACTIVATIONS[activation]
        widths = [in_channels, *[channels] * num_convs]
        self.convs = nn.ModuleList(CONVS[conv](width, channels) for width in widths[:-1])
        self.norms = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(num_convs))
                for _ in range(num_levels)
            )
            for _ in range(num_exits)
        )
        self.predict = CONVS[conv](widths[-1], num_outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if module.groups > 1:  # the first half of a separable one keeps the scale
                    nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                else:
                    nn.init.normal_(module.weight, std=PREDICTION_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, exit_index: int, level_index: int) -> Tensor:
        """Return the (B, H * W, num_outputs) predictions for (B, C, H, W) features.

        Rows are row-major over (y, x).
        """
        for conv, norm in zip(self.convs, self.norms[exit_index][level_index], strict=True):
            x = self._activation(norm(conv(x)))
        return self.predict(x).permute(0, 2, 3, 1).flatten(1, 2)


class RetinaHead(nn.Module):
    """One head, which gives class logits and box deltas for every anchor."""

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        num_convs: int,
        num_anchors: int,
        num_classes: int,
        num_levels: int,
        num_exits: int,
        conv: str,
        activation: str,
    ) -> None:
        super().__init__()
        self._num_classes = num_classes
        self.classes, self.boxes = (
            Tower(
                in_channels=in_channels,
                channels=channels,
                num_convs=num_convs,
                num_outputs=num_anchors * outputs,
                num_levels=num_levels,
                num_exits=num_exits,
                conv=conv,
                activation=activation,
            )
            for outputs in (num_classes, 4)
        )
        last = list(self.classes.predict.modules())[-1]
        nn.init.constant_(last.bias, PRIOR_LOGIT)

    def forward(self, features: list[Tensor], exit: int) -> tuple[Tensor, Tensor]:
        """Return the predictions of the ``exit``-th exit (from 1) of those that this head serves.

        ``features`` has one map for each level. Returns logits (B, A, num_classes) and deltas
        (B, A, 4); the A rows go over levels, finest first, then y, then x, then anchors.
        """
        batch = features[0].shape[0]
        logits, deltas = (
            torch.cat(
                [tower(x, exit - 1, index) for index, x in enumerate(features)], dim=1
            )  # (B, cells, anchors * outputs)
            for tower in (self.classes, self.boxes)
        )
        return logits.reshape(batch, -1, self._num_classes), deltas.reshape(batch, -1, 4)

    def count_parameters(self, exit: int) -> int:
        """Return how many trainable values the ``exit``-th exit uses.

        The other exits' normalisations are not among them.
        """
        modules = [
            module
            for tower in (self.classes, self.boxes)
            for module in (tower.convs, tower.norms[exit - 1], tower.predict)
        ]
        return sum(value.numel() for module in modules for value in module.parameters())
