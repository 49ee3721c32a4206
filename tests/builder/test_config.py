"""Configurations: JSON round trip, derived facts, refusals."""

from __future__ import annotations

import json

import pytest

from builder.config import CONFIGS, DetectorConfig, TrainConfig, replace


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
    ],
)
def test_impossible_detectors_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        replace(CONFIGS["bccd"].detector, **change)


def test_derived_facts() -> None:
    config = replace(CONFIGS["bccd"].detector, input_size=(128, 256), aspect_ratios=(1.0, 2.0))
    assert config.feature_sizes == ((16, 32), (8, 16), (4, 8), (2, 4), (1, 2))
    assert config.anchors_per_location == 2 * len(config.octave_scales)
    assert config.num_exits == config.num_stacks
