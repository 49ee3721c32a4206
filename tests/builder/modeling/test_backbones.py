"""Every registered backbone against its own declaration and published sizes."""

from __future__ import annotations

import pytest
import torch

from builder.modeling.backbones import BACKBONES, LAYERED_BACKBONES, make_backbone
from builder.modeling.backbones.amoebanet import NORMAL, REDUCTION, CellTable, FactorizedReduction
from builder.modeling.backbones.resnet import Projection

NAMES = [(name, 0) for name in BACKBONES] + [(name, 3) for name in LAYERED_BACKBONES]


@pytest.mark.parametrize(("name", "layers"), NAMES)
def test_outputs_are_as_declared(name: str, layers: int) -> None:
    backbone = make_backbone(name, 8, layers).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 128, 256))
    assert [spec.stride for spec in backbone.outputs] == [8, 16, 32]
    for x, spec in zip(maps, backbone.outputs, strict=True):
        assert tuple(x.shape) == (1, spec.channels, 128 // spec.stride, 256 // spec.stride)
        if name != "mobilenet_v2":  # whose blocks end linearly
            assert x.min() >= 0


@pytest.mark.parametrize(("name", "layers"), NAMES)
def test_every_parameter_has_a_gradient(name: str, layers: int) -> None:
    backbone = make_backbone(name, 8, layers).to(memory_format=torch.channels_last).train()
    sum(x.square().mean() for x in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "width", "whole", "left_out"),
    [
        # torchvision, without the classifier, and for MobileNetV2 the 1x1 convolution before it
        ("resnet18", 64, 11_689_512, 513_000),
        ("resnet50", 64, 25_557_032, 2_049_000),
        ("resnet101", 64, 44_549_160, 2_049_000),
        ("mobilenet_v2", 32, 3_504_872, 1_281_000 + 320 * 1280 + 2 * 1280),
        # pytorchcv
        ("resnet10", 64, 5_418_792, 513_000),
    ],
)
def test_published_parameters(name: str, width: int, whole: int, left_out: int) -> None:
    with torch.device("meta"):
        backbone = make_backbone(name, width, 0)
    assert sum(p.numel() for p in backbone.parameters()) == whole - left_out


@pytest.mark.parametrize(
    ("layers", "filters", "megaparameters"),
    [(18, 208, 81.5), (18, 416, 319.0), (18, 544, 542.7), (36, 544, 1056)],
)
def test_published_parameters_of_amoebanet(
    layers: int, filters: int, megaparameters: float
) -> None:
    """Table 1 of GPipe has 82 M, 318 M, 542 M and 1.05 B; the more exact figures are torchgpipe's
    (its documentation, "Benchmarks"). Both with a classifier of 1000 classes."""
    with torch.device("meta"):
        backbone = make_backbone("amoebanet_d", filters, layers)
    classifier = 1000 * (backbone.outputs[-1].channels + 1)
    count = sum(p.numel() for p in backbone.parameters()) + classifier
    assert count / 1e6 == pytest.approx(megaparameters, rel=0.0007)


@pytest.mark.parametrize("table", [NORMAL, REDUCTION])
def test_cells_are_five_sums_of_which_nothing_is_lost(table: CellTable) -> None:
    assert len(table.sums) == 5
    used = set(table.outputs)
    for state, pair in enumerate(table.sums, start=2):
        assert all(index < state for index, _ in pair)
        used |= {index for index, _ in pair}
    assert used == set(range(7))


def test_factorized_reduction_reads_a_diagonal_each() -> None:
    module = FactorizedReduction(1, 2).eval()
    with torch.no_grad():
        module.even.weight.fill_(1.0)
        module.odd.weight.fill_(1.0)
        x = torch.arange(16.0).reshape(1, 1, 4, 4)
        even, odd = module(x)[0] * (1 + module.bn.eps) ** 0.5
    torch.testing.assert_close(even, torch.tensor([[0.0, 2.0], [8.0, 10.0]]))
    torch.testing.assert_close(odd, torch.tensor([[5.0, 7.0], [13.0, 15.0]]))


def test_mobilenet_rounds_as_published_variants_do() -> None:
    """Multiplier .75: 18 channels become 24, since 16 would be less than nine tenths of them."""
    with torch.device("meta"):
        backbone = make_backbone("mobilenet_v2", 24, 0)
    assert tuple(spec.channels for spec in backbone.outputs) == (24, 72, 240)
    assert backbone.features[2].conv[-1].num_features == 24


@pytest.mark.parametrize("stride", [1, 2])
def test_projection_is_the_same_in_training(stride: int) -> None:
    projection = Projection(8, 16, 1, stride, bias=False)
    x = torch.randn(2, 8, 6, 10)
    torch.testing.assert_close(projection.train()(x), projection.eval()(x))
