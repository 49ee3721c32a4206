"""Declarations of what backbones put out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One feature map's declaration: its channels, and pixels of the image per cell."""

    channels: int
    stride: int
