"""Rules: every field has one, and it refuses values of another kind."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from builder.config.detector import CHOICES, DETECTOR_RULES, DetectorConfig
from builder.config.named import CONFIGS
from builder.config.recipe import TRAIN_CHOICES, TRAIN_RULES, TrainConfig
from builder.config.rules import MAX_SHOWN

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


TIMES = (
    *("epochs", "warmup_steps", "exits_per_step", "images_per_epoch", "frozen_stages"),
    *("validate_every", "milestones"),
)
"""Fields that take time, or are no more than there is, and no memory."""


def absurd_values() -> list[tuple[str, str, object]]:
    return [
        (part, name, value)
        for part, rules in (("detector", DETECTOR_RULES), ("train", TRAIN_RULES))
        for name in rules
        if name not in TIMES
        for value in absurd(getattr(getattr(CONFIGS["bccd"], part), name))
    ]


def absurd(value: object) -> list[object]:
    match value:
        case bool():
            return []
        case int():
            return [10**10]
        case (int(), int()):
            return [(10**10, 128), (128, 10**10)]
        case (str() | float() as first, *_):
            return [(first,) * 10**6]
        case _:
            return []


@pytest.mark.parametrize(("part", "name", "value"), absurd_values())
def test_what_no_machine_has_memory_for_is_refused(part: str, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"\b{name} is ") as refused:
        replace(getattr(CONFIGS["bccd"], part), **{name: value})
    assert len(str(refused.value)) < 2 * MAX_SHOWN


@pytest.mark.parametrize(
    ("part", "name", "side", "large"),
    [
        ("detector", "served_sizes", (128, 128), (10**5, 128)),
        ("train", "input_sizes", 128, 10**5),
        ("train", "validation_sizes", 128, 10**5),
    ],
)
def test_lists_of_sizes_are_bounded(part: str, name: str, side: object, large: object) -> None:
    for value in ((side,) * 1000, (large,)):
        with pytest.raises(ValueError, match=rf"\b{name} is "):
            replace(getattr(CONFIGS["bccd"], part), **{name: value})


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
