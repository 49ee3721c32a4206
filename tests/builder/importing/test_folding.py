"""One backbone for all lite detectors: an SSDLite computes what the MobileNetV2 does."""

from __future__ import annotations

import torch
from torch import nn

from builder.importing import load_folded_backbone
from builder.importing.folding import _convolutions, _normalised
from builder.modeling.backbones.mobilenet_v2 import MobileNetV2
from builder.modeling.detector import PIXEL_MEAN, PIXEL_STD
from builder.modeling.ssdlite import SSDLite


def trained_backbone() -> MobileNetV2:
    """One whose normalisation does something."""
    torch.manual_seed(0)
    backbone = MobileNetV2(32).eval()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in (
                (module.weight, 0.8),
                (module.bias, -0.2),
                (module.running_mean, -0.2),
                (module.running_var, 0.5),
            ):
                nn.init.uniform_(values, low, low + 0.4)
    return backbone


@torch.no_grad()
def test_every_convolution_computes_what_it_does_with_its_normalisation() -> None:
    backbone, model = trained_backbone(), SSDLite(3).eval()
    load_folded_backbone(model, backbone.state_dict())
    pairs = list(zip(_convolutions(model), _normalised(backbone), strict=True))
    assert len(pairs) == 1 + 2 + 3 * 16
    for folded, (convolution, norm) in pairs[1:]:
        x = torch.randn(2, convolution.in_channels, 9, 9)
        ours = nn.functional.conv2d(x, folded.weight, folded.bias, groups=folded.groups)
        plain = nn.functional.conv2d(x, convolution.weight, groups=convolution.groups)
        torch.testing.assert_close(ours, norm(plain), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_first_one_takes_pixels_as_an_ssdlite_does() -> None:
    backbone, model = trained_backbone(), SSDLite(3).eval()
    load_folded_backbone(model, backbone.state_dict())
    folded, (convolution, norm) = next(
        zip(_convolutions(model), _normalised(backbone), strict=True)
    )
    pixels = torch.randint(0, 256, (2, 3, 9, 9)).float()
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
    ours = nn.functional.conv2d(pixels / 127.5 - 1, folded.weight, folded.bias)
    theirs = norm(nn.functional.conv2d((pixels - mean) / deviation, convolution.weight))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
