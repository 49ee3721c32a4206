"""Numbers on the command line: what is taken, and what is said of what is not."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from serving.core.command_numbers import (
    at_least,
    between,
    count,
    natural,
    not_negative,
    positive,
    share,
)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (positive, "1e-3", 0.001),
        (not_negative, "0", 0.0),
        (share, "1", 1.0),
        (between(-1.0, 1.0), "-1", -1.0),
        (natural, "0", 0),
        (count, "1", 1),
    ],
)
def test_numbers_that_are_taken(kind: Callable[[str], float], text: str, value: float) -> None:
    assert kind(text) == value


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-2", "", "x"])
@pytest.mark.parametrize("kind", [positive, not_negative, share, natural, count])
def test_numbers_that_are_refused(kind: Callable[[str], float], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"is no|is less than"):
        kind(text)


@pytest.mark.parametrize(
    ("kind", "text"), [(positive, "0"), (share, "1.01"), (count, "0"), (at_least(1, 9), "10")]
)
def test_numbers_just_beyond(kind: Callable[[str], float], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        kind(text)
