"""Configurations: JSON round trip, derived facts, refusals."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from builder.config.named import (
    CHOICES,
    CONFIGS,
    DETECTOR_RULES,
    TRAIN_CHOICES,
    TRAIN_RULES,
    Config,
    DetectorConfig,
    TrainConfig,
    override,
    replace,
)
from builder.config.pyramid_graphs import GRAPHS, InvalidGraph


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


NAN, INFINITY = float("nan"), float("inf")

# Whole numbers, numbers, shares, names, ...: what is none of them.
WRONG = {
    "whole": (1.0, "8", True, None, [8], NAN, -1),
    "number": ("a", True, None, NAN, INFINITY, -1, (1.0,)),
    "flag": (0, "true", None),
    "text": ("", " ", 3, None, {"a": 1}),
    "several": ((), 1.0, "ab", ("a", 1), (NAN,), ((1.0,),), (-1,), (0,), None),
}
KINDS = {int: "whole", float: "number", bool: "flag", str: "text", tuple: "several"}


MAY_BE: list[tuple[str, Any]] = [
    ("validation_split", None),
    ("clip_norm", None),
    ("exits_per_step", None),
    ("images_per_epoch", None),
    ("merge_border_side", None),
    ("milestones", ()),
    ("input_sizes", ()),
    ("served_sizes", ()),
    ("validation_sizes", ()),
]


def wrong_values() -> list[tuple[str, str, object]]:
    recipe = replace(CONFIGS["bccd"].train, validation_split="val", images_per_epoch=100)
    detector = replace(CONFIGS["bccd"].detector, merge_border_side=128.0)
    config = replace(CONFIGS["bccd"], detector=detector, train=recipe)
    return [
        (part, name, value)
        for part, rules in (("detector", DETECTOR_RULES), ("train", TRAIN_RULES))
        for name in rules
        if name != "graph"  # its rows are for ``Graph`` to judge
        for value in WRONG[KINDS[type(getattr(getattr(config, part), name))]]
        if (name, value) not in MAY_BE
    ]


@pytest.mark.parametrize(("part", "name", "value"), wrong_values())
def test_values_of_another_kind_are_refused(part: str, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"\b{name} is "):
        replace(getattr(CONFIGS["bccd"], part), **{name: value})


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("micro_batches", 0),
        ("exits_per_step", 0),
        ("learning_rate", -1e-3),
        ("drop_block", 1.0),
        ("scale_jitter", (1.2, 0.8)),
        ("optimizer", "lamb"),
        ("schedule", "linear"),
        ("box_loss", "l2"),
    ],
)
def test_impossible_recipes_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is "):
        replace(CONFIGS["bccd"].train, **{name: value})


def test_every_field_has_a_rule() -> None:
    for record, rules in ((DetectorConfig, DETECTOR_RULES), (TrainConfig, TRAIN_RULES)):
        assert set(rules) == {item.name for item in fields(record)}


def test_choices_are_what_the_model_has() -> None:
    from builder.modeling.architectures import ARCHITECTURES
    from builder.modeling.backbones import BACKBONES, LAYERED_BACKBONES
    from builder.modeling.layers import ACTIVATIONS, CONVS
    from builder.modeling.pyramid import FLAVOURS
    from builder.training.losses import BOX_LOSSES, CLASS_LOSSES
    from builder.training.optimization import OPTIMIZERS, SCHEDULES
    from serving.core.letterbox import PLACEMENTS

    tables: dict[str, Any] = {
        "backbone": BACKBONES | LAYERED_BACKBONES,
        "conv": CONVS,
        "light_head_conv": CONVS,
    }
    tables |= {"activation": ACTIVATIONS, "flavour": FLAVOURS}
    tables |= {"architecture": ARCHITECTURES, "resize": PLACEMENTS}
    assert {name: tuple(table) for name, table in tables.items()} == CHOICES
    tables = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}
    tables |= {"class_loss": CLASS_LOSSES, "box_loss": BOX_LOSSES}
    assert {name: tuple(table) for name, table in tables.items()} == TRAIN_CHOICES


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
    config = override(CONFIGS["bccd"], [], path).detector
    assert (config.neck, config.pyramid) == ("mine", GRAPHS["nas_fpn_p6"])
    assert DetectorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

    path.rename(tmp_path / "fpn.json")
    with pytest.raises(ValueError, match=r"fpn\.json: a built-in neck has the name 'fpn'"):
        override(CONFIGS["bccd"], [], tmp_path / "fpn.json")
    for text in ("{}", "[" * 100_000):
        (tmp_path / "mine.json").write_text(text)
        with pytest.raises(InvalidGraph, match=r"mine\.json"):
            override(CONFIGS["bccd"], [], tmp_path / "mine.json")


def test_assignments() -> None:
    config = override(CONFIGS["bccd"], ["train.box_weight=3.0", "detector.octave_scales=[1, 1.5]"])
    assert config.train == replace(CONFIGS["bccd"].train, box_weight=3.0)
    assert config.detector == replace(CONFIGS["bccd"].detector, octave_scales=(1, 1.5))


@pytest.mark.parametrize(
    "changes",
    [
        {"max_candidates": 50, "max_detections": 50},
        {"stacks_per_exit": 2, "num_stacks": 6},
        {"light_exits": 9, "num_stacks": 10},
        {"input_size": (320, 320), "neck": "nas_fpn_p6"},
        {"neck": "mine", "graph": GRAPHS["fpn"].rows},
    ],
)
def test_assignments_that_fit_together_are_taken_in_any_order(changes: dict[str, Any]) -> None:
    texts = [f"detector.{name}={json.dumps(value)}" for name, value in changes.items()]
    config: Config = CONFIGS["bccd"]
    expected = replace(config.detector, **changes)
    assert override(config, texts).detector == override(config, texts[::-1]).detector == expected


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed=1", r"expected detector\.FIELD=JSON or train\.FIELD=JSON"),
        ("train.seeds=1", "no field"),
        ("train.seed=one", "train.seed=one is not FIELD=JSON"),
        ("train.seed", "train.seed is not FIELD=JSON"),
        ("detector.classes=3", "classes is 3, it must be a list"),
    ],
)
def test_bad_assignments_are_refused(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(CONFIGS["bccd"], [assignment])
