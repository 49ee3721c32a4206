"""What is said of values that clients state."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from serving.api.budget import deadline_parameter
from serving.api.cutting import parse_cut
from serving.api.inference_message import read_parameters
from serving.api.numbers import shown
from serving.api.options import parse_options
from serving.api.tracking import parse_track
from serving.core.errors import InvalidParameter
from tests.serving.fakes import FAMILY


def nested() -> object:
    """Lists in each other, deeper than ``repr()`` goes."""
    value: object = 1
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("soon", "'soon'"),
        ("x" * 99, repr("x" * 40 + "...")),
        (12, "'12'"),
        (math.nan, "'NaN'"),
        (None, "'null'"),
        (True, "'true'"),
        ([1], "a list or an object"),
        ({"a": 1}, "a list or an object"),
        (nested(), "a list or an object"),
    ],
)
def test_what_was_stated_as_it_is_shown(given: object, text: str) -> None:
    assert shown(given) == text


@pytest.mark.parametrize(
    "read",
    [
        deadline_parameter,
        *(
            lambda value, name=name: parse_options([(name, value)], FAMILY)
            for name in ("min_depth", "max_depth", "score_threshold", "classes")
        ),
        *(
            lambda value, name=name: read_parameters({name: value}, FAMILY)
            for name in ("timeout", "deadline_ms", "max_depth")
        ),
    ],
)
def test_nested_values_are_the_clients_mistake(read: Callable[[object], object]) -> None:
    with pytest.raises(InvalidParameter, match="a list or an object"):
        read(nested())


@pytest.mark.parametrize(
    "read",
    [
        lambda text: parse_track([text], is_frame=True),
        lambda text: parse_cut([("tiles", "2x2"), ("whole", text)], 16).whole,
    ],
    ids=["track", "whole"],
)
def test_booleans_are_read_by_one_rule(read: Callable[[str], bool]) -> None:
    given = {"true": True, "True": True, "1": True, "false": False, "FALSE": False, "0": False}
    assert {text: read(text) for text in given} == given
    for text in ("", "yes", "01", " true", "\u0130"):
        with pytest.raises(InvalidParameter, match="true or false"):
            read(text)
