"""MobileNetV2 (Sandler et al., 2018), with torchvision's parameter names."""

from __future__ import annotations

from torch import Tensor, nn

from builder.modeling.backbones.features import FeatureSpec


class InvertedResidual(nn.Module):
    """One block of expansion, depthwise convolution and linear projection.

    It is the one of Sandler et al. (2018), table 1.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        expand = [] if expansion == 1 else [_conv_bn_relu6(in_channels, hidden, 1, 1, 1)]
        self.conv = nn.Sequential(
            *expand,
            _conv_bn_relu6(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C_out, H / stride, W / stride) of (B, C_in, H, W)."""
        y = self.conv(x)
        return x + y if self.residual else y


def _conv_bn_relu6(
    in_channels: int, out_channels: int, kernel: int, stride: int, groups: int
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(),
    )


# (expansion, channels at width 32, blocks, stride), from the paper's table 2.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

# Indices into ``features`` of the last block at strides 8, 16 and 32.
_TAPS = (6, 13, 17)


def _divisible(channels: float) -> int:
    """Return a multiple of 8 for a number of channels, as variants of other widths round it.

    It is the closest to ``channels``, or the next one if that is less than nine tenths of them.
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class MobileNetV2(nn.Module):
    """MobileNetV2 without its last 1x1 convolution and classifier.

    ``width`` is the stem's, 32 in the network as published.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn_relu6(3, width, 3, 2, 1)]
        in_channels, channels = width, [width]
        for expansion, base, blocks, stride in STAGES:
            out_channels = _divisible(base * width / 32)
            for index in range(blocks):
                step = stride if index == 0 else 1
                layers.append(InvertedResidual(in_channels, out_channels, step, expansion))
                channels.append(out_channels)
                in_channels = out_channels
        self.features = nn.ModuleList(layers)
        self.outputs = tuple(
            FeatureSpec(channels[tap], stride)
            for tap, stride in zip(_TAPS, (8, 16, 32), strict=True)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return [C3, C4, C5] of (B, 3, H, W) float, as declared in ``outputs``."""
        taps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in _TAPS:
                taps.append(x)
        return taps
