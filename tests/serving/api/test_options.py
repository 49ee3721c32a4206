from __future__ import annotations

import pytest
from starlette.datastructures import QueryParams

from serving.api.options import Options, describe_options, parse_options
from serving.core.errors import InvalidParameter
from tests.serving.fakes import CATALOG


def parse(query: str) -> Options:
    return parse_options(QueryParams(query), CATALOG)


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", Options(1, 3, 0.05)),
        ("max_depth=2", Options(1, 2, 0.05)),
        ("max_depth=99", Options(1, 3, 0.05)),
        ("min_depth=2&max_depth=2", Options(2, 2, 0.05)),
        ("score_threshold=0.5", Options(1, 3, 0.5)),
        ("score_threshold=1", Options(1, 3, 1.0)),
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
    ],
)
def test_refused(query: str) -> None:
    with pytest.raises(InvalidParameter):
        parse(query)


def test_described() -> None:
    described = {entry["name"]: entry["schema"] for entry in describe_options(CATALOG)}
    assert described["min_depth"] == {"type": "integer", "minimum": 1, "maximum": 3, "default": 1}
    assert described["max_depth"] == {"type": "integer", "minimum": 1, "default": 3}
    assert described["score_threshold"]["minimum"] == 0.05
