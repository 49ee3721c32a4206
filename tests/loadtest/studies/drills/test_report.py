"""What the drills found, as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.load.summary import LatencyQuantiles
from loadtest.studies.drills.report import (
    AlertReport,
    Circumstances,
    DepthAtBudget,
    HealthyRun,
    IdleReport,
    IdleRound,
    Provocation,
    RestartReport,
    RestartRun,
    write,
)

CIRCUMSTANCES = Circumstances(
    "a machine, 2 cores", "2026-11-25", 0.5, {"haproxy": "2.6"}, {"seed": 0}
)
RUN = RestartRun(
    proxy="haproxy, tcp",
    drain_delay_s=5.0,
    restarts=3,
    drain_s=(5.1, 5.2),
    outage_s=(9.0, 8.0),
    sent=1000,
    in_time=996,
    late=1,
    refused={"rejected-overload": 1},
    failed={"connection error: closed": 2},
    latency_ms=LatencyQuantiles(10.0, 20.0, 30.0, 40.0),
    invalid_because=("the client could not keep up",),
)
FIRED = Provocation("a flood", {"A": 3.0, "B": 4.5}, ("C",), 9.0, True)
HEALTHY = HealthyRun(600.0, 2000, (), {"in time": 3000, "late": 0})


def test_restarts_as_json_and_as_a_table(tmp_path: Path) -> None:
    write(RestartReport(CIRCUMSTANCES, [RUN]), tmp_path / "out" / "restart")
    text = (tmp_path / "out" / "restart.md").read_text()
    assert "a machine, 2 cores, 2026-11-25, load average 0.50 before. haproxy 2.6." in text
    assert (
        "| haproxy, tcp | 5 | 3 | up to 5.2 | up to 9.0 | 1000 "
        "| **2 (connection error: closed 2)** | 1 | 1 (rejected-overload 1) | 996 "
        "| 10.0 | 30.0 | 40 |"
    ) in text
    assert "haproxy, tcp, drain delay 5 s: the client could not keep up." in text
    (run,) = json.loads((tmp_path / "out" / "restart.json").read_text())["runs"]
    assert run["failed"] == RUN.failed
    assert RUN.num_failed == 2


def test_alerts_as_json_and_as_tables(tmp_path: Path) -> None:
    gone = Provocation("it ends", {"D": None}, (), None, False)
    report = AlertReport(CIRCUMSTANCES, 60.0, [FIRED, gone], HEALTHY)
    write(report, tmp_path / "alerts")
    text = (tmp_path / "alerts.md").read_text()
    assert "| a flood | A 3.0, B 4.5 | C | 9.0 |" in text
    assert "| it ends | D **never** |  | (not ended) |" in text
    assert "600 s (10.0 h in production), asked 2000 times. Requests: in time 3000." in text
    assert "Alerts that fired: **none**." in text
    assert json.loads((tmp_path / "alerts.json").read_text())["healthy"]["polls"] == 2000


@pytest.mark.parametrize(
    ("provoked", "healthy", "good"),
    [
        ([FIRED], HEALTHY, True),
        ([], None, True),
        ([Provocation("x", {"A": 1.0}, (), None, False)], None, True),
        ([Provocation("x", {"A": 1.0}, (), None, True)], None, False),
        ([Provocation("x", {"A": None}, (), 1.0, True)], None, False),
        ([FIRED], HealthyRun(1.0, 1, ("A",), {}), False),
    ],
)
def test_what_is_good(provoked, healthy, good: bool) -> None:
    assert AlertReport(CIRCUMSTANCES, 60.0, provoked, healthy).is_good is good


def test_an_idle_server_as_json_and_as_tables(tmp_path: Path) -> None:
    good = IdleRound(20.0, 21.0, 96, {"422 budget-infeasible": 3, "504 deadline-exceeded": 1}, 12.5)
    few = DepthAtBudget(10.0, 0, (), {"422 budget-infeasible": 5})
    many = DepthAtBudget(90.0, 5, ("1", "5", "7"), {})
    report = IdleReport(CIRCUMSTANCES, [good], [few, many])
    assert report.is_good
    write(report, tmp_path / "idle")
    text = (tmp_path / "idle.md").read_text()
    refused = "**4 (422 budget-infeasible 3, 504 deadline-exceeded 1)**"
    assert f"| 20.0 | 21.0 | 96 | 12.5 | {refused} |" in text
    assert "| 10.0 | 0 | - | 5 (422 budget-infeasible 5) |" in text
    assert "| 90.0 | 5 | 1, 5, 7 | 0 |" in text
    assert json.loads((tmp_path / "idle.json").read_text())["rounds"][0]["answered"] == 96


@pytest.mark.parametrize(
    ("round_", "budget"),
    [
        (IdleRound(20.0, 21.0, 94, {"422 x": 6}, 12.5), DepthAtBudget(10.0, 0, (), {})),
        (IdleRound(20.0, 21.0, 0, {"504 x": 6}, None), DepthAtBudget(10.0, 0, (), {})),
        (IdleRound(20.0, 21.0, 99, {"503 x": 1}, 12.5), DepthAtBudget(10.0, 0, (), {})),
        (IdleRound(20.0, 21.0, 100, {}, 12.5), DepthAtBudget(10.0, 4, ("1",), {"503 x": 1})),
    ],
)
def test_an_idle_server_that_does_not_keep_its_word(
    round_: IdleRound, budget: DepthAtBudget
) -> None:
    assert not IdleReport(CIRCUMSTANCES, [round_], [budget]).is_good
