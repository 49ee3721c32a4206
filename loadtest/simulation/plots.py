"""Plots of a study by simulation, as PNG files.

PROFILE_ARRIVALS.png           four metrics against load, a line per policy
PROFILE.png                    in-time accuracy against load, a panel per arrival process
PROFILE_ARRIVALS_LOAD.png      a run over time, where the rate of arrivals follows a schedule
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from loadtest.simulation.report import SHIPPED, SimulationReport
from loadtest.simulation.study import Point, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRIC_TITLES: Mapping[str, str] = {
    "in_time_accuracy": "In-time accuracy (AP in time / all requests)",
    "attainment": "Attainment (answered in time / all)",
    "mean_ap": "Mean AP of those in time",
    "goodput_hz": "Goodput (answered in time per second)",
}
# Colours by Okabe and Ito, which people with colour blindness can tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8C564B", "#999999", "#B8A800")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_MARKERS = "osv^DPX<"
_SHIPPED_STYLE: Mapping[str, Any] = {
    "color": "#C00020",
    "linewidth": 2.8,
    "marker": "o",
    "zorder": 10,
}
_BOUND_STYLE: Mapping[str, Any] = {
    "color": "black",
    "linewidth": 1.2,
    "linestyle": "--",
    "zorder": 9,
}
DPI = 120
_MAX_COLUMNS = 3
_SMOOTHED_BINS = 3


def plot(report: SimulationReport, folder: Path) -> list[Path]:
    """Write every plot into ``folder``, which exists, and return the paths."""
    written = []
    points = list(report.cells)
    policies = dict.fromkeys(policy for cells in report.cells.values() for policy in cells)
    styles = line_styles(policies)
    for profile in dict.fromkeys(point.profile for point in points):
        by_arrivals: dict[str, list[Point]] = {}
        for point in sorted(points, key=lambda point: point.load):
            if point.profile == profile:
                by_arrivals.setdefault(point.arrivals, []).append(point)
        for arrivals, of_arrivals in by_arrivals.items():
            if len(of_arrivals) > 1:
                figure = _metrics_figure(report, of_arrivals, styles)
                written.append(_save(figure, folder, profile, arrivals))
            for point in of_arrivals:
                cells = report.cells[point]
                timelines = {p: line for p, cell in cells.items() if (line := cell.timeline)}
                if timelines:
                    figure = timeline_figure(
                        f"{_short(profile)}, {arrivals}, load {point.load:g}",
                        timelines,
                        max(len(cell.runs) for cell in cells.values()),
                        point.duration_s(report.conditions),
                        styles,
                    )
                    written.append(_save(figure, folder, profile, arrivals, f"{point.load:g}"))
        several = {name: of for name, of in by_arrivals.items() if len(of) > 1}
        if len(several) > 1:
            written.append(_save(_overview_figure(report, several, styles), folder, profile))
    return written


def _metrics_figure(report: SimulationReport, points: Sequence[Point], styles: Styles) -> Figure:
    figure, axes = panels(len(METRIC_TITLES), 2)
    figure.suptitle(f"{_short(points[0].profile)}, {points[0].arrivals}")
    for (metric, title), ax in zip(METRIC_TITLES.items(), axes, strict=True):
        _draw_metric(ax, report, points, metric, styles)
        ax.set_title(title)
    legend(figure, axes)
    return figure


def _overview_figure(
    report: SimulationReport, by_arrivals: Mapping[str, Sequence[Point]], styles: Styles
) -> Figure:
    figure, axes = panels(len(by_arrivals), min(_MAX_COLUMNS, len(by_arrivals)))
    first = next(iter(by_arrivals.values()))[0]
    figure.suptitle(f"{_short(first.profile)}: in-time accuracy against load")
    for (arrivals, points), ax in zip(by_arrivals.items(), axes, strict=True):
        _draw_metric(ax, report, points, "in_time_accuracy", styles)
        ax.set_title(arrivals)
    legend(figure, axes)
    return figure


def _draw_metric(
    ax: Axes, report: SimulationReport, points: Sequence[Point], metric: str, styles: Styles
) -> None:
    for policy, style in styles.items():
        of_policy = [
            (point.load, report.cells[point][policy].metrics[metric])
            for point in points
            if policy in report.cells[point]
        ]
        loads = [load for load, _ in of_policy]
        means = np.array([interval.mean for _, interval in of_policy])
        halves = np.array([interval.half for _, interval in of_policy])
        ax.plot(loads, means, label=policy, **style)
        if policy == SHIPPED and np.isfinite(halves).all():  # all would hide each other
            low, high = means - halves, means + halves
            ax.fill_between(loads, low, high, color=style["color"], alpha=0.15, lw=0)
    if metric == "in_time_accuracy":
        bounds = [
            (point.load, next(iter(report.cells[point].values())).metrics.get("bound"))
            for point in points
        ]
        known = [(load, bound.mean) for load, bound in bounds if bound is not None]
        if known:
            ax.plot(*zip(*known, strict=True), label="oracle's bound", **_BOUND_STYLE)
    ax.set_xlabel("load (1: depth-1 capacity)")
    ax.set_xlim(0)
    if metric == "attainment":
        ax.set_ylim(0, 1.03)
    elif metric != "mean_ap":
        ax.set_ylim(0)
    ax.grid(alpha=0.3)


def timeline_figure(
    title: str,
    timelines: Mapping[str, Timeline],
    num_runs: int,
    duration_s: float,
    styles: Styles,
) -> Figure:
    """Return a figure of how often, how surely and how deeply each policy answered over time.

    Time is the instant of arrival; timelines are of the same arrivals, summed over ``num_runs``
    runs.
    """
    figure, axes = panels(3, 1, height=2.4, width=10)
    figure.suptitle(title)
    titles = ("Answered in time per second", "Attainment", "Mean depth of those in time")
    for ax, label in zip(axes, titles, strict=True):
        ax.set_ylabel(label)
        ax.set_xlim(0, duration_s)
        ax.grid(alpha=0.3)
    for policy, style in styles.items():
        line = timelines.get(policy)
        if line is None:
            continue
        bin_s = duration_s / len(line.arrived)
        middle_s = (np.arange(len(line.arrived)) + 0.5) * bin_s
        arrived, in_time, depths = (
            _smooth(np.array(values)) for values in (line.arrived, line.in_time, line.depths)
        )
        seconds = bin_s * num_runs
        if not axes[0].collections:  # the same arrivals for all
            axes[0].fill_between(middle_s, arrived / seconds, color="0.87", label="arrivals", lw=0)
        plain = {**style, "marker": None}
        axes[0].plot(middle_s, in_time / seconds, label=policy, **plain)
        axes[1].plot(middle_s, _ratio(in_time, arrived), **plain)
        axes[2].plot(middle_s, _ratio(depths, in_time), **plain)
    axes[0].set_ylim(0)
    axes[1].set_ylim(0, 1.03)
    axes[2].set_ylim(0)
    axes[-1].set_xlabel("instant of arrival, s")
    legend(figure, axes)
    return figure


Styles = Mapping[str, Mapping[str, Any]]
"""Policy -> keyword arguments of its line; the shipped policy last, so that it is drawn on top."""


def line_styles(policies: Iterable[str]) -> Styles:
    """Return a line style for each of ``policies``, which depends only on their order."""
    policies = tuple(policies)
    styles: dict[str, Mapping[str, Any]] = {}
    for number, policy in enumerate(policy for policy in policies if policy != SHIPPED):
        turn, colour = divmod(number, len(_COLOURS))
        styles[policy] = {
            "color": _COLOURS[colour],
            "linestyle": _DASHES[(colour + turn) % len(_DASHES)],
            "marker": _MARKERS[(colour + 3 * turn) % len(_MARKERS)],
            "markersize": 4,
            "linewidth": 1.4,
        }
    if SHIPPED in policies:
        styles[SHIPPED] = _SHIPPED_STYLE
    return styles


def panels(
    count: int, num_columns: int, height: float = 3.6, width: float = 5.6
) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``count`` panels, each ``width`` by ``height`` inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_rows = -(-count // num_columns)
    figure = Figure(figsize=(width * num_columns, height * num_rows + 1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Add one legend for all panels, to their right."""
    handles = {
        label: handle
        for ax in axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False)


def _smooth(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return means over ``_SMOOTHED_BINS`` neighbours, fewer at the ends."""
    window = np.ones(_SMOOTHED_BINS)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _ratio(values: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ratio of values and counts; NaN, a gap in the line, where nothing was counted."""
    return np.divide(values, counts, out=np.full_like(values, np.nan), where=counts > 0)


def _save(figure: Figure, folder: Path, *parts: str) -> Path:
    path = folder / f"{_file_name(parts)}.png"
    figure.savefig(path, dpi=DPI)
    return path


def _file_name(parts: Iterable[str]) -> str:
    """Return a file name made of the letters, digits and dots of ``parts``.

    Of a path it takes the last component.
    """
    return "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", _short(part)).strip("-") for part in parts)


def _short(name: str) -> str:
    """Return a name as it is; of a path, the file's name without its suffix."""
    return re.sub(r"[^:]*/", "", name).removesuffix(".json").removesuffix(".csv")
