"""Every registered backbone against its own declaration."""

from __future__ import annotations

import pytest
import torch

from builder.modeling.backbones import BACKBONES, Projection, resnet50


@pytest.mark.parametrize("name", BACKBONES)
def test_outputs_are_as_declared(name: str) -> None:
    backbone = BACKBONES[name](8).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 128, 256))
    assert [spec.stride for spec in backbone.outputs] == [8, 16, 32]
    for x, spec in zip(maps, backbone.outputs, strict=True):
        assert tuple(x.shape) == (1, spec.channels, 128 // spec.stride, 256 // spec.stride)


def test_resnet50_is_torchvisions() -> None:
    """25.557 M parameters with the classifier's 2.049 M, and torchvision's names."""
    with torch.device("meta"):
        backbone = resnet50(64)
    assert sum(p.numel() for p in backbone.parameters()) == 25_557_032 - 2_049_000
    names = set(backbone.state_dict())
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.bias",
        "layer3.5.conv3.weight",
        "layer4.2.bn3.weight",
    } <= names
    assert not any(name.startswith("fc") for name in names)


@pytest.mark.parametrize("stride", [1, 2])
def test_projection_is_the_same_in_training(stride: int) -> None:
    projection = Projection(8, 16, 1, stride, bias=False)
    x = torch.randn(2, 8, 6, 10)
    torch.testing.assert_close(projection.train()(x), projection.eval()(x))
