"""Plots: which files a study gives, and that its lines are in them."""

from pathlib import Path

import numpy as np
import pytest

from loadtest.simulation import plots
from loadtest.simulation.report import SHIPPED, SimulationReport
from loadtest.simulation.study import Conditions, Point, study

matplotlib = pytest.importorskip("matplotlib")

POLICIES = ("deadline", "fixed:1", "slackfit")


def make_report(points: list[Point], duration_s: float | None = None) -> SimulationReport:
    conditions = Conditions("2x", 60, duration_s=duration_s)
    return SimulationReport(conditions, points, POLICIES, study(points, POLICIES, conditions, 2, 1))


def test_a_file_for_each_process_and_one_for_all(tmp_path: Path) -> None:
    points = [
        Point("cpu-lite", arrivals, load)
        for arrivals in ("poisson", "trace:azure_conv")
        for load in (0.9, 0.3)
    ]
    written = plots.plot(make_report(points), tmp_path)
    names = ["cpu-lite_poisson.png", "cpu-lite_trace-azure-conv.png", "cpu-lite.png"]
    assert [path.name for path in written] == names
    for path in written:
        assert matplotlib.image.imread(path).shape[0] > 400


def test_a_run_over_time_where_the_rate_follows_a_schedule(tmp_path: Path) -> None:
    written = plots.plot(make_report([Point("cpu-lite", "burst:1:1:5", 0.5)], 3.0), tmp_path)
    assert [path.name for path in written] == ["cpu-lite_burst-1-1-5_0.5.png"]


def test_every_policy_has_a_line_and_the_shipped_one_is_on_top() -> None:
    points = [Point("cpu-lite", "poisson", load) for load in (0.3, 0.9)]
    report = make_report(points)
    figure = plots._metrics_figure(report, points, plots.line_styles(POLICIES))
    assert len(figure.axes) == len(plots.METRIC_TITLES)
    for ax in figure.axes:
        lines = {str(line.get_label()): line for line in ax.get_lines()}
        assert set(POLICIES) <= set(lines)
        others = [line for name, line in lines.items() if name != SHIPPED]
        assert all(lines[SHIPPED].get_zorder() > line.get_zorder() for line in others)
        assert np.asarray(lines["fixed:1"].get_xdata()).tolist() == [0.3, 0.9]
    assert "oracle's bound" in {str(line.get_label()) for line in figure.axes[0].get_lines()}


def test_no_two_policies_look_alike() -> None:
    names = [f"fixed:{depth}" for depth in range(1, 25)]
    looks = {
        (style["color"], str(style["linestyle"]), style["marker"])
        for style in plots.line_styles(names).values()
    }
    assert len(looks) == len(names)


def test_a_path_becomes_a_short_name() -> None:
    assert plots._file_name(["a/b/cpu.json", "trace:data/x.csv"]) == "cpu_trace-x"
    assert plots._file_name(["gamma:0.5"]) == "gamma-0.5"
