"""The backbone of an SSDLite from a MobileNetV2: the same convolutions, normalisation folded in.

It computes the same but for what lies beyond the borders of an image: an SSDLite pads as TensorFlow
did at 300 pixels, and takes pixels in another scale.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from builder.importing.imagenet import load_backbone
from builder.importing.state_dict import StateDict
from builder.modeling.backbones.mobilenet_v2 import MobileNetV2
from builder.modeling.detector import PIXEL_MEAN, PIXEL_STD
from builder.modeling.ssdlite import STEM_WIDTH, Block, SSDLite

MIDDLE = 127.5
"""Pixel value that is 0 to an SSDLite, and what is 1 to it above that."""


@torch.no_grad()
def load_folded_backbone(model: SSDLite, state: StateDict) -> None:
    """Give ``model`` the MobileNetV2 in a state dict of torchvision or timm.

    Raises WeightsError.
    """
    backbone = MobileNetV2(STEM_WIDTH)
    load_backbone(backbone, state)
    pairs = zip(_convolutions(model), _normalised(backbone), strict=True)
    for index, (target, (convolution, norm)) in enumerate(pairs):
        weight, bias = _folded(convolution, norm)
        if index == 0:
            weight, bias = _of_own_pixels(weight, bias)
        assert target.bias is not None
        target.weight.copy_(weight)
        target.bias.copy_(bias)


def _convolutions(model: SSDLite) -> Iterator[nn.Conv2d]:
    """Yield the convolutions of the backbone, in order."""
    yield model.stem
    for block in model.blocks:
        assert isinstance(block, Block)
        if block.expand is not None:
            yield block.expand
        yield block.depthwise
        yield block.project


def _normalised(backbone: MobileNetV2) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Yield each convolution and its normalisation, in order."""
    modules = [m for m in backbone.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    for convolution, norm in zip(modules[::2], modules[1::2], strict=True):
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        yield convolution, norm


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution that computes what both do."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)  # (C_out,)
    bias = norm.bias - norm.running_mean * scale
    return convolution.weight * scale[:, None, None, None], bias


def _of_own_pixels(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return a convolution of ImageNet's scale of pixels as one of an SSDLite's."""
    mean, deviation = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    offset = ((MIDDLE - mean) / deviation)[:, None, None]  # (3, 1, 1)
    scale = (MIDDLE / deviation)[:, None, None]
    return weight * scale, bias + (weight * offset).sum(dim=(1, 2, 3))
