"""Interpreter of pyramid tables, and how the backbone's features become its inputs.

A cell merges two maps at its level, then applies the activation, a 3x3 convolution and batch
normalisation; nothing follows, so outputs are signed. A neck of N stacks runs the table N times
with weights of its own each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from builder.config.pyramid_graphs import COARSEST_BACKBONE_LEVEL, Graph, Step
from builder.modeling.backbones import FeatureSpec
from builder.modeling.layers import ACTIVATIONS, CONVS, DropBlock


def size_of(x: Tensor) -> tuple[int, int]:
    """Return the (height, width) of (B, C, H, W), as constants where a tracer looks on."""
    return int(x.shape[-2]), int(x.shape[-1])


def pool(x: Tensor, steps: int) -> Tensor:
    """Return (B, C, H, W) ``x`` pooled to a level ``steps`` coarser.

    The result is (B, C, ceil(H / 2**steps), ceil(W / 2**steps)).
    """
    step, (height, width) = 2**steps, size_of(x)
    exact = height % step == 0 and width % step == 0
    return F.max_pool2d(x, (min(step, height), min(step, width)), step, ceil_mode=not exact)


def resample(x: Tensor, from_level: int, to_level: int, size: tuple[int, int]) -> Tensor:
    """Return (B, C, H, W) ``x`` at one level resampled to another, whose maps have ``size``.

    The way to a coarser level is max pooling with kernel and stride 2**k, to a finer one nearest
    neighbour. Where sides do not divide, the last window is smaller, and the last copies are cut
    away.
    """
    steps = to_level - from_level
    if steps > 0:
        return pool(x, steps)
    if steps < 0:
        x = F.interpolate(x, scale_factor=float(2**-steps), mode="nearest")
        return x if size_of(x) == size else x[..., : size[0], : size[1]]
    return x


def merge_sum(coarse: Tensor, fine: Tensor) -> Tensor:
    """Return the elementwise sum of two (B, C, H, W) maps."""
    return coarse + fine


def merge_attention_google(coarse: Tensor, fine: Tensor) -> Tensor:
    """Return the coarser map plus the finer one, gated by the coarser map's spatial maximum.

    This is the global pooling attention of tensorflow/tpu.

    ``coarse + fine * sigmoid(max over (y, x) of coarse)``, both (B, C, H, W) at the cell's level.
    """
    return coarse + fine * torch.sigmoid(coarse.amax(dim=(2, 3), keepdim=True))


def merge_attention_mmdet(coarse: Tensor, fine: Tensor) -> Tensor:
    """Return the finer map plus the coarser one, gated by the finer map's spatial mean.

    This is the global pooling attention of MMDetection.

    ``fine + coarse * sigmoid(mean over (y, x) of fine)``, both (B, C, H, W) at the cell's level.
    """
    return fine + coarse * torch.sigmoid(F.adaptive_avg_pool2d(fine, 1))


@dataclass(frozen=True, slots=True)
class Flavour:
    """One reading of the NAS-FPN paper.

    Implementations disagree, so weights are only valid for the flavour they were trained with.
    """

    merges: Mapping[str, Callable[[Tensor, Tensor], Tensor]]
    """Merges of a cell: op -> function of the coarser and the finer map."""
    projects_coarser: bool
    """Whether a 1x1 convolution and normalisation come before each pooling to P6 and beyond."""


FLAVOURS = {
    # tensorflow/tpu
    "google": Flavour({"sum": merge_sum, "attention": merge_attention_google}, False),
    # MMDetection, all versions
    "mmdet": Flavour({"sum": merge_sum, "attention": merge_attention_mmdet}, True),
}


class MergingCell(nn.Module):
    """One cell after its merge: activation, 3x3 convolution, batch normalisation, DropBlock."""

    def __init__(self, channels: int, conv: str, activation: str) -> None:
        super().__init__()
        self._activation = ACTIVATIONS[activation]
        self.conv = CONVS[conv](channels, channels)
        self.bn = nn.BatchNorm2d(channels)
        self.drop = DropBlock()

    def forward(self, x: Tensor) -> Tensor:
        """Return the cell's output of (B, C, H, W) ``x``, of the same shape and signed."""
        return self.drop(self.bn(self.conv(self._activation(x))))


@dataclass(frozen=True, slots=True)
class Wiring:
    """How the cells of a table are connected, looked up once."""

    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    levels: tuple[int, ...]

    @classmethod
    def of(cls, graph: Graph) -> Wiring:
        """Return that of a table."""
        return cls(graph.steps(), graph.outputs, graph.map_levels)

    def run(
        self, cells: Iterable[nn.Module], flavour: Flavour, features: list[Tensor]
    ) -> list[Tensor]:
        """Return one map for each level, as ``features`` has them, by one cell for each row.

        Each is (B, C, H / stride, W / stride).
        """
        maps = list(features)
        sizes = {level: size_of(x) for level, x in zip(self.levels, features, strict=False)}
        for step, cell in zip(self.steps, cells, strict=True):
            level = step.cell.level
            coarse, fine = (
                resample(maps[offset], self.levels[offset], level, sizes[level])
                for offset in (step.coarse, step.fine)
            )
            merged = flavour.merges[step.cell.op](coarse, fine)
            for offset in step.unused:
                merged = merged + maps[offset]
            maps.append(cell(merged))
        return [maps[offset] for offset in self.outputs]


def initialise_cells(cells: nn.Module) -> None:
    """Draw the weights of all convolutions in ``cells`` anew (He et al., 2015)."""
    for module in cells.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Pyramid(nn.Module):
    """One stack of the neck, which interprets a pyramid's table."""

    def __init__(
        self, graph: Graph, *, channels: int, conv: str, flavour: str, activation: str
    ) -> None:
        super().__init__()
        self._wiring, self._flavour = Wiring.of(graph), FLAVOURS[flavour]
        self.cells = nn.ModuleList(MergingCell(channels, conv, activation) for _ in graph.cells)
        initialise_cells(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return one map for each level, as ``features`` has them.

        Each is (B, C, H / stride, W / stride).
        """
        return self._wiring.run(self.cells, self._flavour, features)


def _projection(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))


class PyramidInput(nn.Module):
    """Inputs of the first stack from C3..C5: 1x1 convolutions and normalisation, then max pooling.

    P6 and beyond are each pooled from the level before.
    """

    def __init__(
        self,
        specs: tuple[FeatureSpec, ...],
        levels: tuple[int, ...],
        *,
        channels: int,
        flavour: str,
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(_projection(spec.channels, channels) for spec in specs)
        num_pooled = levels[-1] - COARSEST_BACKBONE_LEVEL
        self.coarser = nn.ModuleList(
            _projection(channels, channels) if FLAVOURS[flavour].projects_coarser else nn.Identity()
            for _ in range(num_pooled)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return [P3, P4, ...], all with the neck's channels, of [C3, C4, C5]."""
        maps = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        for projection in self.coarser:
            maps.append(F.max_pool2d(projection(maps[-1]), 2, 2))
        return maps
