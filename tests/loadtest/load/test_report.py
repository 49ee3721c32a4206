"""The terminal's table and the JSON file."""

from __future__ import annotations

import json

from loadtest.load.outcomes import Outcome
from loadtest.load.report import REQUEST_FIELDS, accounting, text, write
from loadtest.load.summary import summarise
from tests.loadtest.load.runs import ROWS, failure, result


def test_the_accounting_adds_up_in_print():
    lines = accounting(summarise(result(ROWS))).splitlines()
    assert lines[0].split() == ["in", "time", "3"]
    assert "budget-infeasible 2, rejected-overload 1" in lines[2]
    assert lines[-1].endswith("10  = 3 + 1 + 3 + 1 + 1 + 1 + 0; to be sent: 10")


def test_the_table():
    shown = text(summarise(result(ROWS)))
    assert "in time          30.0% of 10" in shown
    assert "served AP        1.000 in time, 0.307 with misses" in shown
    assert "run              valid" in shown
    assert "NOT VALID: 1 requests" in text(summarise(result([failure(0.1, Outcome.UNSENT)])))


def test_the_files(tmp_path):
    run = result(ROWS)
    json_path, page_path = write(run, summarise(run), tmp_path / "new" / "folder")
    content = json.loads(json_path.read_text())
    assert content["summary"]["outcomes"]["refused"] == 3
    assert content["summary"]["by_budget"][1]["count"] == 2
    assert content["summary"]["seed"] == 0
    assert content["server"]["name"] == "cells"
    assert len(content["requests"]) == 10
    first = dict(zip(content["request_fields"], content["requests"][0], strict=True))
    assert first == {
        "scheduled_s": 0.0,
        "sent_s": 0.001,
        "finished_s": 0.01,
        "budget_s": 0.04,
        "picture": 0,
        "outcome": "in time",
        "reason": "",
        "depth": 1,
        "expected_ap": 0.1,
        "operating_point": None,
    }
    assert list(first) == list(REQUEST_FIELDS)
    assert page_path.read_text().startswith("<!doctype html>")
