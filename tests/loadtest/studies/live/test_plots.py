"""Plots of a live study."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.studies.live import plots as live_plots
from tests.loadtest.studies.live.runs import IN_TIME, report

matplotlib = pytest.importorskip("matplotlib")


def test_a_file_for_each_part(tmp_path: Path) -> None:
    written = live_plots.plot(report(), tmp_path / "live-2026-01-02")
    assert [path.name for path in written] == [
        "live-2026-01-02-loads.png",
        "live-2026-01-02-recovery.png",
    ]
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")
    assert live_plots.plot(replace(report(), runs=[], bursts=[]), tmp_path / "x") == []


def test_every_system_has_a_line_where_it_was_measured() -> None:
    figure = live_plots.loads_figure(report())
    assert [ax.get_title() for ax in figure.axes] == [
        "poisson: Answered in time, %",
        "poisson: In-time accuracy",
        "trace:azure_conv: Answered in time, %",
        "trace:azure_conv: In-time accuracy",
    ]
    for ax, loads in zip(figure.axes, ([0.3, 0.9],) * 2 + ([0.3],) * 2, strict=True):
        bars: list[Any] = ax.containers
        drawn = {str(c.get_label()): list(c.lines[0].get_xdata()) for c in bars}
        assert drawn == dict.fromkeys(IN_TIME, loads)
