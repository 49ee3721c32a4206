"""What backbones declare about their outputs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """What a feature map is like: its channels, and pixels of the image per cell."""

    channels: int
    stride: int
