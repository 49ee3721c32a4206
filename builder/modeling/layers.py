"""The 3x3 convolution that neck and head are made of, in its two kinds."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def dense(in_channels: int, out_channels: int) -> nn.Module:
    """A full 3x3 convolution with bias, same size."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def separable(in_channels: int, out_channels: int) -> nn.Module:
    """A 3x3 depthwise convolution, then a 1x1 with bias."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, 1),
    )


CONVS: dict[str, Callable[[int, int], nn.Module]] = {"dense": dense, "separable": separable}
