"""Feature pyramids as tables, and the interpreter that runs them.

A pyramid takes the feature maps P3..P7 (offsets 0..4) and appends one map per *cell* (offsets 5,
6, ...). A cell merges two earlier maps at its own level, then applies ReLU, a 3x3 convolution and
batch normalisation; nothing follows, so outputs are signed. The seven-cell graph is the one that
Ghiasi et al. (NAS-FPN, 2019) found:

    P3 ----------------------+--> P3' -------.
    P4 --+--> #5 --> #6 --+--'   (+ #6)       |
         |     ^ P4      |--> P4' <-----------+
    P6 --'               |      '--> P5' <----'
                         '--> P7' <--'  '--> P6' <-- P7'

A neck of N stacks runs the table N times with weights of its own each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from builder.config import LEVELS
from builder.modeling.backbones import FeatureSpec
from builder.modeling.layers import CONVS


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of a pyramid's table."""

    level: int
    op: str
    """A key of the flavour's ``MERGES``."""
    inputs: tuple[int, int]
    """Offsets of earlier maps."""
    is_output: bool


NAS_FPN = (
    Cell(4, "attention", (1, 3), False),  # 5
    Cell(4, "sum", (1, 5), False),  # 6
    Cell(3, "sum", (0, 6), True),  # 7
    Cell(4, "sum", (6, 7), True),  # 8
    Cell(5, "attention", (7, 8), True),  # 9
    Cell(7, "attention", (6, 9), True),  # 10
    Cell(6, "attention", (9, 10), True),  # 11
)
"""Rows as published in tensorflow/tpu, ``architecture/nasfpn.py``."""

FPN = (
    Cell(6, "sum", (3, 4), True),  # 5
    Cell(5, "sum", (2, 5), True),  # 6
    Cell(4, "sum", (1, 6), True),  # 7
    Cell(3, "sum", (0, 7), True),  # 8
    Cell(7, "sum", (4, 5), True),  # 9
)
"""The top-down pyramid of Lin et al. (2017) in merging cells: each sum is convolved before it is
handed down, and P7 is refined from P6."""

TABLES: dict[str, tuple[Cell, ...]] = {"nas_fpn": NAS_FPN, "fpn": FPN}


def resample(x: Tensor, from_level: int, to_level: int) -> Tensor:
    """(B, C, H, W) at one level to another: max pooling with kernel and stride 2**k on the way to
    a coarser one, nearest neighbour on the way to a finer one. Sides divide exactly."""
    steps = to_level - from_level
    if steps > 0:
        return F.max_pool2d(x, 2**steps, 2**steps)
    if steps < 0:
        return F.interpolate(x, scale_factor=float(2**-steps), mode="nearest")
    return x


def merge_sum(coarse: Tensor, fine: Tensor) -> Tensor:
    """Elementwise sum of two (B, C, H, W) maps."""
    return coarse + fine


def merge_attention_google(coarse: Tensor, fine: Tensor) -> Tensor:
    """Global pooling attention: the coarser map's spatial maximum gates the finer map.

    ``coarse + fine * sigmoid(max over (y, x) of coarse)``, both (B, C, H, W) at the cell's level.
    """
    return coarse + fine * torch.sigmoid(coarse.amax(dim=(2, 3), keepdim=True))


MERGES: dict[str, dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "google": {"sum": merge_sum, "attention": merge_attention_google},
}
"""Flavour -> op -> function. Implementations of NAS-FPN disagree on the attention, so weights are
only valid for the flavour they were trained with."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A row with everything the interpreter would otherwise have to look up."""

    cell: Cell
    coarse: int
    fine: int
    """Offsets of the coarser and the finer input; the op is symmetric in equal levels."""
    unused: tuple[int, ...]
    """Earlier maps of an output cell's level that no cell consumes: added before the ReLU."""


def compile_table(table: tuple[Cell, ...]) -> tuple[tuple[_Step, ...], tuple[int, ...]]:
    """The steps of a table, and the offsets of its outputs P3..P7."""
    levels = [*LEVELS, *(cell.level for cell in table)]
    consumed = {offset for cell in table for offset in cell.inputs}
    steps = []
    for offset, cell in enumerate(table, start=len(LEVELS)):
        fine, coarse = sorted(cell.inputs, key=lambda index: levels[index])
        unused = [
            index
            for index in range(offset)
            if cell.is_output and levels[index] == cell.level and index not in consumed
        ]
        steps.append(_Step(cell, coarse, fine, tuple(unused)))
    outputs = {
        cell.level: offset for offset, cell in enumerate(table, start=len(LEVELS)) if cell.is_output
    }
    return tuple(steps), tuple(outputs[level] for level in LEVELS)


class MergingCell(nn.Module):
    """What follows a merge: ReLU, 3x3 convolution, batch normalisation."""

    def __init__(self, channels: int, conv: str) -> None:
        super().__init__()
        self.conv = CONVS[conv](channels, channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), signed."""
        return self.bn(self.conv(torch.relu(x)))


class Pyramid(nn.Module):
    """One stack: the interpreter of a table."""

    def __init__(self, neck: str, channels: int, conv: str, flavour: str) -> None:
        super().__init__()
        self._steps, self._outputs = compile_table(TABLES[neck])
        self._levels = [*LEVELS, *(step.cell.level for step in self._steps)]
        self._merges = MERGES[flavour]
        self.cells = nn.ModuleList(MergingCell(channels, conv) for _ in self._steps)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """P3..P7 -> P3..P7, each (B, C, H / stride, W / stride)."""
        maps = list(features)
        for step, cell in zip(self._steps, self.cells, strict=True):
            level = step.cell.level
            coarse, fine = (
                resample(maps[offset], self._levels[offset], level)
                for offset in (step.coarse, step.fine)
            )
            merged = self._merges[step.cell.op](coarse, fine)
            for offset in step.unused:
                merged = merged + maps[offset]
            maps.append(cell(merged))
        return [maps[offset] for offset in self._outputs]


class PyramidInput(nn.Module):
    """C3..C5 to P3..P7: 1x1 convolutions and normalisation, then P6 and P7 by max pooling."""

    def __init__(self, specs: tuple[FeatureSpec, ...], channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(spec.channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
            )
            for spec in specs
        )
        for lateral in self.laterals:
            nn.init.kaiming_normal_(lateral[0].weight, mode="fan_out")

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """[C3, C4, C5] -> [P3, ..., P7], all with the neck's channels."""
        maps = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        for finer, coarser in pairwise(LEVELS[len(maps) - 1 :]):
            maps.append(resample(maps[-1], finer, coarser))
        return maps
