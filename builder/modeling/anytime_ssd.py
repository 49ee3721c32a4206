"""SSDLite with exits: NAS-FPN stacks that refine what its heads found.

    image -> SSDLite -> P3..P7, logits, deltas --stack(1)--> the same --stack(2)--> ...
                                                   |                      |
                                                head(1)                head(2)

Features are the pyramid and the raw outputs side by side, and a stack adds to both: a pyramid of
its own to the maps, and what it predicts from them to logits and deltas. Those predictions begin as
nothing, so every exit starts as accurate as the detector that it is built on, and training can only
add. A head has nothing left to do but to decode and suppress.

Why so. In a detector of this size the heads are a fifth of all multiply-accumulates: run once, in
the stem, they are paid once however many exits answer, in training as in serving. A stack with its
predictions costs some twentieth of the whole. The first exit may come before any stack
(``plain_exit``): fused, it costs what SSDLite does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from builder.config.detector import DetectorConfig
from builder.modeling.exits import DetectorWithExits, RawOutputs
from builder.modeling.layers import ACTIVATIONS
from builder.modeling.pyramid import Pyramid, pool
from builder.modeling.ssdlite import SSDLite, anchors_per_cell, delta_scale, grids, make_anchors

OUTPUTS = ("logits", "deltas")
"""Names of the features that follow the maps of the pyramid: the raw outputs."""


class Refinement(nn.Module):
    """Layers that predict what a stack adds to the logits and deltas of one map.

    Untrained, they add nothing.
    """

    def __init__(self, channels: int, num_anchors: int, num_classes: int, activation: str) -> None:
        super().__init__()
        self._activation = ACTIVATIONS[activation]
        self._num_outputs = num_classes + 4
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        nn.init.kaiming_normal_(self.depthwise.weight, nonlinearity="linear")
        self.bn = nn.BatchNorm2d(channels)
        self.predict = nn.Conv2d(channels, num_anchors * self._num_outputs, 1)
        nn.init.zeros_(self.predict.weight)
        nn.init.zeros_(self.predict.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, H * W * anchors, num_classes + 4), classes first, for a map (B, C, H, W)."""
        x = self._activation(self.bn(self.depthwise(self._activation(x))))
        return self.predict(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self._num_outputs)


class Stack(nn.Module):
    """A pyramid, and the layers that refine logits and deltas by it.

    Deltas are in the units of the heads that they refine, or an optimizer's step would move boxes
    ten times as far as theirs.
    """

    delta_scale: Tensor

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self._num_levels, self._num_classes = len(config.levels), len(config.classes)
        self.pyramid = Pyramid(
            config.pyramid,
            channels=config.neck_channels,
            conv=config.conv,
            flavour=config.flavour,
            activation=config.activation,
        )
        self.refinements = nn.ModuleList(
            Refinement(config.neck_channels, count, self._num_classes, config.activation)
            for count in anchors_per_cell()
        )
        self.register_buffer("delta_scale", delta_scale(), persistent=False)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return maps, logits and deltas, refined."""
        maps, (logits, deltas) = features[: self._num_levels], features[self._num_levels :]
        maps = [x + y for x, y in zip(maps, self.pyramid(maps), strict=True)]
        # Heads begin at the second level, and go on behind the last.
        headed = maps[1:]
        while len(headed) < len(self.refinements):
            headed.append(pool(headed[-1], 1))
        added = torch.cat(
            [refine(x) for refine, x in zip(self.refinements, headed, strict=True)], dim=1
        )  # (B, A, num_classes + 4)
        return [
            *maps,
            logits + added[..., : self._num_classes],
            deltas + added[..., self._num_classes :] * self.delta_scale,
        ]


class AnytimeSSD(DetectorWithExits):
    """SSDLite with refining stacks, an anytime detector with the same methods as ``Detector``.

    Exits count from 1.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__(config)
        self.backbone = SSDLite(len(config.classes))
        channels = (self.backbone.finest_channels, *self.backbone.channels)
        # Without stacks nobody reads the maps.
        self._levels = config.levels if config.num_stacks else ()
        self.neck_input = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, config.neck_channels, 1, bias=False),
                nn.BatchNorm2d(config.neck_channels),
            )
            for width, _ in zip(channels, self._levels, strict=False)
        )
        for module in self.neck_input.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        self.stacks = nn.ModuleList(Stack(config) for _ in range(config.num_stacks))
        self.register_buffer("anchors", self.anchors_at(config.input_size), persistent=False)

    def anchors_at(self, input_size: tuple[int, int]) -> Tensor:
        """Return the (A, 4) anchors of inputs of (height, width), on the CPU."""
        return torch.from_numpy(make_anchors(input_size))

    def backbone_maps(self, images: Tensor) -> list[Tensor]:
        """Return maps, logits and deltas of SSDLite for (B, H, W, 3) uint8 RGB images."""
        finest, maps = self.backbone.features(images)
        return [finest, *maps, *self.backbone.predict(maps)]

    def from_backbone(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the features of depth 0 for what SSDLite gives: maps, logits, deltas."""
        pairs = zip(self.neck_input, maps, strict=False)
        return [*(lateral(x) for lateral, x in pairs), *maps[-len(OUTPUTS) :]]

    def head(self, depth: int, features: list[Tensor]) -> RawOutputs:
        """Return the raw outputs of exit ``depth``, which are among its features."""
        logits, deltas = features[-2:]
        return logits, deltas

    def feature_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name -> shape of one image's features, as they cross from segment to segment."""
        config, num_anchors = self.config, len(self.anchors)
        maps = {
            f"p{level}": (config.neck_channels, *size)
            for level, size in zip(self._levels, config.feature_sizes, strict=False)
        }
        widths = zip(OUTPUTS, (len(config.classes), 4), strict=True)
        return {**maps, **{name: (num_anchors, width) for name, width in widths}}

    def anchors_per_level(self) -> tuple[int, ...]:
        """Return the number of rows of ``anchors`` that belong to each map with a head."""
        cells = [height * width for height, width in grids(self.config.input_size)]
        return tuple(a * b for a, b in zip(cells, anchors_per_cell(), strict=True))

    def head_parameters(self, depth: int) -> int:
        """Return the number of trainable values of the head of exit ``depth``: it has none."""
        return 0
