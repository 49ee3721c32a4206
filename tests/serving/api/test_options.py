from __future__ import annotations

import math

import pytest
from starlette.datastructures import QueryParams

from serving.api.numbers import LARGEST
from serving.api.options import Options, describe_options, parse_options
from serving.core.errors import InvalidParameter
from tests.serving.fakes import DETECTIONS, FAMILY


def parse(query: str) -> Options:
    return parse_options(QueryParams(query).multi_items(), FAMILY)


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", Options(1, 3, 0.05)),
        ("max_depth=2", Options(1, 2, 0.05)),
        ("max_depth=99", Options(1, 3, 0.05)),
        ("min_depth=2&max_depth=2", Options(2, 2, 0.05)),
        ("score_threshold=0.5", Options(1, 3, 0.5)),
        ("score_threshold=1", Options(1, 3, 1.0)),
        ("classes=Square", Options(1, 3, 0.05, frozenset({1}))),
        ("classes=1,circle", Options(1, 3, 0.05, frozenset({0, 1}))),
    ],
)
def test_accepted(query: str, options: Options) -> None:
    assert parse(query) == options


@pytest.mark.parametrize(
    "query",
    [
        *("depth=1", "Min_depth=1", "=1", "min_depth", "min_depth=", "min_depth=0"),
        *("min_depth=4", "min_depth=-1", "min_depth=1.0", "min_depth=one", "min_depth=1_0"),
        *("min_depth=%D9%A1", "max_depth=0", "min_depth=3&max_depth=2"),
        *("min_depth=1&min_depth=1", "score_threshold=0.04", "score_threshold=1.01"),
        *("score_threshold=nan", "score_threshold=inf", "score_threshold=5e-1"),
        *("classes=", "classes=triangle", "classes=2", "classes=0&classes=1"),
    ],
)
def test_refused(query: str) -> None:
    with pytest.raises(InvalidParameter):
        parse(query)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"min_depth": 2, "max_depth": 10**30}, Options(2, 3, 0.05)),
        ({"min_depth": "2"}, Options(2, 3, 0.05)),
        ({"score_threshold": 0.1 + 0.2}, Options(1, 3, 0.1 + 0.2)),
        ({"score_threshold": 1}, Options(1, 3, 1.0)),
        ({"classes": 1}, Options(1, 3, 0.05, frozenset({1}))),
    ],
)
def test_values_from_json(given: dict[str, object], options: Options) -> None:
    assert parse_options(given.items(), FAMILY) == options


@pytest.mark.parametrize(
    "given",
    [
        *({"min_depth": 2.0}, {"min_depth": True}, {"min_depth": None}, {"min_depth": [2]}),
        *({"score_threshold": math.nan}, {"score_threshold": math.inf}, {"max_depth": -1}),
    ],
)
def test_values_that_json_may_hold(given: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter, match=next(iter(given))):
        parse_options(given.items(), FAMILY)


def test_names_what_else_there_is() -> None:
    with pytest.raises(InvalidParameter, match=r"there are min_depth, .*, timeout"):
        parse_options([("depth", 1)], FAMILY, others=("timeout",))


def test_described() -> None:
    described = {entry["name"]: entry["schema"] for entry in describe_options(FAMILY)}
    assert described["min_depth"] == {"type": "integer", "minimum": 1, "maximum": 3, "default": 1}
    deepest = {"type": "integer", "minimum": 1, "maximum": LARGEST, "default": 3}
    assert described["max_depth"] == deepest
    assert described["score_threshold"]["minimum"] == 0.05
    assert described["classes"]["items"]["anyOf"][0] == {"enum": list(FAMILY.classes)}


def test_wanted() -> None:
    def kept(query: str) -> list[bool]:
        return parse(query).wanted(DETECTIONS).tolist()

    assert kept("") == [True] * 3
    assert kept("classes=circle") == [False, True, True]
    assert kept("classes=circle&score_threshold=0.5") == [False, True, False]
    assert kept("classes=square,circle") == [True] * 3
