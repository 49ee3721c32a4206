"""Residual networks (He et al., 2015), with torchvision's parameter names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from builder.modeling.backbones.features import FeatureSpec


class BasicBlock(nn.Module):
    """One residual block of two 3x3 convolutions and a shortcut.

    It is the one of He et al. (2015), figure 5 left.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, H / stride, W / stride) of (B, C_in, H, W)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """One residual block of 1x1, 3x3 and 1x1 convolutions and a shortcut.

    It strides in the 3x3 convolution, as torchvision's does.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 4 width, H / stride, W / stride) of (B, C_in, H, W)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Return a projection where the shapes differ, else None."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        Projection(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class Projection(nn.Conv2d):
    """A 1x1 convolution that drops the cells between its strides before it runs, in training.

    The result is the same. The CPU kernel of torch 2.13 for the gradient of a strided 1x1
    convolution writes out of bounds when a channels-last input has 8 channels.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, C_out, H / stride, W / stride) of (B, C_in, H, W)."""
        if not self.training:
            return super().forward(input)
        rows, columns = self.stride
        return F.conv2d(input[:, :, ::rows, ::columns], self.weight, self.bias)


class ResNet(nn.Module):
    """A residual network without its classifier.

    Stage s has ``width * 2**s`` (times the block's expansion) channels.
    """

    def __init__(
        self, block: type[BasicBlock | Bottleneck], blocks: tuple[int, int, int, int], width: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        in_channels = width
        stages = []
        for stage, count in enumerate(blocks):
            stage_width = width * 2**stage
            rows = []
            for index in range(count):
                rows.append(block(in_channels, stage_width, 2 if stage and not index else 1))
                in_channels = stage_width * block.expansion
            stages.append(nn.Sequential(*rows))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.outputs = tuple(
            FeatureSpec(width * 2**stage * block.expansion, 4 * 2**stage) for stage in (1, 2, 3)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return [C3, C4, C5] of (B, 3, H, W) float, as declared in ``outputs``."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        c3 = self.layer2(self.layer1(x))
        c4 = self.layer3(c3)
        return [c3, c4, self.layer4(c4)]


def resnet10(width: int) -> ResNet:
    """Return a ResNet of one basic block a stage: the proxy backbone of the NAS-FPN search."""
    return ResNet(BasicBlock, (1, 1, 1, 1), width)


def resnet18(width: int) -> ResNet:
    """Return a ResNet of two basic blocks a stage."""
    return ResNet(BasicBlock, (2, 2, 2, 2), width)


def resnet50(width: int) -> ResNet:
    """Return a ResNet-50 of bottlenecks; torchvision's has width 64."""
    return ResNet(Bottleneck, (3, 4, 6, 3), width)


def resnet101(width: int) -> ResNet:
    """Return a ResNet-101 of bottlenecks: a ResNet-50 with 23 blocks in its third stage."""
    return ResNet(Bottleneck, (3, 4, 23, 3), width)
