"""The findings of a study by simulation as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from loadtest.simulation.report import (
    ATTAINMENT_MARGIN,
    HIGH_ATTAINMENT,
    SHALLOWEST,
    SHIPPED,
    GridCell,
    SimulationReport,
    Versus,
)
from loadtest.simulation.study import HINDSIGHT, Point
from reporting.intervals import MeanInterval
from reporting.markdown import table_of_cells

NAMES = {HINDSIGHT: "best fixed point in hindsight"}
"""Name in the place of a policy's -> how a table calls it."""


HINDSIGHT_TEXT = (
    "The best fixed operating point in hindsight is that of all whose mean is highest in that "
    "setting; regret is what it has more than the policy, in in-time accuracy, paired by seed."
)
STABILITY_TEXT = (
    "The stability score is EdgeServing's: exp(time in the server / budget - 1), at most 10, "
    "summed over all who are in it, as a mean over time."
)


def markdown(report: SimulationReport) -> str:
    """Return a table for each profile and arrival process, and what comparisons say."""
    lines = [
        "Attainment % / mean AP of those in time / in-time accuracy, half of its 95 % interval. "
        "The highest in-time accuracy is bold; a load of 1 is the capacity at the quickest point. "
        + STABILITY_TEXT,
    ]
    if report.best_fixed:
        lines += ["", HINDSIGHT_TEXT]
    groups = dict.fromkeys((point.profile, point.arrivals) for point in report.cells)
    for profile, arrivals in groups:
        points = [p for p in report.cells if (p.profile, p.arrivals) == (profile, arrivals)]
        lines += ["", f"**{profile}, {arrivals}**", *_table(report, points)]
    return "\n".join([*lines, *_recovery_table(report), "", *_findings(report), ""])


def _table(report: SimulationReport, points: Sequence[Point]) -> Iterator[str]:
    points = sorted(points, key=lambda point: point.load)
    policies = dict.fromkeys(policy for point in points for policy in report.cells[point])
    rows: list[list[str]] = []
    for policy in policies:
        row = [
            _cell_text(cells[policy], cells.values()) if policy in cells else ""
            for cells in (report.cells[point] for point in points)
        ]
        if policy == HINDSIGHT:
            row = [
                f"{text}, {report.best_fixed[point]}"
                for text, point in zip(row, points, strict=True)
            ]
        rows.append([NAMES.get(policy, policy), *row])
    regrets = report.regrets()
    if points[0] in regrets:
        row = [difference_text(regrets[point]) for point in points]
        rows.append([f"regret of {SHIPPED}", *row])
    bounds = [next(iter(report.cells[point].values())).metrics.get("bound") for point in points]
    if any(bounds):
        texts = (_share(bound.mean) if bound else "" for bound in bounds)
        rows.append(["oracle's bound", *texts])
        if SHIPPED in policies:
            row = [_of_oracle(report.cells[point][SHIPPED]) for point in points]
            rows.append([f"{SHIPPED}, % of the bound", *row])
    for policy in policies:
        if policy in (SHIPPED, HINDSIGHT):
            row = [f"{report.cells[p][policy].metrics['stability'].mean:.2f}" for p in points]
            name = NAMES.get(policy, policy)
            rows.append([f"stability score, {name}", *row])
    return table_of_cells(["load", *(f"{point.load:g}" for point in points)], rows)


def _of_oracle(cell: GridCell) -> str:
    share = cell.metrics.get("share_of_oracle")
    return "" if share is None else f"{share.mean * 100:.1f}"


def difference_text(interval: MeanInterval) -> str:
    """Return a difference of in-time accuracies, with its sign and half of its interval."""
    half = f" ±{interval.half:.4f}" if math.isfinite(interval.half) else ""
    return f"{interval.mean:+.4f}{half}"


def _cell_text(cell: GridCell, rivals: Iterable[GridCell]) -> str:
    best = max(rival.metrics["in_time_accuracy"].mean for rival in rivals)
    interval = cell.metrics["in_time_accuracy"]
    text = _share(interval.mean)
    text = f"**{text}**" if interval.mean == best else text
    if math.isfinite(interval.half):
        text += f" ±{_share(interval.half)}"
    attainment, mean_ap = cell.metrics["attainment"].mean, cell.metrics["mean_ap"].mean
    return f"{attainment * 100:.1f} / {_share(mean_ap)} / {text}"


def _share(value: float) -> str:
    """Return three decimals, without the zero in front."""
    return f"{value:.3f}".removeprefix("0")


def _recovery_table(report: SimulationReport) -> list[str]:
    recoveries = report.recoveries()
    if not recoveries:
        return []
    rows = []
    for point, policy, result in recoveries:
        before, during = result.before, result.during
        backs = (result.attainment_back_s, result.depth_back_s)
        cells = (
            f"{point.profile}, {point.arrivals}, load {point.load:g}",
            policy,
            f"{before.attainment * 100:.1f}, {during.attainment * 100:.1f}",
            f"{before.depth:.2f}, {during.depth:.2f}",
            f"{before.goodput_hz:.1f}, {during.goodput_hz:.1f}",
            *("never" if back_s is None else f"{back_s:.1f}" for back_s in backs),
        )
        rows.append(cells)
    head = ("point", "policy", "attainment %", "depth", "goodput, 1/s")
    text = "Before and during the burst, and seconds after its end until it was as before:"
    return ["", text, *table_of_cells([*head, "attainment back", "depth back"], rows)]


def _findings(report: SimulationReport) -> list[str]:
    all_versus, not_won = report.versus("in_time_accuracy"), report.not_won()
    lines = []
    if all_versus:
        certain = sum(versus.is_certain for versus in not_won)
        lines.append(
            f"- {SHIPPED} has the higher in-time accuracy in {len(all_versus) - len(not_won)} of "
            f"{len(all_versus)} comparisons; in {certain} the whole interval is against it."
        )
        lines += [_versus_text(versus) for versus in not_won]
        less = report.attains_less()
        lines.append(
            f"- Where {SHALLOWEST} attains {HIGH_ATTAINMENT:.0%} or more, {SHIPPED} attains over "
            f"{ATTAINMENT_MARGIN * 100:g} point less at {len(less)} points."
        )
        lines += [_versus_text(versus) for versus in less]
    share = report.share_of_oracle()
    if share is not None:
        lines.append(
            f"- {SHIPPED} reaches {share:.1%} of the oracle's bound, mean over the points."
        )
    for policy, speed in report.speed().items():
        lines.append(
            f"- {policy}: {speed['requests_per_s']:,.0f} requests and "
            f"{speed['decisions_per_s']:,.0f} decisions simulated per second of one core."
        )
    return lines


def _versus_text(versus: Versus) -> str:
    point = versus.point
    certain = ", certain" if versus.is_certain else ""
    return (
        f"  - {point.profile}, {point.arrivals}, load {point.load:g}, against "
        f"{NAMES.get(versus.rival, versus.rival)}: {difference_text(versus.difference)}{certain}"
    )
