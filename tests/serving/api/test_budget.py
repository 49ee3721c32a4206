from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from serving.api.budget import Budget, deadline_parameter, parse_budget
from serving.core.errors import InvalidParameter


def parse(*headers: tuple[str, str]) -> Budget:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return parse_budget(Headers(raw=raw), default_s=1.0, max_s=10.0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("40", 0.04),
        ("12.5", 0.0125),
        ("0.001", 1e-6),
        ("040", 0.04),
        ("40 ", 0.04),
        ("10000", 10.0),
        ("10001", 10.0),
        ("999999999999999", 10.0),
    ],
)
def test_deadline(text: str, seconds: float) -> None:
    assert parse(("X-Deadline-Ms", text)).seconds == pytest.approx(seconds)


MALFORMED = (
    *("", " ", "0", "0.0", "00", "-1", "+1", "-0", "nan", "NaN", "inf", "Infinity", "-inf"),
    *("5,6", "5 6", "1_0", "1e3", "0x10", ".5", "5.", "5.5.5", "5ms", "forty", "\u00b2", "\xa05"),
    "9" * 400,
)


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_deadlines(text: str) -> None:
    with pytest.raises(InvalidParameter, match="X-Deadline-Ms must be a positive decimal"):
        parse(("X-Deadline-Ms", text))


@given(st.text(st.characters(max_codepoint=255)))
def test_a_deadline_is_a_number_or_an_error(text: str) -> None:
    try:
        budget = parse(("X-Deadline-Ms", text))
    except InvalidParameter:
        return
    assert 0 < budget.seconds <= 10
    assert budget.seconds == min(float(text.strip(" \t")) / 1e3, 10)


@pytest.mark.parametrize(
    ("name", "text", "seconds"),
    [
        ("grpc-timeout", "100m", 0.1),
        ("grpc-timeout", "2S", 2.0),
        ("grpc-timeout", "50000u", 0.05),
        ("grpc-timeout", "99999999n", 0.099999999),
        ("grpc-timeout", "1H", 10.0),
        ("grpc-timeout", "1M", 10.0),
        ("x-envoy-expected-rq-timeout-ms", "15000", 10.0),
        ("x-envoy-expected-rq-timeout-ms", "300", 0.3),
        ("Prefer", "wait=2", 2.0),
        ("Prefer", "respond-async, wait=3; why=not", 3.0),
        ("Prefer", 'wait="2"', 2.0),
        ("Prefer", "wait=4, wait=2", 4.0),  # the first counts (RFC 7240)
    ],
)
def test_bounds(name: str, text: str, seconds: float) -> None:
    assert parse(("X-Deadline-Ms", "9999999"), (name, text)).seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *[("grpc-timeout", t) for t in ("", "0m", "100", "m", "123456789m", "1.5S", "1s", "-1S")],
        *[("x-envoy-expected-rq-timeout-ms", t) for t in ("", "0", "-1", "1.5", "x")],
        *[("Prefer", t) for t in ("wait", "wait=", "wait=0", "wait=-1", "wait=1.5", "wait=soon")],
    ],
)
def test_malformed_bounds(name: str, text: str) -> None:
    with pytest.raises(InvalidParameter, match=name):
        parse((name, text))


def test_the_smallest_wins() -> None:
    headers = {
        "X-Deadline-Ms": "400",
        "grpc-timeout": "300m",
        "x-envoy-expected-rq-timeout-ms": "200",
        "Prefer": "wait=1",
    }
    assert parse(*headers.items()).seconds == pytest.approx(0.2)
    assert parse(*headers.items(), ("X-Other", "1")).wait == "1"


def asked(*values: str, header: str | None = None) -> Budget:
    headers = Headers({} if header is None else {"X-Deadline-Ms": header})
    return parse_budget(headers, default_s=1.0, max_s=10.0, deadlines_ms=values)


def test_the_query_may_state_a_deadline() -> None:
    assert asked().seconds == 1.0
    assert asked("40").seconds == asked("40", header="50").seconds == 0.04
    assert asked("50", header="40").seconds == 0.04
    assert asked("2000").seconds == 2.0, "it replaces the default"
    assert asked("20000").seconds == 10.0
    with pytest.raises(InvalidParameter, match="deadline_ms was sent 2 times"):
        asked("40", "40")


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_deadlines_in_the_query(text: str) -> None:
    with pytest.raises(InvalidParameter, match="deadline_ms must be a positive decimal"):
        asked(text)
    with pytest.raises(InvalidParameter, match="deadline_ms must be a positive decimal"):
        deadline_parameter(text)


@pytest.mark.parametrize(("given", "seconds"), [(40, 0.04), (12.5, 0.0125), ("40", 0.04)])
def test_deadlines_from_json(given: object, seconds: float) -> None:
    assert deadline_parameter(given) == seconds


@pytest.mark.parametrize(
    "given", [0, -1, 0.0, math.nan, math.inf, -math.inf, 10**400, True, None, [40], "", "4O"]
)
def test_malformed_deadlines_from_json(given: object) -> None:
    with pytest.raises(InvalidParameter, match="deadline_ms must be a positive decimal"):
        deadline_parameter(given)


def test_the_default_is_bounded_too() -> None:
    assert parse() == Budget(1.0, 10.0)
    assert parse().seconds == 1.0
    assert parse(("grpc-timeout", "300m")).seconds == pytest.approx(0.3)
    assert parse(("Prefer", "respond-async")) == Budget(1.0, 10.0)


@pytest.mark.parametrize("name", ["X-Deadline-Ms", "grpc-timeout"])
def test_once_is_allowed(name: str) -> None:
    with pytest.raises(InvalidParameter, match="2 times"):
        parse((name, "40"), (name, "40"))


def test_what_a_program_prints_of_a_float_is_understood():
    headers = Headers({"X-Deadline-Ms": str(0.1 + 0.2)})
    assert parse_budget(headers, default_s=1.0, max_s=10.0).seconds == pytest.approx(0.0003)
