"""The head: order of rows, what is shared, the prior."""

from __future__ import annotations

import pytest
import torch

from builder.modeling.heads import PRIOR_PROBABILITY, RetinaHead

SIZES = ((8, 16), (4, 8), (2, 4), (1, 2), (1, 1))
CELLS = sum(height * width for height, width in SIZES)
ANCHORS, CLASSES, EXITS, CHANNELS = 2, 3, 4, 6


def head(conv: str = "dense", num_convs: int = 1, activation: str = "relu") -> RetinaHead:
    torch.manual_seed(0)
    return RetinaHead(
        in_channels=CHANNELS,
        channels=8,
        num_convs=num_convs,
        num_anchors=ANCHORS,
        num_classes=CLASSES,
        num_levels=len(SIZES),
        num_exits=EXITS,
        conv=conv,
        activation=activation,
    ).eval()


def features() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, CHANNELS, *size, generator=generator) for size in SIZES]


@pytest.mark.parametrize("conv", ["dense", "separable"])
@pytest.mark.parametrize("num_convs", [0, 2])
def test_shapes_and_prior(conv: str, num_convs: int) -> None:
    logits, deltas = head(conv, num_convs)(features(), 1)
    assert logits.shape == (2, CELLS * ANCHORS, CLASSES)
    assert deltas.shape == (2, CELLS * ANCHORS, 4)
    scores = torch.sigmoid(logits)
    torch.testing.assert_close(scores.mean(), torch.tensor(PRIOR_PROBABILITY), rtol=0.2, atol=0.0)


def test_rows_are_levels_then_y_then_x_then_anchors() -> None:
    """Changing one cell of P4 reaches, without towers, only rows of P4's 3x3 neighbourhood."""
    module, maps = head(num_convs=0), features()
    before = module(maps, 1)[0]
    maps[1] = maps[1].clone()
    maps[1][:, :, 2, 5] += 1
    changed = (module(maps, 1)[0] != before).any(dim=2).any(dim=0).nonzero()[:, 0].tolist()
    start, width = 8 * 16 * ANCHORS, 8
    assert changed == [
        start + (y * width + x) * ANCHORS + anchor
        for y in (1, 2, 3)
        for x in (4, 5, 6)
        for anchor in range(ANCHORS)
    ]


def test_only_normalisation_belongs_to_an_exit() -> None:
    names = [name for name, _ in head(num_convs=2).named_parameters()]
    per_exit = [name for name in names if ".norms." in name]
    # 2 towers, 2 convolutions, 5 levels, scale and shift
    assert len(per_exit) == EXITS * 2 * 2 * 5 * 2
    # 2 towers of 2 convolutions and a prediction, weight and bias
    assert len(names) - len(per_exit) == 2 * 3 * 2


def test_exits_differ_through_their_normalisation() -> None:
    module = head()
    with torch.no_grad():
        module.classes.norms[1][0][0].bias.fill_(3.0)
    first, second = (module(features(), depth)[0] for depth in (1, 2))
    rows = 8 * 16 * ANCHORS
    assert not torch.equal(first[:, :rows], second[:, :rows])
    assert torch.equal(first[:, rows:], second[:, rows:])


@torch.no_grad()
def test_swish_follows_the_normalisation() -> None:
    module, x = head(activation="swish"), features()[4]
    tower = module.classes
    y = tower.norms[0][4][0](tower.convs[0](x))
    want = tower.predict(y * torch.sigmoid(y)).permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(tower(x, 0, 4), want)


def test_parameters_of_an_exit_leave_out_the_normalisations_of_the_others() -> None:
    module = head(num_convs=2)
    norms = sum(p.numel() for name, p in module.named_parameters() if ".norms." in name)
    everything = sum(p.numel() for p in module.parameters())
    assert module.count_parameters(1) == everything - norms + norms // EXITS
