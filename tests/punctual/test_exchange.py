"""What is sent, and for how long it is tried."""

from __future__ import annotations

import math

import pytest

from punctual.exchange import (
    JITTER,
    MIN_WAIT_S,
    DetectOptions,
    Patience,
    base_url,
    key_headers,
    prepare,
    read_json,
)
from punctual.problems import Overloaded, Problem, UnexpectedReply
from punctual.reply import read_frame_reply, read_reply, read_server_timing
from tests.punctual.test_clients import ANSWER
from tests.serving.fakes import JPEG


def test_options_are_sent_as_the_server_reads_them() -> None:
    options: DetectOptions = {
        "deadline_ms": 80,
        "min_depth": 1,
        "max_depth": 3,
        "score_threshold": 0.4,
        "classes": ["traffic light", 7],
        "stream": "door",
        "frame": 9,
        "track": True,
        "patience_s": 2,
    }
    request = prepare(JPEG, options)
    assert request.params == {
        "min_depth": "1",
        "max_depth": "3",
        "score_threshold": "0.4",
        "classes": "traffic light,7",
        "stream": "door",
        "frame": "9",
        "track": "true",
    }
    assert request.headers["X-Deadline-Ms"] == "80"
    assert request.headers["Content-Type"] == "image/jpeg"


def test_one_class_is_not_taken_for_its_letters() -> None:
    assert prepare(JPEG, {"classes": "cup"}).params == {"classes": "cup"}


def test_what_is_left_out_is_the_servers_choice() -> None:
    request = prepare(JPEG, {})
    assert not request.params
    assert "X-Deadline-Ms" not in request.headers


@pytest.mark.parametrize(("given", "sent"), [(12.5, "12.5"), (1e7, "10000000"), (0.25, "0.25")])
def test_a_deadline_is_a_plain_decimal(given: float, sent: str) -> None:
    assert prepare(JPEG, {"deadline_ms": given}).headers["X-Deadline-Ms"] == sent


@pytest.mark.parametrize("deadline_ms", [0, -1, math.nan, math.inf])
def test_a_deadline_that_is_no_time_is_refused(deadline_ms: float) -> None:
    with pytest.raises(ValueError, match="must be a positive number of milliseconds"):
        prepare(JPEG, {"deadline_ms": deadline_ms})


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://a", "http://", "/v1"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not the URL of a server"):
        base_url(url)


@pytest.mark.parametrize("key", ["", "two\nlines", "schlüssel"])
def test_what_can_be_no_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as raised:
        key_headers(key)
    assert not key or key not in str(raised.value)


@pytest.mark.parametrize("content", [b"<html>", b"[1]", b'"a"', b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("status", [200, 502])
def test_what_is_no_object_is_unexpected(status: int, content: bytes) -> None:
    with pytest.raises(UnexpectedReply, match=str(status)):
        read_json(status, content, {})


def test_a_reply_that_lacks_something_is_unexpected() -> None:
    with pytest.raises(UnexpectedReply, match="request_id"):
        read_reply({"model": "cells"}, round_trip_s=0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 1),
        ("image", [64, 48]),
        ("image", {"width": "64", "height": 48}),
        ("detections", {"box": []}),
        ("detections", [None]),
        ("detections", [{"box": "1234", "score": 0.9, "label": "s", "class_id": 1}]),
        ("detections", [{"box": [1, 2, 3, 1e999], "score": 0.9, "label": "s", "class_id": 1}]),
        ("detections", [{"box": [1, 2, 3, 4], "score": 0.9, "label": "s", "class_id": "1"}]),
        ("exit_depth", None),
        ("expected_ap", "high"),
        ("elapsed_ms", 10**400),
    ],
)
def test_a_reply_with_something_else_in_it_is_unexpected(name: str, value: object) -> None:
    assert read_reply(ANSWER, round_trip_s=0.1).raw == ANSWER
    with pytest.raises(UnexpectedReply, match="lacks what one of detection has"):
        read_reply({**ANSWER, name: value}, round_trip_s=0.1)


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "null", "<html>", "[" * 100_000, '{"frame": 1}'),
        '{"frame": 1e999, "outcome": "answered"}',
        '{"frame": 1, "outcome": "overloaded", "status": "x"}',
    ],
)
def test_a_message_that_is_about_no_frame_is_unexpected(text: str) -> None:
    with pytest.raises(UnexpectedReply, match="about no frame"):
        read_frame_reply(text)


def test_stages_are_read_from_server_timing() -> None:
    header = 'read;dur=0.3, cdn, engine;dur=4.8;desc="depth=1", odd;dur=x'
    assert read_server_timing(header) == {"read": 0.3, "engine": 4.8}
    assert read_server_timing("") == {}


def overloaded(retry_after_s: float | None) -> Problem:
    return Overloaded(
        "overloaded", status=503, title="Full", detail="", retry_after_s=retry_after_s
    )


@pytest.mark.parametrize(
    ("retry_after_s", "drawn", "wait_s"),
    [(2.0, 0.0, 2.0), (2.0, 1.0, 2.0 * (1 + JITTER)), (0.0, 0.0, MIN_WAIT_S), (10.0, 1.0, 10.0)],
)
def test_a_wait_is_the_servers_and_a_little_more(
    retry_after_s: float, drawn: float, wait_s: float
) -> None:
    patience = Patience(10.0, now_s=100.0, draw=lambda: drawn)
    assert patience.wait_s(overloaded(retry_after_s), 100.0) == pytest.approx(wait_s)


@pytest.mark.parametrize(("retry_after_s", "now_s"), [(None, 100.0), (2.0, 108.5), (11.0, 100.0)])
def test_nobody_waits_for_what_would_come_too_late(
    retry_after_s: float | None, now_s: float
) -> None:
    problem = overloaded(retry_after_s)
    with pytest.raises(Overloaded) as raised:
        Patience(10.0, now_s=100.0).wait_s(problem, now_s)
    assert raised.value is problem


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf])
def test_patience_is_a_number_of_seconds(seconds: float) -> None:
    with pytest.raises(ValueError, match="patience_s"):
        Patience(seconds, now_s=0.0)
