"""The study's command and its files, on little."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.simulation.autoscaling import SHIPPED, scalers
from serving.__main__ import main
from tests.loadtest.simulation.test_autoscaling import slow_profile

LITTLE = ["--demand", "0.5", "2", "--seeds", "1", "--duration", "90", "--flood", "15", "75", "3"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.studies.autoscaling.study.SIGNAL_REQUESTS", 100)


@pytest.mark.usefixtures("small")
def test_figures_tables_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = str(slow_profile(tmp_path))
    command = ["study", "autoscaling", "--profile", profile, *LITTLE, "--out", str(tmp_path)]
    assert main(command) == 0
    said = capsys.readouterr().out
    (figures,) = tmp_path.glob("autoscaling-*.json")
    assert figures.with_suffix(".md").read_text() == said
    assert figures.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    content = json.loads(figures.read_text())
    assert content["machine"]
    assert content["settings"]["flood"]["factor"] == 3
    calm, flooded = content["signals"][profile].values()
    assert calm["mean_ap"] > flooded["mean_ap"] + 0.1
    assert [run["scaler"] for run in content["runs"]] == list(scalers(1.0, 1.0))
    fired = {run["scaler"]: run["fired_after_s"] for run in content["runs"]}
    assert fired.pop(SHIPPED) == 60
    assert set(fired.values()) == {None}
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in said.splitlines()}
    assert " | 60 | " in rows[SHIPPED]
    assert " | never | " in rows["p99 latency, to stay within the budget"]


def test_a_profile_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "autoscaling", "--profile", "none", "--out", str(tmp_path)]) == 2
    assert "punctual: profile 'none'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["study", "autoscaling", "--target", "0"])
    assert not list(tmp_path.iterdir())
