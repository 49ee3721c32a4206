"""Import of backbones that torchvision or timm trained on ImageNet.

Torchvision's names are those used here; timm's ResNets have them too. timm's MobileNetV2 numbers
its blocks by stage and names their parts. A classifier, and what MobileNetV2 has between the last
block and the classifier, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from builder.importing.state_dict import Source, StateDict, translate
from builder.modeling.backbones import Backbone
from builder.modeling.backbones.mobilenet_v2 import STAGES, MobileNetV2

TIMM_STEM = "conv_stem.weight"
"""Key that tells the two apart: timm's MobileNetV2 has it, and torchvision's has not."""

CLASSIFIERS = {
    "resnet": ("fc.",),
    "torchvision": ("features.18.", "classifier."),
    "timm": ("conv_head.", "bn2.", "classifier."),
}
"""Prefixes of the keys that a backbone leaves out, by the origin of the file."""

# Torchvision's name of a part of a block -> timm's, without and with an expansion.
FIRST_BLOCK = {"conv.0.0": "conv_dw", "conv.0.1": "bn1", "conv.1": "conv_pw", "conv.2": "bn2"}
BLOCK = {
    "conv.0.0": "conv_pw",
    "conv.0.1": "bn1",
    "conv.1.0": "conv_dw",
    "conv.1.1": "bn2",
    "conv.2": "conv_pwl",
    "conv.3": "bn3",
}


def load_backbone(backbone: Backbone, state: StateDict) -> None:
    """Give ``backbone`` the weights in a state dict of torchvision or timm. Raises WeightsError."""
    target = backbone.state_dict()
    names, left_out = {key: key for key in target}, CLASSIFIERS["resnet"]
    if isinstance(backbone, MobileNetV2):
        left_out = CLASSIFIERS["torchvision"]
        if TIMM_STEM in state:
            parts = dict(_timm_parts())
            names, left_out = {key: _renamed(key, parts) for key in target}, CLASSIFIERS["timm"]
    sources = {ours: Source((theirs,)) for ours, theirs in names.items()}
    backbone.load_state_dict(translate(state, sources, target, left_out))


def _timm_parts() -> Iterator[tuple[str, str]]:
    """Yield torchvision's name of every module of MobileNetV2, and timm's."""
    yield from (("features.0.0", "conv_stem"), ("features.0.1", "bn1"))
    index = 0
    for stage, (expansion, _, blocks, _) in enumerate(STAGES):
        for block in range(blocks):
            index += 1
            for ours, theirs in (FIRST_BLOCK if expansion == 1 else BLOCK).items():
                yield f"features.{index}.{ours}", f"blocks.{stage}.{block}.{theirs}"


def _renamed(key: str, parts: Mapping[str, str]) -> str:
    module, _, field = key.rpartition(".")
    return f"{parts[module]}.{field}"
