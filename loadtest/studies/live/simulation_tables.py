"""Tables of how far simulated and live figures differ, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loadtest.studies.live.report import ACCURACY, ATTAINMENT, LiveReport, LiveRun, Metric
from loadtest.studies.live.simulation import STEPS, Simulated
from reporting.markdown import Columns, table

_STEP_TEXTS = ("the engine alone", "less the gateway's part of budgets", "on shared cores")


def simulation_tables(report: LiveReport) -> Iterator[str]:
    """Yield the lines of the report's section; none where nothing was simulated."""
    runs = [run for run in report.runs if run.simulated]
    if not runs:
        return
    systems = [name for name in report.systems if any(run.system == name for run in runs)]
    yield from ("", "## Simulated beside live", "")
    yield (
        "The same requests in the simulator, with segments as timed when the study began: "
        + "; ".join(f"*{step}*: {text}" for step, text in zip(STEPS, _STEP_TEXTS, strict=True))
        + f" (segments {_slowdowns(report)} times as slow at these loads). Means over rounds and "
        "arrivals; in-time accuracy / % in time."
    )
    for system in systems:
        groups = [
            [r for r in runs if (r.system, r.load) == (system, load)] for load in report.loads
        ]
        yield from ("", system)
        yield from table(SIMULATED, [group for group in groups if group])
    yield from ("", "Simulated less live, mean (and mean of the sizes) over all runs:")
    yield from table(ERRORS, [(s, [r for r in runs if r.system == s]) for s in systems])


def _slowdowns(report: LiveReport) -> str:
    reference = report.reference
    rates_hz = [load * reference.load_hz for load in report.loads]
    return ", ".join(f"{reference.slowdown_at(rate_hz):.2f}" for rate_hz in rates_hz)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _both(accuracies: Sequence[float], attainments: Sequence[float]) -> str:
    return f"{_mean(accuracies):.3f} / {100 * _mean(attainments):.1f}"


def _live(runs: Sequence[LiveRun]) -> str:
    return _both(
        [run.summary.in_time_accuracy or 0.0 for run in runs],
        [run.summary.attainment for run in runs],
    )


def _step(runs: Sequence[LiveRun], step: str) -> str:
    found = [run.simulated[step] for run in runs]
    return _both([s.in_time_accuracy for s in found], [s.attainment for s in found])


SIMULATED: Columns[list[LiveRun]] = (
    ("load", lambda runs: f"{runs[0].load:g}"),
    ("live", _live),
    *((step, lambda runs, step=step: _step(runs, step)) for step in STEPS),
)


def _error(runs: Sequence[LiveRun], step: str, metric: Metric) -> str:
    def simulated(found: Simulated) -> float:
        return found.attainment if metric is ATTAINMENT else found.in_time_accuracy

    differences = [
        metric.factor * (simulated(run.simulated[step]) - (metric.get(run.summary) or 0.0))
        for run in runs
    ]
    sizes = [abs(difference) for difference in differences]
    return f"{_mean(differences):+.{metric.digits}f} ({_mean(sizes):.{metric.digits}f})"


ERRORS: Columns[tuple[str, list[LiveRun]]] = (
    ("system", lambda row: row[0]),
    *(
        (
            f"{metric.name}, {step}",
            lambda row, step=step, metric=metric: _error(row[1], step, metric),
        )
        for metric in (ACCURACY, ATTAINMENT)
        for step in STEPS
    ),
)
