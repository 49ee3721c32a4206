"""Backbones: networks from an image to the feature maps C3, C4 and C5.

Each backbone declares its outputs as data (channels and stride), so that a neck is built from the
declaration and never by probing a tensor. Depends on no package but the one that it is in. Begin
with ``resnet``.
"""

from __future__ import annotations

from collections.abc import Callable

from builder.modeling.backbones.amoebanet import AmoebaNetD
from builder.modeling.backbones.features import FeatureSpec
from builder.modeling.backbones.mobilenet_v2 import MobileNetV2
from builder.modeling.backbones.resnet import ResNet, resnet10, resnet18, resnet50, resnet101

__all__ = ["BACKBONES", "LAYERED_BACKBONES", "Backbone", "FeatureSpec", "make_backbone"]

Backbone = ResNet | MobileNetV2 | AmoebaNetD

BACKBONES: dict[str, Callable[[int], Backbone]] = {
    "resnet10": resnet10,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "mobilenet_v2": MobileNetV2,
}
"""Backbones by name: functions of the width."""

LAYERED_BACKBONES: dict[str, Callable[[int, int], Backbone]] = {"amoebanet_d": AmoebaNetD}
"""Backbones whose names do not tell their depth: functions of the width and number of layers."""


def make_backbone(name: str, width: int, layers: int) -> Backbone:
    """Return the backbone ``name``; ``layers`` counts where its name does not say them.

    ``DetectorConfig`` says which widths and layers are possible.
    """
    if name in LAYERED_BACKBONES:
        return LAYERED_BACKBONES[name](width, layers)
    return BACKBONES[name](width)
