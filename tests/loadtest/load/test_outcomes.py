"""Each way a request can end, read from its reply."""

from __future__ import annotations

import json

import pytest

from loadtest.load.client import Failure, HttpReply
from loadtest.load.outcomes import Outcome, read_outcome

START_S = 100.0
OFFSET_S = 2.0
BUDGET_S = 0.05


def row(reply: HttpReply, ap_by_depth=None):
    return read_outcome(reply, START_S, OFFSET_S, BUDGET_S, 3, ap_by_depth or {})


def answer(latency_s: float, content: object = None) -> HttpReply:
    if content is None:
        content = {
            "detections": [{"box": [1, 2, 3, 4], "score": 0.75, "class_id": 2}],
            "exit_depth": 4,
            "expected_ap": 0.6,
        }
    finished_s = START_S + OFFSET_S + latency_s
    return HttpReply(START_S + OFFSET_S + 0.001, finished_s, 200, json.dumps(content).encode())


def test_an_answer_in_time():
    found = row(answer(0.04))
    assert found.outcome is Outcome.IN_TIME
    assert found.is_answer
    assert found.latency_s == pytest.approx(0.04)
    assert found.lag_s == pytest.approx(0.001)
    assert (found.image, found.depth, found.expected_ap) == (3, 4, 0.6)
    assert found.detections is not None
    assert found.detections.boxes_xyxy.tolist() == [[1, 2, 3, 4]]
    assert found.detections.scores.tolist() == [0.75]
    assert found.detections.labels.tolist() == [2]


def test_an_answer_of_an_operating_point():
    content = {"detections": [], "exit_depth": 1, "expected_ap": 0.47}
    assert (row(answer(0.01, content)).operating_point, row(answer(0.01, content)).point) == (
        None,
        "exit 1",
    )
    found = row(answer(0.01, {**content, "operating_point": "236x236/1+428x428/1"}))
    assert found.point == found.operating_point == "236x236/1+428x428/1"
    assert (found.depth, found.expected_ap) == (1, 0.47)
    assert row(answer(0.01, {"detections": []})).point is None


def test_late_is_what_ends_after_the_budget_from_the_scheduled_moment():
    """Not from the moment at which it was sent."""
    found = row(answer(0.0505))
    assert found.finished_s - found.sent_s < BUDGET_S
    assert (found.outcome, found.is_answer) == (Outcome.LATE, True)


def test_servers_need_not_say_depth_or_accuracy():
    plain = answer(0.01, {"detections": []})
    assert (row(plain).depth, row(plain).expected_ap) == (None, None)
    assert row(plain).detections.boxes_xyxy.shape == (0, 4)
    deep = answer(0.01, {"detections": [], "exit_depth": 7})
    assert row(deep, {7: 0.62}).expected_ap == 0.62


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"detections": [{"box": [1, 2], "score": 0.5, "class_id": 0}]},
        {"detections": [{"box": [1, 2, 3, 4], "score": 0.5}]},
        {"detections": [], "exit_depth": "deep"},
    ],
)
def test_an_answer_that_cannot_be_read_is_an_error(content):
    found = row(answer(0.01, content))
    assert (found.outcome, found.reason) == (Outcome.HTTP_ERROR, "unreadable-reply")


def test_text_is_no_answer():
    found = row(HttpReply(0, 0, 200, b"<html>"))
    assert (found.outcome, found.reason) == (Outcome.HTTP_ERROR, "unreadable-reply")


@pytest.mark.parametrize(
    ("status", "content", "outcome", "reason"),
    [
        (
            503,
            {"type": "urn:punctual:problem:overloaded", "reason": "rejected-overload"},
            Outcome.REFUSED,
            "rejected-overload",
        ),
        (
            422,
            {"type": "urn:punctual:problem:budget-infeasible"},
            Outcome.REFUSED,
            "budget-infeasible",
        ),
        (504, {"detail": "Request timed out"}, Outcome.REFUSED, "http-504"),
        (429, "slow down", Outcome.REFUSED, "http-429"),
        (500, {"type": "urn:punctual:problem:internal"}, Outcome.HTTP_ERROR, "internal"),
        (404, {"detail": "Not Found"}, Outcome.HTTP_ERROR, "http-404"),
        (400, {"type": None}, Outcome.HTTP_ERROR, "http-400"),
    ],
)
def test_refusals_and_errors(status, content, outcome, reason):
    found = row(HttpReply(0, 0, status, json.dumps(content).encode()))
    assert (found.outcome, found.reason, found.is_answer) == (outcome, reason, False)


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (Failure.CONNECTION, Outcome.CONNECTION_ERROR),
        (Failure.TIMEOUT, Outcome.TIMEOUT),
        (Failure.UNSENT, Outcome.UNSENT),
    ],
)
def test_no_reply(failure, outcome):
    found = row(HttpReply(0, 0, failure=failure, reason="why"))
    assert (found.outcome, found.reason) == (outcome, "why")
