"""What a run comes to, in figures that can be told by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from loadtest.load.outcomes import Outcome
from loadtest.load.served_accuracy import ServedAp
from loadtest.load.summary import MAX_CLASSES, LatencyQuantiles, summarise
from loadtest.workload.images import AnnotatedImage
from tests.loadtest.load.runs import PICTURE, ROWS, answer, failure, result

near: Any = pytest.approx
"""In the place of a float in a record."""


def test_every_request_is_counted_once():
    summary = summarise(result(ROWS))
    assert summary.count == 10
    assert summary.outcomes == {
        "in time": 3,
        "late": 1,
        "refused": 3,
        "HTTP error": 1,
        "connection error": 1,
        "timeout": 1,
        "unsent": 0,
    }
    assert sum(summary.outcomes.values()) == summary.count
    assert summary.reasons == {
        "refused": {"budget-infeasible": 2, "rejected-overload": 1},
        "HTTP error": {"internal": 1},
        "connection error": {"closed": 1},
        "timeout": {"no-reply-in-time": 1},
    }


def test_figures():
    summary = summarise(result(ROWS))
    assert summary.attainment == pytest.approx(0.3)
    assert summary.goodput_hz == pytest.approx(1.5)
    assert (summary.target_hz, summary.achieved_hz) == (5.0, 5.0)
    assert summary.depths == {1: 1, 3: 2}
    assert summary.points == {"exit 1": 1, "exit 3": 2}
    assert summary.mean_depth == pytest.approx(7 / 3)
    assert summary.expected_ap == pytest.approx(0.7 / 3)
    assert summary.in_time_accuracy == pytest.approx(0.07)
    assert summary.cpu_us_per_request == pytest.approx(1000)
    assert (summary.model, summary.target) == ("cells 7", "punctual")
    assert summary.is_valid


def test_answers_are_counted_by_operating_point_in_order_of_size():
    labels = ("300x300/1", "96x96/1", "300x300/1+428x428/1", "96x96/1")
    rows = [replace(answer(0.1, 0.01), operating_point=label) for label in labels]
    summary = summarise(result(rows))
    assert list(summary.points.items()) == [
        ("96x96/1", 2),
        ("300x300/1", 1),
        ("300x300/1+428x428/1", 1),
    ]
    assert summary.depths == {3: 4}


def test_latencies_are_those_of_answers_in_time_or_late():
    summary = summarise(result(ROWS))
    assert summary.latency_ms == LatencyQuantiles(*map(near, (30.0, 70.0, 70.0, 70.0)))
    assert summarise(result([failure(0.1, Outcome.REFUSED)])).latency_ms is None


def test_served_ap_in_time_and_with_misses():
    summary = summarise(result(ROWS))
    assert summary.served_in_time == ServedAp(near(1.0), near(1.0), 3)
    # Recall reaches 3 of 10 at full precision: 31 of COCO's 101 recall points.
    assert summary.served_with_misses == ServedAp(near(31 / 101), near(31 / 101), 10)


def test_without_annotations_there_is_no_served_ap():
    plain = summarise(result(ROWS, images=(replace(PICTURE, objects=None),)))
    assert (plain.served_in_time, plain.served_with_misses) == (None, None)
    assert plain.by_budget[0].served_with_misses is None


def test_annotations_need_the_models_classes():
    with pytest.raises(ValueError, match="classes are not known"):
        summarise(result(ROWS, classes=()))
    with pytest.raises(ValueError, match="others have none"):
        summarise(result(ROWS, images=(PICTURE, AnnotatedImage("b", b"b", "image/png"))))


def test_budgets_each():
    short, long = summarise(result(ROWS)).by_budget
    assert (short.least_ms, short.most_ms, short.count) == (40.0, 40.0, 8)
    assert (long.least_ms, long.most_ms, long.count) == (80.0, 80.0, 2)
    assert (long.outcomes["in time"], long.outcomes["refused"]) == (1, 1)
    assert long.in_time_accuracy == pytest.approx(0.15)
    assert long.mean_depth == 3
    assert long.served_with_misses is not None
    assert long.served_with_misses.num_requests == 2


def test_a_continuum_of_budgets_is_put_into_classes():
    rows = [answer(0.001 * i, 0.01, budget_s=0.02 + 0.001 * i) for i in range(100)]
    classes = summarise(result(rows)).by_budget
    assert len(classes) == MAX_CLASSES
    assert sum(entry.count for entry in classes) == 100
    assert all(a.most_ms < b.least_ms for a, b in itertools.pairwise(classes))


def test_a_server_that_does_not_say_its_depth_or_accuracy():
    summary = summarise(result([answer(0.1, 0.01, depth=None), answer(0.2, 0.01)]))
    assert summary.in_time_accuracy is None  # not that of half of the answers
    assert summary.depths == {3: 1}


def test_a_client_that_comes_late_makes_a_run_invalid():
    late = [replace(row, sent_s=row.scheduled_s + 0.006) for row in ROWS]
    summary = summarise(result(late))
    assert not summary.is_valid
    assert "more than 6.0 ms late (5 ms are allowed)" in summary.invalid_because[0]
    assert summary.lag_ms.p99 == pytest.approx(6)


def test_requests_that_could_not_be_sent_make_a_run_invalid():
    summary = summarise(result([*ROWS, failure(1.7, Outcome.UNSENT)]))
    assert summary.invalid_because == ("1 requests could not be sent at all",)
    assert summary.achieved_hz == 5.0  # it is not one that was sent
