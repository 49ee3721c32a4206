"""Backbone weights in torchvision's and timm's layouts, against references written from those
layouts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from builder.importing import WeightsError, load_backbone
from builder.modeling.backbones import make_backbone
from tests.builder.importing import mmdet_reference

WIDTH = 8
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
TAPS = (6, 13, 17)

# Names of a block's convolution and normalisation in order: expansion, depthwise, projection.
PARTS = {
    "torchvision": {
        1: (("conv.0.0", "conv.0.1"), ("conv.1", "conv.2")),
        6: (("conv.0.0", "conv.0.1"), ("conv.1.0", "conv.1.1"), ("conv.2", "conv.3")),
    },
    "timm": {
        1: (("conv_dw", "bn1"), ("conv_pw", "bn2")),
        6: (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
    },
}
STEM = {"torchvision": ("features.0.0", "features.0.1"), "timm": ("conv_stem", "bn1")}
LAST = {
    "torchvision": ("features.18.0", "features.18.1", "classifier.1"),
    "timm": ("conv_head", "bn2", "classifier"),
}


def resnet_state() -> dict[str, Tensor]:
    state = mmdet_reference.random_state(width=WIDTH, channels=8, stacks=1, convs=1, classes=1)
    return {
        key.removeprefix("backbone."): value
        for key, value in state.items()
        if key.startswith("backbone.")
    } | {"fc.weight": torch.zeros(10, 32 * WIDTH), "fc.bias": torch.zeros(10)}


def pixels() -> Tensor:
    return torch.randn(2, 3, 64, 128, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_resnet_of_either_library() -> None:
    state = resnet_state()
    backbone = make_backbone("resnet50", WIDTH, 0).eval()
    load_backbone(backbone, state)
    prefixed = {f"backbone.{key}": value for key, value in state.items()}
    for ours, theirs in zip(
        backbone(pixels()), mmdet_reference.resnet(prefixed, pixels()), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


class MobileNet:
    """State dict and forward of MobileNetV2 at width 32, in the names of one library."""

    def __init__(self, library: str) -> None:
        self.library = library
        self.state: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)
        self.blocks: list[tuple[str, int, int, int]] = []
        self._conv_norm(*STEM[library], 32, 3, 3)
        into = 32
        for stage, (expansion, channels, count, stride) in enumerate(STAGES):
            for index in range(count):
                number = len(self.blocks) + 1
                name = f"blocks.{stage}.{index}" if library == "timm" else f"features.{number}"
                self.blocks.append((name, expansion, into, stride if index == 0 else 1))
                hidden = into * expansion
                shapes = [(hidden, 1, 3), (channels, hidden, 1)]
                if expansion != 1:
                    shapes.insert(0, (hidden, into, 1))
                for (conv, norm), shape in zip(PARTS[library][expansion], shapes, strict=True):
                    self._conv_norm(f"{name}.{conv}", f"{name}.{norm}", *shape)
                into = channels
        conv, norm, classifier = LAST[library]
        self._conv_norm(conv, norm, 1280, 320, 1)
        self.state[f"{classifier}.weight"] = torch.zeros(10, 1280)
        self.state[f"{classifier}.bias"] = torch.zeros(10)

    def _conv_norm(self, conv: str, norm: str, out: int, into: int, kernel: int) -> None:
        scale = (2 / (into * kernel**2)) ** 0.5
        weight = torch.randn(out, into, kernel, kernel, generator=self.generator)
        self.state[f"{conv}.weight"] = weight * scale
        for field, low in (("weight", 0.8), ("bias", -0.2), ("running_mean", -0.2)):
            value = low + 0.4 * torch.rand(out, generator=self.generator)
            self.state[f"{norm}.{field}"] = value
        self.state[f"{norm}.running_var"] = 0.5 + torch.rand(out, generator=self.generator)

    def _apply(self, conv: str, norm: str, x: Tensor, stride: int = 1) -> Tensor:
        s = self.state
        weight = s[f"{conv}.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)
        mean, var = s[f"{norm}.running_mean"], s[f"{norm}.running_var"]
        return F.batch_norm(x, mean, var, s[f"{norm}.weight"], s[f"{norm}.bias"], eps=1e-5)

    def __call__(self, x: Tensor) -> list[Tensor]:
        x = F.relu6(self._apply(*STEM[self.library], x, 2))
        taps = []
        for number, (name, expansion, into, stride) in enumerate(self.blocks, start=1):
            *inner, last = PARTS[self.library][expansion]
            y = x
            for conv, norm in inner:
                depthwise = self.state[f"{name}.{conv}.weight"].shape[-1] == 3
                step = stride if depthwise else 1
                y = F.relu6(self._apply(f"{name}.{conv}", f"{name}.{norm}", y, step))
            y = self._apply(f"{name}.{last[0]}", f"{name}.{last[1]}", y)
            x = x + y if stride == 1 and into == y.shape[1] else y
            if number in TAPS:
                taps.append(x)
        return taps


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@torch.no_grad()
def test_mobilenet_v2_of_either_library(library: str) -> None:
    """Without counters of batches, as torchvision's file is."""
    reference = MobileNet(library)
    backbone = make_backbone("mobilenet_v2", 32, 0).eval()
    load_backbone(backbone, reference.state)
    for ours, theirs in zip(backbone(pixels()), reference(pixels()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert theirs.std() > 0.1


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [
        ("resnet18", WIDTH, r"'layer1.0.conv1.weight' has shape .* expected \(8, 8, 3, 3\)"),
        ("resnet101", WIDTH, "'layer3.6.conv1.weight' .* is missing"),
        ("resnet50", 16, r"'conv1.weight' has shape \(8, 3, 7, 7\), expected \(16, 3, 7, 7\)"),
        ("mobilenet_v2", 32, "'features.0.0.weight' .* is missing"),
    ],
)
def test_weights_of_another_backbone_name_the_first_key(
    name: str, width: int, message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        load_backbone(make_backbone(name, width, 0), resnet_state())


def test_more_weights_than_the_backbone_has_are_not_dropped() -> None:
    state = resnet_state() | {"layer3.6.conv1.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"corresponds to 'layer3.6.conv1.weight' \(1,\)"):
        load_backbone(make_backbone("resnet50", WIDTH, 0), state)
