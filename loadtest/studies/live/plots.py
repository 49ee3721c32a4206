"""Plots of a live study, as PNG files.

live-DATE-loads.png       attainment and in-time accuracy against load, a row per arrival process
live-DATE-recovery.png    goodput, attainment and depth through a burst
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loadtest.simulation.plots import DPI, Styles, legend, line_styles, panels, timeline_figure
from loadtest.studies.live.report import ACCURACY, ATTAINMENT, LiveReport, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOTTED = (ATTAINMENT, ACCURACY)


def plot(report: LiveReport, path: Path) -> list[Path]:
    """Write the plots of a report beside ``path`` and return their paths.

    The suffix of ``path`` does not matter.
    """
    figures = {}
    if report.runs:
        figures["loads"] = loads_figure(report)
    if report.bursts:
        figures["recovery"] = recovery_figure(report)
    written = []
    for name, figure in figures.items():
        target = path.with_name(f"{path.stem}-{name}.png")
        figure.savefig(target, dpi=DPI)
        written.append(target)
    return written


def loads_figure(report: LiveReport) -> Figure:
    """Plot metrics against load: the middle of the rounds, with a bar from p10 to p90.

    Of three rounds or less, the bar is from the smallest to the largest.
    """
    styles = line_styles(report.systems)
    pairs = [(arrivals, metric) for arrivals in report.arrivals for metric in PLOTTED]
    figure, axes = panels(len(pairs), len(PLOTTED))
    figure.suptitle(f"{report.model}, live on {report.machine}, {report.date}")
    for ax, (arrivals, metric) in zip(axes, pairs, strict=True):
        _draw(ax, report, arrivals, metric, styles)
    legend(figure, axes)
    return figure


def _draw(ax: Axes, report: LiveReport, arrivals: str, metric: Metric, styles: Styles) -> None:
    for system, style in styles.items():
        spreads = [
            (load, spread)
            for load in report.loads
            if (spread := report.spread(metric, system, arrivals, load)) is not None
        ]
        middles = [spread.p50 for _, spread in spreads]
        reach = [
            [spread.p50 - spread.p10 for _, spread in spreads],
            [spread.p90 - spread.p50 for _, spread in spreads],
        ]
        loads = [load for load, _ in spreads]
        ax.errorbar(loads, middles, yerr=reach, label=system, capsize=2, **style)
    ax.set_title(f"{arrivals}: {metric.title.partition(' (')[0]}")
    is_share = report.reference.load_hz == report.reference.capacity_hz
    ax.set_xlabel("load (1: the capacity at the quickest point)" if is_share else "requests/s")
    ax.set_xlim(0)
    ax.set_ylim(0)
    ax.grid(alpha=0.3)


def recovery_figure(report: LiveReport) -> Figure:
    """Plot goodput, attainment and depth of every system through a burst, summed over rounds."""
    bursts = report.through_bursts()
    timelines = {burst.system: burst.timeline for burst in bursts}
    num_runs, first = len(bursts[0].runs), bursts[0].runs[0]
    title = f"{report.model}, live, {first.arrivals}, load {first.load:g}"
    return timeline_figure(title, timelines, num_runs, first.duration_s, line_styles(timelines))
