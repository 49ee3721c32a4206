"""What detectors with exits have in common, whatever their parts are made of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from torch import Tensor, nn

from builder.config.detector import DetectorConfig
from builder.modeling.postprocess import PostprocessFacts, decode_and_suppress

RawOutputs = tuple[Tensor, Tensor]
"""Raw outputs of an exit: logits (B, A, num_classes) and deltas (B, A, 4)."""

Inputs: TypeAlias = Tensor | Sequence[Tensor]
"""Images, (B, H, W, 3) uint8 RGB; or what the backbone made of them (``backbone_maps``)."""


class DetectorWithExits(nn.Module):
    """A stem, stacks in a row, and a head for what comes out of each of them."""

    anchors: Tensor
    """Anchors, (A, 4) float32 xyxy in input pixels: one for each row of the raw outputs."""
    stacks: nn.ModuleList

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def backbone_maps(self, images: Tensor) -> list[Tensor]:
        """Return what the backbone alone makes of (B, H, W, 3) uint8 RGB images."""

    @abstractmethod
    def from_backbone(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the features that the first stack takes, given ``backbone_maps`` of images."""

    def stem(self, images: Tensor) -> list[Tensor]:
        """Return the features of (B, H, W, 3) uint8 RGB ``images`` that the first stack takes."""
        return self.from_backbone(self.backbone_maps(images))

    @abstractmethod
    def head(self, depth: int, features: list[Tensor]) -> RawOutputs:
        """Return the raw outputs of exit ``depth``, from its features."""

    def stack(self, depth: int, features: list[Tensor]) -> list[Tensor]:
        """Return the features of ``depth`` (1..N), given those of ``depth - 1``."""
        for index in self.config.stacks_of(depth):
            features = self.stacks[index](features)
        return features

    def forward(self, inputs: Inputs, exits: Iterable[int] | None = None) -> dict[int, RawOutputs]:
        """Return the raw outputs of the given exits (default: all).

        It runs no deeper than the deepest of them. ``inputs`` are images, or ``backbone_maps`` of
        them.
        """
        wanted = set(range(1, self.config.num_exits + 1) if exits is None else exits)
        is_images = isinstance(inputs, Tensor)
        features = self.stem(inputs) if is_images else self.from_backbone(inputs)
        outputs = {}
        for depth in range(1, max(wanted) + 1):
            features = self.stack(depth, features)
            if depth in wanted:
                outputs[depth] = self.head(depth, features)
        return outputs

    def postprocess(self, outputs: RawOutputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return boxes, scores, labels and counts of raw outputs: see ``decode_and_suppress``."""
        logits, deltas = outputs
        facts = PostprocessFacts.of(self.config)
        return decode_and_suppress(logits.float(), deltas.float(), self.anchors, facts)
