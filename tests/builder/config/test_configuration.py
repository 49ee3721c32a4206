"""Configurations: what overrides their fields."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.config.configuration import Config, override
from builder.config.detector import DetectorConfig
from builder.config.named import CONFIGS
from builder.config.pyramid_graphs import GRAPHS, InvalidGraph


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
