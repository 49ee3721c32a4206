"""Counted cost against published figures of RetinaNet with 90 classes, and between exits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from builder.config.named import CONFIGS
from builder.modeling import cost
from builder.modeling.cost import count_parameters, exit_costs, with_neck_of_equal_cost
from builder.modeling.detector import Detector

R50 = CONFIGS["coco_r50"].detector
"""7 stacks of 256 channels at 640 px."""


@pytest.mark.parametrize(
    ("change", "gmacs", "megaparameters"),
    [
        # tensorflow/tpu's model zoo and table 2 of EfficientDet: R-50 NAS-FPN, 7 @ 256
        ({}, 140.6, 60.3),
        ({"input_size": (1024, 1024)}, 360, 60.3),
        # table 2 of EfficientDet: 7 @ 384
        ({"input_size": (1280, 1280), "neck_channels": 384, "head_channels": 384}, 1043, 104),
        # the same tables: with one FPN
        ({"neck": "fpn", "num_stacks": 1}, 97.0, 34.0),
        ({"neck": "fpn", "num_stacks": 1, "backbone": "resnet101"}, 127, 53.1),
    ],
)
def test_published_figures(change: dict, gmacs: float, megaparameters: float) -> None:
    last = exit_costs(replace(R50, **change))[-1]
    assert last.macs / 1e9 == pytest.approx(gmacs, rel=0.006)
    assert last.parameters / 1e6 == pytest.approx(megaparameters, rel=0.006)


def test_the_ladder_of_exits() -> None:
    costs = exit_costs(R50)
    gmacs = (98.6, 105.5, 112.4, 119.3, 126.3, 133.2, 140.1)
    megaparameters = (35.25, 39.39, 43.52, 47.66, 51.79, 55.92, 60.06)
    assert [row.macs / 1e9 for row in costs] == pytest.approx(gmacs, abs=0.06)
    assert [row.parameters / 1e6 for row in costs] == pytest.approx(megaparameters, abs=0.006)
    assert costs[0].backbone_macs / 1e9 == pytest.approx(33.4, abs=0.06)
    assert costs[0].head_macs / 1e9 == pytest.approx(56.8, abs=0.06)


def test_a_light_head_makes_early_exits_cheaper() -> None:
    plain, light = (exit_costs(replace(R50, num_stacks=3, light_exits=n)) for n in (0, 2))
    assert light[0].head_macs < plain[0].head_macs / 20
    assert light[1].head_macs == light[0].head_macs
    assert light[2] == plain[2]


def test_parts_of_several_stacks_have_the_cost_of_the_last() -> None:
    every, second = (exit_costs(replace(R50, num_stacks=4, stacks_per_exit=n)) for n in (1, 2))
    assert second == (every[1], every[3])


def test_a_model_with_one_exit_has_the_parameters_that_are_counted() -> None:
    config = replace(R50, stacks_per_exit=7)
    with torch.device("meta"):
        detector = Detector(config)
    assert [cost.parameters for cost in exit_costs(config)] == [count_parameters(detector)]


def test_default_model_pays_for_depth() -> None:
    costs = exit_costs(CONFIGS["bccd"].detector)
    assert costs[-1].macs >= 2 * costs[0].macs
    assert count_parameters(Detector(CONFIGS["bccd"].detector)) < 12e6


def test_another_neck_of_equal_cost() -> None:
    config = replace(
        CONFIGS["bccd_small"].detector, num_stacks=2, stacks_per_exit=1, input_size=(128, 128)
    )
    other = with_neck_of_equal_cost(config, "fpn")
    # A cell of the vanilla pyramid costs 85.25 where NAS-FPN's cost 117.25 (cells of a level, in
    # those of P6): it may have the square root of that more channels, less what the head takes.
    assert config.neck_channels < other.neck_channels <= 56
    assert other == replace(config, neck="fpn", neck_channels=other.neck_channels)

    def difference(width: int) -> float:
        costs = zip(
            exit_costs(replace(other, neck_channels=width)), exit_costs(config), strict=True
        )
        return max(abs(theirs.macs / ours.macs - 1) for theirs, ours in costs)

    around = (other.neck_channels - 2, other.neck_channels, other.neck_channels + 2)
    assert min(around, key=difference) == other.neck_channels
    assert difference(other.neck_channels) < 0.03


def test_the_same_neck_is_as_wide() -> None:
    config = replace(CONFIGS["bccd_small"].detector, num_stacks=1, input_size=(128, 128))
    assert with_neck_of_equal_cost(config, "nas_fpn") == config


def test_no_width_of_equal_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "COST_TOLERANCE", 0.001)
    config = replace(CONFIGS["bccd_small"].detector, num_stacks=2, input_size=(128, 128))
    with pytest.raises(ValueError, match="no width of fpn costs what nas_fpn does"):
        with_neck_of_equal_cost(config, "fpn")
