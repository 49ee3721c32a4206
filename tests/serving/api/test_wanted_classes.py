from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.api.wanted_classes import MAX_LENGTH, parse_classes
from serving.core.errors import InvalidParameter

NAMES = ("person", "traffic light", "Mouse", "mouse", "7", "a,b")


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ("person", {0}),
        ("traffic light,person", {0, 1}),
        (" Traffic LIGHT , PERSON ,person", {0, 1}),
        ("Mouse", {2}),
        ("mouse", {3}),
        ("MOUSE", {2, 3}),
        ("0,5", {0, 5}),
        ("7", {4}),
        (7, {4}),
        (1, {1}),
        ("01", {1}),
    ],
)
def test_names_and_numbers(given: object, labels: set[int]) -> None:
    assert parse_classes(given, NAMES) == labels


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "none left out"),
        (",", "none left out"),
        ("person,,mouse", "none left out"),
        ("cat", r"no class 'cat'; GET /v1/models lists all 6, such as 'person', number 0"),
        ("person,cat,dog,cat", r"no class 'cat', 'dog'; GET"),
        ("traffic  light", "no class"),
        ("6", "no class '6'"),
        (6, "no class '6'"),
        ("-1", "no class '-1'"),
        (-1, "no class '-1'"),
        ("\u0661", "no class"),
        (",".join(f"x{i}" for i in range(8)), r"'x4' and 3 more; GET"),
        ("x" * (MAX_LENGTH + 1), "at most 4096 are read"),
        (True, "must be names or numbers"),
        (1.0, "must be names or numbers"),
        (None, "must be names or numbers"),
        (["person"], "must be names or numbers"),
    ],
)
def test_refused(given: object, expected: str) -> None:
    with pytest.raises(InvalidParameter, match=expected):
        parse_classes(given, NAMES)


@given(st.text(max_size=60))
def test_whatever_is_sent_is_some_classes_or_an_error(text: str) -> None:
    try:
        labels = parse_classes(text, NAMES)
    except InvalidParameter:
        return
    assert labels
    assert labels <= set(range(len(NAMES)))
