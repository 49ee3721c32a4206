"""AmoebaNet-D (Real et al., Regularized Evolution, 2018), its cells as tables.

A cell has two inputs: the output of the cell before (state 0) and of the one before that (state
1), both projected to the cell's width. Each row of its table sums two operations on earlier states
into the next state; the cell's output is some of the states side by side. With L normal cells and
F filters:

    3x3 / 2 -> R -> R -> L/3 normal -> R -> L/3 normal -> R -> L/3 normal     R: a reduction cell
    F/4       F/2   F     F: C3        2F    2F: C4       4F    4F: C5

The tables, and the stem's width, are those with which the parameters of Huang et al. (GPipe, 2018,
table 1) are met; in the paper of AmoebaNet a normal cell puts out states 4, 5 and 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from builder.modeling.backbones.features import FeatureSpec


@dataclass(frozen=True, slots=True)
class CellTable:
    """One cell's table: what each new state sums, and which states the cell puts out."""

    sums: tuple[tuple[tuple[int, str], tuple[int, str]], ...]
    """Rows of two (state, operation); the first row makes state 2.

    An operation is a key of ``OPERATIONS``.
    """
    outputs: tuple[int, ...]


NORMAL = CellTable(
    (
        ((1, "conv_1x1"), (1, "max_pool_3x3")),  # 2
        ((1, "identity"), (0, "conv_1x7_7x1")),  # 3
        ((0, "conv_1x1"), (0, "conv_1x7_7x1")),  # 4
        ((2, "max_pool_3x3"), (2, "identity")),  # 5
        ((1, "avg_pool_3x3"), (5, "conv_1x1")),  # 6
    ),
    outputs=(0, 3, 4, 6),
)

REDUCTION = CellTable(
    (
        ((0, "max_pool_2x2"), (0, "max_pool_3x3")),  # 2
        ((2, "identity"), (1, "conv_3x3")),  # 3
        ((2, "conv_1x7_7x1"), (2, "max_pool_3x3")),  # 4
        ((3, "identity"), (1, "max_pool_2x2")),  # 5
        ((2, "avg_pool_3x3"), (3, "conv_1x1")),  # 6
    ),
    outputs=(4, 5, 6),
)
"""Reduction cell, which halves the resolution: its operations on states 0 and 1 have stride 2."""

Kernel = tuple[int, int]


def _relu_conv_bn(
    in_channels: int, channels: int, kernel: Kernel = (1, 1), stride: Kernel = (1, 1)
) -> nn.Sequential:
    padding = kernel[0] // 2, kernel[1] // 2
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(channels),
    )


def _bottleneck(channels: int, *kernels: tuple[Kernel, Kernel]) -> nn.Sequential:
    """Return convolutions of the given (kernel, stride) at a quarter of the width, between 1x1s."""
    quarter = channels // 4
    return nn.Sequential(
        _relu_conv_bn(channels, quarter),
        *(_relu_conv_bn(quarter, quarter, kernel, stride) for kernel, stride in kernels),
        _relu_conv_bn(quarter, channels),
    )


OPERATIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "identity": lambda channels, stride: nn.Identity(),
    "conv_1x1": lambda channels, stride: _relu_conv_bn(
        channels, channels, (1, 1), (stride, stride)
    ),
    "conv_3x3": lambda channels, stride: _bottleneck(channels, ((3, 3), (stride, stride))),
    "conv_1x7_7x1": lambda channels, stride: _bottleneck(
        channels, ((1, 7), (1, stride)), ((7, 1), (stride, 1))
    ),
    "max_pool_2x2": lambda channels, stride: nn.MaxPool2d(2, stride),
    "max_pool_3x3": lambda channels, stride: nn.MaxPool2d(3, stride, 1),
    "avg_pool_3x3": lambda channels, stride: nn.AvgPool2d(3, stride, 1, count_include_pad=False),
}
"""Operations of a cell: name -> function of channels and stride."""


class FactorizedReduction(nn.Module):
    """A layer that halves the resolution without losing a diagonal.

    One 1x1 convolution reads the even cells, another the odd ones.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.odd = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels, H / 2, W / 2) of (B, C_in, H, W) with even sides."""
        x = torch.relu(x)
        halves = [self.even(x[:, :, ::2, ::2]), self.odd(x[:, :, 1::2, 1::2])]
        return self.bn(torch.cat(halves, dim=1))


class AmoebaCell(nn.Module):
    """One cell of AmoebaNet-D, which interprets a table."""

    def __init__(
        self,
        table: CellTable,
        channels: int,
        *,
        stride: int,
        in_channels: tuple[int, int],
        halve_earlier: bool,
    ) -> None:
        super().__init__()
        self._table = table
        last, earlier = in_channels
        self.project_last = _relu_conv_bn(last, channels)
        self.project_earlier: nn.Module = nn.Identity()
        if halve_earlier:
            self.project_earlier = FactorizedReduction(earlier, channels)
        elif earlier != channels:
            self.project_earlier = _relu_conv_bn(earlier, channels)
        self.operations = nn.ModuleList(
            OPERATIONS[name](channels, stride if state < 2 else 1)
            for pair in table.sums
            for state, name in pair
        )

    def forward(self, last: Tensor, earlier: Tensor) -> Tensor:
        """Return (B, outputs * channels, H / stride, W / stride).

        ``last`` is the output of the cell before, ``earlier`` that of the one before that.
        """
        states = [self.project_last(last), self.project_earlier(earlier)]
        operations = iter(self.operations)
        for pair in self._table.sums:
            first, second = (next(operations)(states[state]) for state, _ in pair)
            states.append(first + second)
        return torch.cat([states[index] for index in self._table.outputs], dim=1)


class AmoebaNetD(nn.Module):
    """AmoebaNet-D (layers, filters) without its classifier.

    Filters are a multiple of 8, layers of 3.
    """

    def __init__(self, filters: int, layers: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, filters // 4, 3, 2, 1, bias=False), nn.BatchNorm2d(filters // 4)
        )
        self.cells = nn.ModuleList(_cells(filters, layers // 3))
        # The last cells at strides 8, 16 and 32: two reductions come first, then one per stage.
        self._taps = tuple(1 + stage * layers // 3 + stage - 1 for stage in (1, 2, 3))
        self.outputs = tuple(
            FeatureSpec(len(NORMAL.outputs) * filters * 2**stage, 8 * 2**stage)
            for stage in range(3)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return [C3, C4, C5] of (B, 3, H, W) float, as declared in ``outputs``, after a ReLU."""
        x = self.stem(x)
        last, earlier, taps = x, x, []
        for index, cell in enumerate(self.cells):
            last, earlier = cell(last, earlier), last
            if index in self._taps:
                taps.append(torch.relu(last))
        return taps


def _cells(filters: int, cells_per_stage: int) -> Iterator[AmoebaCell]:
    stages = [(REDUCTION, 1, filters // 2)]
    for width in (filters, 2 * filters, 4 * filters):
        stages += [(REDUCTION, 1, width), (NORMAL, cells_per_stage, width)]
    in_channels, after_reduction = (filters // 4, filters // 4), False
    for table, count, width in stages:
        for _ in range(count):
            stride = 2 if table is REDUCTION else 1
            yield AmoebaCell(
                table,
                width,
                stride=stride,
                in_channels=in_channels,
                halve_earlier=after_reduction,
            )
            in_channels = len(table.outputs) * width, in_channels[0]
            after_reduction = table is REDUCTION
