"""The pyramid's table, and its interpreter against the graph written out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from builder.config import LEVELS
from builder.modeling.backbones import FeatureSpec
from builder.modeling.pyramid import (
    NAS_FPN,
    TABLES,
    Pyramid,
    PyramidInput,
    compile_table,
    resample,
)

CHANNELS = 4
SIZES = ((16, 32), (8, 16), (4, 8), (2, 4), (1, 2))


def features(batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, CHANNELS, *size, generator=generator) for size in SIZES]


def pyramid(neck: str = "nas_fpn", conv: str = "dense") -> Pyramid:
    torch.manual_seed(0)
    return Pyramid(neck, CHANNELS, conv, "google").eval()


def test_unused_features_of_the_seven_cell_graph() -> None:
    """Exactly two inputs are consumed by no cell: P5 and P7."""
    steps, outputs = compile_table(NAS_FPN)
    assert [step.unused for step in steps] == [(), (), (), (), (2,), (4,), ()]
    assert outputs == (7, 8, 9, 11, 10)


def test_attention_is_gated_by_the_coarser_input() -> None:
    steps, _ = compile_table(NAS_FPN)
    gates = {
        offset: step.coarse
        for offset, step in enumerate(steps, start=len(LEVELS))
        if step.cell.op == "attention"
    }
    assert gates == {5: 3, 9: 8, 10: 9, 11: 10}  # P6, P4', P5', P7'


def test_interpreter_against_the_graph_by_hand() -> None:
    neck, inputs = pyramid(), features()
    p3, p4, p5, p6, p7 = inputs

    def attention(coarse: Tensor, fine: Tensor) -> Tensor:
        return coarse + fine * torch.sigmoid(coarse.flatten(2).max(dim=2).values[:, :, None, None])

    def up(x: Tensor, factor: int) -> Tensor:
        return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    c = neck.cells
    m5 = c[0](attention(up(p6, 4), p4))
    m6 = c[1](p4 + m5)
    out3 = c[2](p3 + up(m6, 2))
    out4 = c[3](m6 + F.max_pool2d(out3, 2))
    out5 = c[4](attention(F.max_pool2d(out4, 2), F.max_pool2d(out3, 4)) + p5)
    out7 = c[5](attention(F.max_pool2d(out5, 4), F.max_pool2d(m6, 8)) + p7)
    out6 = c[6](attention(up(out7, 2), F.max_pool2d(out5, 2)))
    with torch.no_grad():
        for got, want in zip(neck(inputs), (out3, out4, out5, out6, out7), strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("neck", TABLES)
@pytest.mark.parametrize("conv", ["dense", "separable"])
def test_shapes_and_gradients(neck: str, conv: str) -> None:
    module = pyramid(neck, conv).train()
    outputs = module(features())
    assert [tuple(x.shape) for x in outputs] == [(2, CHANNELS, *size) for size in SIZES]
    sum(x.square().sum() for x in outputs).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("table", TABLES.values())
def test_tables_are_well_formed(table: tuple[object, ...]) -> None:
    steps, outputs = compile_table(table)  # type: ignore[arg-type]
    assert len(set(outputs)) == len(LEVELS)
    for offset, step in enumerate(steps, start=len(LEVELS)):
        assert max(step.cell.inputs) < offset


def test_resampling() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert resample(x, 4, 5).tolist() == [[[[4.0]]]]
    assert resample(x, 4, 3)[0, 0].tolist() == [
        [1, 1, 2, 2],
        [1, 1, 2, 2],
        [3, 3, 4, 4],
        [3, 3, 4, 4],
    ]
    assert resample(x, 4, 4) is x


def test_pyramid_input_pools_the_two_coarsest_levels() -> None:
    specs = (FeatureSpec(3, 8), FeatureSpec(5, 16), FeatureSpec(6, 32))
    module = PyramidInput(specs, CHANNELS).eval()
    maps = [torch.randn(1, spec.channels, *size) for spec, size in zip(specs, SIZES, strict=False)]
    outputs = module(maps)
    assert [tuple(x.shape) for x in outputs] == [(1, CHANNELS, *size) for size in SIZES]
    torch.testing.assert_close(outputs[3], F.max_pool2d(outputs[2], 2))
    torch.testing.assert_close(outputs[4], F.max_pool2d(outputs[2], 4))
