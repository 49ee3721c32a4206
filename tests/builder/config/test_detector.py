"""Detectors: what is impossible is refused, and what follows from their fields."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builder.config.named import CONFIGS
from builder.config.pyramid_graphs import GRAPHS


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": (384, 500)},
        {"input_size": (0, 128)},
        {"served_sizes": ((384, 512), (384, 500))},
        {"num_stacks": 0},
        {"classes": ()},
        {"max_detections": 2000},
        {"neck": "bifpn"},
        {"conv": "depthwise"},
        {"flavour": "tpu"},
        {"graph": GRAPHS["fpn"].rows},
        {"neck": "mine", "graph": GRAPHS["fpn"].rows[:-1]},
        {"num_stacks": 6, "stacks_per_exit": 4},
        {"stacks_per_exit": 0},
        {"light_exits": 7},
        {"light_exits": -1},
        {"classes": ("a", "b", "a")},
        {"backbone_layers": 3},
        {"backbone": "amoebanet_d", "backbone_width": 8, "backbone_layers": 4},
        {"backbone": "amoebanet_d", "backbone_width": 12, "backbone_layers": 3},
        {"graph": ((3, "sum", (0, 1)),), "neck": "mine"},
    ],
)
def test_impossible_detectors_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        replace(CONFIGS["bccd"].detector, **change)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", "../../elsewhere"),
        ("name", "/elsewhere"),
        ("name", "a b"),
        ("name", ".."),
        ("name", "a" * 101),
        ("backbone", "resnet51"),
        ("score_threshold", 1.0),
        ("iou_threshold", 5),
        ("anchor_scale", 0),
        ("max_candidates", 4000),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*, it must be "):
        replace(CONFIGS["bccd"].detector, **{name: value})


def test_derived_facts() -> None:
    config = replace(CONFIGS["bccd"].detector, input_size=(128, 256), aspect_ratios=(1.0, 2.0))
    assert config.feature_sizes == ((16, 32), (8, 16), (4, 8), (2, 4), (1, 2))
    assert config.anchors_per_location == 2 * len(config.octave_scales)
    assert config.num_exits == config.num_stacks


def test_levels_are_those_of_the_neck() -> None:
    config = replace(CONFIGS["bccd"].detector, neck="nas_fpn_p6", input_size=(64, 192))
    assert config.levels == (3, 4, 5, 6)
    assert config.strides == (8, 16, 32, 64)
    assert config.feature_sizes == ((8, 24), (4, 12), (2, 6), (1, 3))
    with pytest.raises(ValueError, match="multiples of 128"):
        replace(config, neck="nas_fpn")


def test_exits_follow_every_so_many_stacks() -> None:
    config = replace(CONFIGS["bccd"].detector, num_stacks=6, stacks_per_exit=2, light_exits=2)
    assert config.num_exits == 3
