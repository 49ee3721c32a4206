"""The detector: a stem, a neck cut into N parts, and a head after each of them.

    stem(images) -> P3..P7 --stack(1)--> P3..P7 --stack(2)--> ... --stack(N)--> P3..P7
                                           |                                      |
                                        head(1)                                head(N)

These three methods are the only places where the model may be cut. A part is one pyramid, or as
many as the configuration puts between two exits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from builder.config.detector import DetectorConfig
from builder.modeling.anchors import anchors_per_level, make_anchors
from builder.modeling.backbones import make_backbone
from builder.modeling.exits import DetectorWithExits, RawOutputs
from builder.modeling.heads import RetinaHead
from builder.modeling.pyramid import Pyramid, PyramidInput

PIXEL_MEAN = (123.675, 116.28, 103.53)
"""Mean of ImageNet's pixels, RGB, 0..255: what published backbones were trained with."""

PIXEL_STD = (58.395, 57.12, 57.375)
"""Standard deviation of ImageNet's pixels, RGB, 0..255."""


def _make_head(
    config: DetectorConfig, *, channels: int, num_convs: int, conv: str, num_exits: int
) -> RetinaHead:
    return RetinaHead(
        in_channels=config.neck_channels,
        channels=channels,
        num_convs=num_convs,
        num_anchors=config.anchors_per_location,
        num_classes=len(config.classes),
        num_levels=len(config.levels),
        num_exits=num_exits,
        conv=conv,
        activation=config.activation,
    )


class Detector(DetectorWithExits):
    """A deep-supervised RetinaNet, an anytime detector whose exits are numbered from 1."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__(config)
        self.backbone = make_backbone(
            config.backbone, config.backbone_width, config.backbone_layers
        )
        graph, channels = config.pyramid, config.neck_channels
        self.neck_input = PyramidInput(
            self.backbone.outputs, graph.levels, channels=channels, flavour=config.flavour
        )
        self.stacks = nn.ModuleList(
            Pyramid(
                graph,
                channels=channels,
                conv=config.conv,
                flavour=config.flavour,
                activation=config.activation,
            )
            for _ in range(config.num_stacks)
        )
        self.retina_head = _make_head(
            config,
            channels=config.head_channels,
            num_convs=config.head_convs,
            conv=config.conv,
            num_exits=config.num_exits - config.light_exits,
        )
        self.light_head = None
        if config.light_exits:
            self.light_head = _make_head(
                config,
                channels=config.light_head_channels,
                num_convs=config.light_head_convs,
                conv=config.light_head_conv,
                num_exits=config.light_exits,
            )
        for name, value in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD)):
            self.register_buffer(name, torch.tensor(value).reshape(3, 1, 1), persistent=False)
        self.register_buffer("anchors", torch.from_numpy(make_anchors(config)), persistent=False)

    def anchors_at(self, input_size: tuple[int, int]) -> Tensor:
        """Return the (A, 4) anchors of inputs of (height, width), on the CPU.

        Raises ValueError for a size that the structure cannot have.
        """
        return torch.from_numpy(make_anchors(replace(self.config, input_size=input_size)))

    def anchors_per_level(self) -> tuple[int, ...]:
        """Return the number of rows of ``anchors`` that belong to each level."""
        return anchors_per_level(self.config)

    def feature_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name -> shape of one image's features, as they cross from segment to segment."""
        config = self.config
        return {
            f"p{level}": (config.neck_channels, *size)
            for level, size in zip(config.levels, config.feature_sizes, strict=True)
        }

    def backbone_maps(self, images: Tensor) -> list[Tensor]:
        """Return [C3, C4, C5] of (B, H, W, 3) uint8 RGB images at the input size."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)  # (B, 3, H, W)
        return self.backbone((pixels - self.pixel_mean) / self.pixel_std)

    def from_backbone(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the features of depth 0 of [C3, C4, C5], one map for each level."""
        return self.neck_input(list(maps))

    def head(self, depth: int, features: list[Tensor]) -> RawOutputs:
        """Return the raw outputs of the exit at ``depth``, given the features of that depth."""
        head, exit = self.head_of(depth)
        return head(features, exit)

    def head_of(self, depth: int) -> tuple[RetinaHead, int]:
        """Return the head that serves exit ``depth``, and which of its exits that is."""
        light_exits = self.config.light_exits
        if self.light_head is not None and depth <= light_exits:
            return self.light_head, depth
        return self.retina_head, depth - light_exits

    def head_parameters(self, depth: int) -> int:
        """Return the number of trainable values that the head of exit ``depth`` uses."""
        head, exit = self.head_of(depth)
        return head.count_parameters(exit)
