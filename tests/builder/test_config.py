"""Configurations: JSON round trip, derived facts, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.config import CHOICES, CONFIGS, DetectorConfig, TrainConfig, replace, with_neck
from builder.graphs import GRAPHS, InvalidGraph


@pytest.mark.parametrize("name", CONFIGS)
def test_survives_json(name: str) -> None:
    config = CONFIGS[name]
    assert DetectorConfig.from_dict(json.loads(json.dumps(config.detector.to_dict()))) == (
        config.detector
    )
    assert TrainConfig.from_dict(json.loads(json.dumps(config.train.to_dict()))) == config.train


def test_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match="no field"):
        TrainConfig.from_dict({"dataset": "bccd", "momentums": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": (384, 500)},
        {"input_size": (0, 128)},
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
    ],
)
def test_impossible_detectors_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        replace(CONFIGS["bccd"].detector, **change)


def test_choices_are_what_the_model_has() -> None:
    from builder.modeling.layers import ACTIVATIONS, CONVS
    from builder.modeling.pyramid import FLAVOURS

    tables = {"conv": CONVS, "light_head_conv": CONVS}
    tables |= {"activation": ACTIVATIONS, "flavour": FLAVOURS}
    assert {name: tuple(table) for name, table in tables.items()} == CHOICES


def test_classes_are_those_of_the_data() -> None:
    from builder.data.deeppcb import CLASSES

    assert CONFIGS["deeppcb_small"].detector.classes == CLASSES


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


def test_a_neck_from_a_file_travels_with_the_configuration(tmp_path: Path) -> None:
    names = ("level", "op", "inputs", "output")
    cells = [dict(zip(names, row, strict=True)) for row in GRAPHS["nas_fpn_p6"].rows]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"levels": [3, 4, 5, 6], "cells": cells}))
    config = with_neck(CONFIGS["bccd"].detector, path)
    assert (config.neck, config.pyramid) == ("mine", GRAPHS["nas_fpn_p6"])
    assert DetectorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

    path.rename(tmp_path / "fpn.json")
    with pytest.raises(ValueError, match="'fpn' is the name of a built-in neck"):
        with_neck(config, tmp_path / "fpn.json")
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(InvalidGraph, match=r"mine\.json"):
        with_neck(config, tmp_path / "mine.json")
