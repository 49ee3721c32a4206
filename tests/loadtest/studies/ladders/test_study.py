"""``punctual study ladders``: the policy against the best fixed point in hindsight."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.cli import ladders as ladders_cli
from loadtest.simulation.study import Conditions, Point, run_policy
from loadtest.studies.ladders.study import (
    LadderReport,
    LadderStudySettings,
    LadderSummary,
    markdown,
    page,
    rows,
    study,
    summaries,
    to_json,
)
from tests.commands import run_command

SETTINGS = LadderStudySettings(
    profiles=("few", "three-by-three"),
    arrivals=("poisson",),
    loads=(0.2, 1.0),
    conditions=Conditions("1.2x,4x", 150),
    seeds=2,
    jobs=1,
)


@pytest.fixture(scope="module")
def report() -> LadderReport:
    return study(SETTINGS, "2026-01-01", "a machine", lambda text: None)


def test_hindsight_is_the_best_of_all_fixed_points_over_the_seeds(report: LadderReport) -> None:
    point = Point("three-by-three", "poisson", 1.0)
    ladder = ["192x192", "320x320", "448x448"]
    means = {
        f"{size}/{depth}": sum(
            run_policy(point, f"fixed:{size}/{depth}", SETTINGS.conditions, seed).in_time_accuracy
            for seed in range(2)
        )
        / 2
        for size in ladder
        for depth in (1, 2, 3)
    }
    (row,) = [row for row in rows(report.simulated) if row.point == point]
    assert row.best_accuracy == pytest.approx(max(means.values()))
    assert means[row.best_fixed] == max(means.values())
    assert row.regret.mean == pytest.approx(row.best_accuracy - row.accuracy)
    assert row.accuracy / row.bound == pytest.approx(row.share, rel=0.01)
    assert 0 < row.accuracy <= row.bound


def test_a_ladder_is_summed_up_over_its_settings(report: LadderReport) -> None:
    found = rows(report.simulated)
    few, three, every = summaries(report.simulated)
    assert (few.name, three.name, every.name) == ("few", "three-by-three", "all")
    assert few.settings + three.settings == every.settings == len(found) == 4
    assert every.behind == sum(row.regret.mean > 0 for row in found) == few.behind + three.behind
    assert every.certain <= every.behind
    assert every.worst == max(row.regret.mean for row in found)
    assert LadderSummary.of("one", found[:1]).share == found[0].share


def test_what_is_written_says_the_same(report: LadderReport) -> None:
    text, data = markdown(report), to_json(report)
    assert "simulated 2026-01-01" in text
    assert "On a machine. Budgets 1.2x,4x, jitter 0.03, seeds 0 to 1" in text
    row = rows(report.simulated)[0]
    assert f"| poisson | 0.2 | {row.accuracy:.3f} |" in text
    assert f"{row.best_accuracy:.3f} ({row.best_fixed})" in text
    assert f"<td>{row.accuracy:.3f}</td>" in page(report)
    written = json.loads(json.dumps(data))["points"][0]
    assert written["regret"]["mean"] == row.regret.mean
    assert written["best_fixed"] == f"fixed:{row.best_fixed}"
    assert written["fixed"][written["best_fixed"]] == row.best_accuracy
    assert data["summary"][-1]["name"] == "all"


def test_the_command_writes_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (
        *("--profile", "few", "--arrivals", "poisson", "--load", "0.5", "--requests", "60"),
        *("--seeds", "2", "--jobs", "1", "--out", str(tmp_path)),
    )
    assert run_command(ladders_cli.add_parser, "ladders", *arguments) == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".html"}
    out, err = capsys.readouterr()
    assert next(tmp_path.glob("*.md")).read_text() == out
    assert "## few" in out
    assert "wrote" in err


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (("--profile", "tpu"), "neither a readable file"),
        (("--arrivals", "sometimes"), "sometimes"),
        (("--budgets", "long"), "long"),
    ],
)
def test_what_cannot_be_meant(
    option: tuple[str, str], complaint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_command(ladders_cli.add_parser, "ladders", *option, "--out", str(tmp_path)) == 2
    assert complaint in capsys.readouterr().err
