"""The detector: a stem, N stacks and a head after each of them.

    stem(images) -> P3..P7 --stack(1)--> P3..P7 --stack(2)--> ... --stack(N)--> P3..P7
                                           |                                      |
                                        head(1)                                head(N)

These three methods are the only places where the model may be cut.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from builder.config import DetectorConfig
from builder.modeling.anchors import make_anchors
from builder.modeling.backbones import BACKBONES
from builder.modeling.heads import RetinaHead
from builder.modeling.postprocess import PostprocessFacts, decode_and_suppress
from builder.modeling.pyramid import Pyramid, PyramidInput

PIXEL_MEAN = (123.675, 116.28, 103.53)
"""Mean of ImageNet's pixels, RGB, 0..255: what published backbones were trained with."""

PIXEL_STD = (58.395, 57.12, 57.375)
"""Their standard deviation."""

RawOutputs = tuple[Tensor, Tensor]
"""Logits (B, A, num_classes) and deltas (B, A, 4)."""


class Detector(nn.Module):
    """A deep-supervised RetinaNet. Exits are numbered from 1, as the stacks are."""

    anchors: Tensor
    """(A, 4) float32 xyxy in input pixels: the rows of the raw outputs."""
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = BACKBONES[config.backbone](config.backbone_width)
        self.neck_input = PyramidInput(self.backbone.outputs, config.neck_channels)
        self.stacks = nn.ModuleList(
            Pyramid(config.neck, config.neck_channels, config.conv, config.flavour)
            for _ in range(config.num_stacks)
        )
        self.retina_head = RetinaHead(
            in_channels=config.neck_channels,
            channels=config.head_channels,
            num_convs=config.head_convs,
            num_anchors=config.anchors_per_location,
            num_classes=len(config.classes),
            num_exits=config.num_exits,
            conv=config.conv,
        )
        for name, value in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD)):
            self.register_buffer(name, torch.tensor(value).reshape(3, 1, 1), persistent=False)
        self.register_buffer("anchors", torch.from_numpy(make_anchors(config)), persistent=False)

    def stem(self, images: Tensor) -> list[Tensor]:
        """(B, H, W, 3) uint8 RGB at the input size -> features P3..P7 of depth 0."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)  # (B, 3, H, W)
        return self.neck_input(self.backbone((pixels - self.pixel_mean) / self.pixel_std))

    def stack(self, depth: int, features: list[Tensor]) -> list[Tensor]:
        """Features of ``depth - 1`` -> features of ``depth`` (1..N)."""
        return self.stacks[depth - 1](features)

    def head(self, depth: int, features: list[Tensor]) -> RawOutputs:
        """Features of ``depth`` -> raw outputs of that exit."""
        return self.retina_head(features, depth)

    def forward(self, images: Tensor, exits: Iterable[int] | None = None) -> dict[int, RawOutputs]:
        """Raw outputs of the given exits (default: all); runs no deeper than the deepest."""
        wanted = set(range(1, self.config.num_exits + 1) if exits is None else exits)
        features = self.stem(images)
        outputs = {}
        for depth in range(1, max(wanted) + 1):
            features = self.stack(depth, features)
            if depth in wanted:
                outputs[depth] = self.head(depth, features)
        return outputs

    def postprocess(self, outputs: RawOutputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes, scores, labels and counts: see ``decode_and_suppress``."""
        logits, deltas = outputs
        facts = PostprocessFacts.of(self.config)
        return decode_and_suppress(logits.float(), deltas.float(), self.anchors, facts)
