"""The pyramid's interpreter against graphs written out by hand, and its inputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from builder.config.pyramid_graphs import GRAPHS, OPS
from builder.modeling.backbones import FeatureSpec
from builder.modeling.pyramid import FLAVOURS, Flavour, Pyramid, PyramidInput, resample

CHANNELS = 4
SIZES = ((16, 32), (8, 16), (4, 8), (2, 4), (1, 2))


def features(num_levels: int = 5, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, CHANNELS, *s, generator=generator) for s in SIZES[:num_levels]]


def pyramid(neck: str = "nas_fpn", **changes: str) -> Pyramid:
    torch.manual_seed(0)
    options = {"conv": "dense", "flavour": "google", "activation": "relu", **changes}
    return Pyramid(GRAPHS[neck], channels=CHANNELS, **options).eval()


def up(x: Tensor, factor: int) -> Tensor:
    return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def google(coarse: Tensor, fine: Tensor) -> Tensor:
    return coarse + fine * torch.sigmoid(coarse.flatten(2).max(dim=2).values[:, :, None, None])


def mmdet(coarse: Tensor, fine: Tensor) -> Tensor:
    return fine + torch.sigmoid(fine.flatten(2).mean(dim=2)[:, :, None, None]) * coarse


@pytest.mark.parametrize(("flavour", "attention"), [("google", google), ("mmdet", mmdet)])
@torch.no_grad()
def test_interpreter_against_the_graph_by_hand(
    flavour: str, attention: Callable[[Tensor, Tensor], Tensor]
) -> None:
    neck, inputs = pyramid(flavour=flavour), features()
    p3, p4, p5, p6, p7 = inputs
    c = neck.cells
    m5 = c[0](attention(up(p6, 4), p4))
    m6 = c[1](p4 + m5)
    out3 = c[2](p3 + up(m6, 2))
    out4 = c[3](m6 + F.max_pool2d(out3, 2))
    out5 = c[4](attention(F.max_pool2d(out4, 2), F.max_pool2d(out3, 4)) + p5)
    out7 = c[5](attention(F.max_pool2d(out5, 4), F.max_pool2d(m6, 8)) + p7)
    out6 = c[6](attention(up(out7, 2), F.max_pool2d(out5, 2)))
    for got, want in zip(neck(inputs), (out3, out4, out5, out6, out7), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=FLAVOURS)
def test_a_flavour_reads_every_op(flavour: Flavour) -> None:
    assert set(flavour.merges) == set(OPS)


@torch.no_grad()
def test_swish_comes_before_the_convolution() -> None:
    cell = pyramid(activation="swish").cells[0]
    x = features()[0]
    torch.testing.assert_close(cell(x), cell.bn(cell.conv(x * torch.sigmoid(x))))


@pytest.mark.parametrize("neck", GRAPHS)
@pytest.mark.parametrize("conv", ["dense", "separable"])
def test_shapes_and_gradients(neck: str, conv: str) -> None:
    num_levels = len(GRAPHS[neck].levels)
    module = pyramid(neck, conv=conv).train()
    outputs = module(features(num_levels))
    expected = [(2, CHANNELS, *size) for size in SIZES[:num_levels]]
    assert [tuple(x.shape) for x in outputs] == expected
    sum(x.square().sum() for x in outputs).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_resampling() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert resample(x, 4, 5, (1, 1)).tolist() == [[[[4.0]]]]
    assert resample(x, 4, 3, (4, 4))[0, 0].tolist() == [
        [1, 1, 2, 2],
        [1, 1, 2, 2],
        [3, 3, 4, 4],
        [3, 3, 4, 4],
    ]
    assert resample(x, 4, 4, (2, 2)) is x


def test_resampling_where_sides_do_not_divide() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert resample(x, 4, 5, (2, 2))[0, 0].tolist() == [[4.0, 5.0], [7.0, 8.0]]
    assert resample(x, 4, 6, (1, 1)).tolist() == [[[[8.0]]]]
    assert resample(x, 4, 3, (5, 6)).shape == (1, 1, 5, 6)
    assert resample(x, 4, 3, (5, 6))[0, 0, 4].tolist() == [6.0, 6.0, 7.0, 7.0, 8.0, 8.0]


SPECS = (FeatureSpec(3, 8), FeatureSpec(5, 16), FeatureSpec(6, 32))


def backbone_features() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, spec.channels, *size, generator=generator)
        for spec, size in zip(SPECS, SIZES, strict=False)
    ]


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("levels", [(3, 4, 5), (3, 4, 5, 6), (3, 4, 5, 6, 7)])
def test_there_is_an_input_for_each_level(flavour: str, levels: tuple[int, ...]) -> None:
    module = PyramidInput(SPECS, levels, channels=CHANNELS, flavour=flavour).eval()
    outputs = module(backbone_features())
    assert [tuple(x.shape) for x in outputs] == [(1, CHANNELS, *s) for s in SIZES[: len(levels)]]


@torch.no_grad()
def test_google_pools_the_coarsest_levels() -> None:
    module = PyramidInput(SPECS, (3, 4, 5, 6, 7), channels=CHANNELS, flavour="google").eval()
    outputs = module(backbone_features())
    torch.testing.assert_close(outputs[3], F.max_pool2d(outputs[2], 2))
    torch.testing.assert_close(outputs[4], F.max_pool2d(outputs[2], 4))


@torch.no_grad()
def test_mmdet_projects_before_it_pools() -> None:
    module = PyramidInput(SPECS, (3, 4, 5, 6, 7), channels=CHANNELS, flavour="mmdet").eval()
    outputs = module(backbone_features())
    for projection, finer, coarser in zip(module.coarser, outputs[2:], outputs[3:], strict=False):
        torch.testing.assert_close(coarser, F.max_pool2d(projection(finer), 2))
