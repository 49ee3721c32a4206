"""What counts as a leak, and what a soak must not do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.servers.processes import StudyError
from loadtest.studies.drills.report import Circumstances
from loadtest.studies.soak.report import (
    LEAKED,
    MIB,
    RESOURCES,
    Growth,
    SoakReport,
    Tally,
    write,
)
from loadtest.studies.soak.samples import Sample
from loadtest.studies.soak.study import growths
from loadtest.studies.soak.trend import Trend

REST = Sample(0.0, 0, 500 << 20, 400 << 20, 20, 12, 5, 0)
STILL = Trend(0.0, -1.0, 1.0)


def growth(field: str, trend: Trend = STILL) -> Growth:
    (resource,) = (each for each in RESOURCES if each.field == field)
    return Growth(resource.name, field, 1.0, 1.0, trend, resource.notable)


REPORT = SoakReport(
    circumstances=Circumstances("a machine", "2026-11-30", 0.5, {"Python": "3"}, {"seed": 0}),
    is_control=False,
    capacity_hz=40.0,
    rate_hz=10.0,
    seconds=3600.0,
    warm_up_s=600.0,
    tallies=[Tally("plain", 36000, {"200": 35990, "503": 10}, 0)],
    counted={"answered": 35990, "rejected": 10},
    certain=36000,
    possible=36000,
    growths=[growth(resource.field) for resource in RESOURCES],
    inside_after=0,
    samples=[REST],
)


def test_a_quiet_hour_is_good(tmp_path: Path) -> None:
    assert REPORT.is_good
    write(REPORT, tmp_path / "out" / "soak-2026-11-30")
    text = (tmp_path / "out" / "soak-2026-11-30.md").read_text()
    assert "36000 requests in 60 minutes, 10.0 a second: 25% of the 40.0 a second" in text
    assert "| file descriptors | 1 | 1 | +0.00 (-1.00 to +1.00) | +0.0278 | no |" in text
    assert "| plain | 36000 | 200 35990, 503 10 | 0 |" in text
    read = json.loads((tmp_path / "out" / "soak-2026-11-30.json").read_text())
    assert read["samples"][0]["descriptors"] == 20


@pytest.mark.parametrize("field", [resource.field for resource in RESOURCES])
def test_whatever_grows_is_a_leak(field: str) -> None:
    others = [growth(each.field) for each in RESOURCES if each.field != field]
    grown = replace(REPORT, growths=[*others, growth(field, Trend(9.0, 8.0, 10.0))])
    assert not grown.is_good
    assert "| **+9.00 (+8.00 to +10.00)** |" in grown.markdown()


@pytest.mark.parametrize("trend", [Trend(9.0, -0.1, 20.0), Trend(0.5, 0.4, 0.6)])
def test_what_may_be_chance_or_is_next_to_nothing_is_none(trend: Trend) -> None:
    assert not growth("threads", trend).grows


@pytest.mark.parametrize(
    "fault",
    [
        {"tallies": [Tally("plain", 36000, {"200": 35999, "500": 1}, 1)]},
        {"counted": {"answered": 35999}},
        {"counted": {"answered": 36001}},
        {"inside_after": 1},
    ],
)
def test_every_request_ends_once_as_it_may(fault: dict[str, Any]) -> None:
    assert not replace(REPORT, **fault).is_good


def test_of_a_control_every_leak_must_be_found() -> None:
    leak = Trend(9.0, 8.0, 10.0)
    control = replace(
        REPORT,
        is_control=True,
        growths=[growth(r.field, leak if r.field in LEAKED else STILL) for r in RESOURCES],
    )
    assert control.is_good
    missed = [growth(r.field) if r.field == "threads" else growth(r.field, leak) for r in RESOURCES]
    assert not replace(control, growths=missed).is_good
    assert "of a server that leaks" in control.markdown()


def test_trends_are_of_what_comes_after_the_warm_up() -> None:
    samples = [
        replace(REST, at_s=float(at_s), resident_bytes=(500 << 20) + max(0, 100 - at_s) * 2**20)
        for at_s in range(400)
    ]
    found = growths(REST, samples, REST, warm_up_s=100.0)
    assert [each.trend for each in found] == [Trend(0.0, 0.0, 0.0)] * len(RESOURCES)
    assert found[0].before == found[0].after == REST.resident_bytes / MIB
    with pytest.raises(StudyError, match="too short"):
        growths(REST, samples, REST, warm_up_s=399.0)
