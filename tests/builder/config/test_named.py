"""Named configurations: each survives JSON, and agrees with its data set."""

from __future__ import annotations

import json

import pytest

from builder.config.detector import DetectorConfig
from builder.config.named import CONFIGS
from builder.config.recipe import TrainConfig


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


def test_classes_are_those_of_the_data() -> None:
    from builder.data.deeppcb import CLASSES

    assert CONFIGS["deeppcb_small"].detector.classes == CLASSES
