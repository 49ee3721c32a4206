"""What a live study's tables say."""

import json
from dataclasses import replace
from pathlib import Path

from loadtest.studies.live.tables import markdown, write
from tests.loadtest.studies.live.runs import lost, report


def section(text: str, title: str) -> str:
    """From one heading to the next."""
    found = [part for part in text.split("\n## ") if part.startswith(title)]
    assert len(found) == 1, title
    return found[0]


def test_loads() -> None:
    text = section(markdown(report()), "poisson, by load")
    assert "| load | 0.3 | 0.9 |\n|---|---|---|\n| deadline | 60.0 (60.0 .. 90.0)" in text
    less = text[text.index("deadline less the other, within a round: Answered in time, %") :]
    assert "| litserve:1 | -10.0 (-10.0 .. 20.0) |" in less
    assert "| deadline |" not in less
    trace = section(markdown(report()), "trace:azure_conv, by load")
    assert "| deadline | 60.0 (60.0 .. 90.0) | - |" in trace


def test_the_best_fixed_points_in_hindsight() -> None:
    text = section(markdown(report()), "deadline and the best fixed operating points in hindsight")
    assert "| arrivals | load | deadline | fixed | litserve |" in text
    assert "| poisson | 0.3 | 0.150 (75.0) | 0.070 (70.0) 1 +0.0800 ±" in text
    assert "| trace:azure_conv | 0.9 |" not in text


def test_rates_instead_of_loads() -> None:
    found = report()
    found.reference = replace(found.reference, load_hz=1.0)
    text = markdown(found)
    assert "- Loads are requests per second." in text
    assert "Load 1 is" not in text


def test_where_it_is_behind() -> None:
    text = section(markdown(report()), "Where deadline is behind")
    assert "- attainment, poisson at 0.3, against litserve:1: -10.0 (-10.0 .. 20.0)" in text
    assert "against fixed:1" not in text
    only = report()
    only.runs = [run for run in only.runs if run.system != "litserve:1"]
    assert "Nowhere." in section(markdown(only), "Where deadline is behind")


def test_the_rest() -> None:
    text = markdown(report())
    assert "Load 1 is 100.0 requests/s" in text
    assert "1.50 times as many" in text
    assert "Peers give up after 40.0 ms" in text
    assert "| deadline | 0.3 | 0 | 100 | rejected-overload 25.0 |" in text
    burst = section(text, "A burst")
    assert "| deadline | 9.0, 25.0, 9.0 | 90.0, 50.0 | 2.00, 2.00 | 4.0 | 4.0 |" in burst
    assert "deadline's goodput is within a round 0.80 (0.80 .. 1.50) times fixed:1's." in burst
    ends = section(text, "Every request's end")
    assert "| deadline | client | 80 | 63 | 17 | 0 | 0 | 0 | 0 | 0 | 0 | 80 |  | 0 |" in ends
    assert "| deadline | server |  | 103 | 17 | 0 | 0 | 0 | 0 | 0 | 0 | 120 | 40 |  |" in ends
    assert "| litserve:1 | server" not in ends
    assert "22 of 22 runs are exact" in ends
    simulated = section(text, "Simulated beside live")
    assert "| 0.9 | 0.150 / 75.0 | 0.250 / 100.0 |" in simulated
    assert "(segments 1.11, 1.43 times as slow" in simulated
    assert "litserve" not in simulated
    assert "22 of 22 runs are valid" in section(text, "The client")


def test_what_went_wrong_is_named() -> None:
    found = report()
    found.runs[0] = lost(found.runs[0])
    late = replace(found.runs[1].summary, is_valid=False, invalid_because=("it was slow",))
    found.runs[1] = replace(found.runs[1], summary=late)
    found.bursts = [replace(run, burst_s=(0.0, 8.0)) for run in found.bursts]
    text = markdown(found)
    assert "21 of 22 runs are exact" in text
    assert "- not exact: fixed:1, poisson at 0.3: client {'answered': 8" in text
    assert "- not valid: deadline, poisson at 0.3: it was slow" in text
    assert "| deadline | - | - | - | - | - |" in text


def test_what_was_not_measured_is_not_told() -> None:
    nothing = replace(report(), runs=[], bursts=[], has_peers=False)
    text = markdown(nothing)
    assert text.count("\n## ") == 1
    assert "Without peers" in text


def test_it_is_written_twice(tmp_path: Path) -> None:
    write(report(), tmp_path / "live-2026-01-02")
    as_json, as_table = sorted(tmp_path.iterdir())
    assert json.loads(as_json.read_text())["date"] == "2026-01-02"
    assert as_table.name == "live-2026-01-02.md"
    assert as_table.read_text() == markdown(report())
