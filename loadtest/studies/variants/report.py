"""The findings of ``punctual study variants``: as JSON, and as Markdown that a terminal shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from loadtest.environment.spread import Spread
from loadtest.load.outcomes import Outcome
from loadtest.load.summary import Summary
from reporting.files import write_report
from reporting.markdown import Columns, table

CLIENT, ENGINE = "client", "engine"
"""Parts of the processor time that are not the gateway's own."""
GATEWAY = "gateway"
DIGITS = 3


@dataclass(frozen=True, slots=True)
class ProcessorRun:
    """One variant's processor time with one client, in one round."""

    variant: str
    depth: str
    """Deepest exit that was allowed: "1" or "any"."""
    round: int
    latency_p50_ms: float
    ms_each: Mapping[str, float]
    """Part -> milliseconds of processor time for a request; the client is a part."""


@dataclass(frozen=True, slots=True)
class LoadRun:
    """One variant's run under one load, in one round."""

    variant: str
    load: float
    round: int
    summary: Summary
    ms_each: Mapping[str, float]
    """Part -> milliseconds of processor time for a request; the client is a part."""


Run = ProcessorRun | LoadRun
Figure = Callable[[Any], float]
"""Function that gives a figure of a run."""


@dataclass(frozen=True)
class VariantsReport:
    """All that was measured; the first variant is what the others are compared with."""

    machine: str
    load_average: float
    """Load average of the machine before the study."""
    versions: Mapping[str, str]
    date: str
    model: str
    variants: Mapping[str, Mapping[str, str]]
    """Variant -> the settings in which it differs."""
    budgets: str
    capacity_hz: float
    """Requests per second that the first variant answers at depth 1: load 1."""
    full_depth_s: float
    """Seconds of full depth with one client, of which budgets are multiples."""
    processor_runs: list[ProcessorRun] = field(default_factory=list)
    load_runs: list[LoadRun] = field(default_factory=list)


def gateway_ms(run: Run) -> float:
    """Return the gateway's own processor time: all of its process but the engine."""
    return sum(ms for part, ms in run.ms_each.items() if part not in (CLIENT, ENGINE))


def _part_ms(part: str, run: Run) -> float:
    return run.ms_each[part]


def in_time_accuracy(run: LoadRun) -> float:
    """Return expected AP summed over the answers in time, over all requests."""
    return run.summary.in_time_accuracy or 0.0


def p99_ms(run: LoadRun) -> float:
    """Return the 99th percentile of the latencies of answers; 0 if there are none."""
    return 0.0 if run.summary.latency_ms is None else run.summary.latency_ms.p99


def not_in_time(run: LoadRun) -> float:
    """Return the share of requests that were not answered in time."""
    return 1.0 - run.summary.outcomes[Outcome.IN_TIME] / run.summary.count


LOAD_FIGURES: Mapping[str, Figure] = {
    "in-time accuracy": in_time_accuracy,
    "not in time": not_in_time,
    "p99 ms": p99_ms,
    "gateway ms": gateway_ms,
    "engine ms": partial(_part_ms, ENGINE),
    "client ms": partial(_part_ms, CLIENT),
}
COMPARED = ("in-time accuracy", "p99 ms")
"""Figures that are compared as ratios."""


def paired_ratios(runs: Sequence[Run], baseline: Sequence[Run], figure: Figure) -> list[float]:
    """Return this figure of ``runs`` over that of ``baseline``, round by round."""
    others = {run.round: figure(run) for run in baseline}
    return [figure(run) / others[run.round] for run in runs if others.get(run.round)]


def to_json(report: VariantsReport) -> dict[str, Any]:
    """Return the report as JSON holds it."""
    return asdict(report)


def write(report: VariantsReport, path: Path) -> None:
    """Write ``path`` as JSON and its neighbour ``.md`` as tables, each whole or not at all."""
    write_report(path, to_json(report), markdown(report))


def markdown(report: VariantsReport) -> str:
    """Return the report as Markdown: headings and tables."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [
        f"# Settings of the gateway compared: {report.model}",
        "",
        f"{report.machine}, {report.date}, load average {report.load_average:.2f} before. "
        f"{versions}.",
        "",
        f"Load 1 is {report.capacity_hz:.1f} requests/s; budgets {report.budgets} are multiples of "
        f"{1e3 * report.full_depth_s:.1f} ms. Spreads over rounds are median (p10 .. p90), of "
        "three rounds or less middle (smallest .. largest).",
        "",
        *(f"- {name}: {_settings_text(given)}" for name, given in report.variants.items()),
        *_processor(report),
        *_loads(report),
    ]
    return "\n".join(lines) + "\n"


def _settings_text(given: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in given.items()) or "as shipped"


def _processor(report: VariantsReport) -> Iterator[str]:
    for depth in dict.fromkeys(run.depth for run in report.processor_runs):
        by_variant = {
            name: [r for r in report.processor_runs if (r.variant, r.depth) == (name, depth)]
            for name in report.variants
        }
        figures: dict[str, Figure] = {
            part: partial(_part_ms, part) for part in report.processor_runs[0].ms_each
        }
        figures |= {GATEWAY: gateway_ms, "latency p50": lambda run: run.latency_p50_ms}
        yield from ("", f"## Processor time of a request, depth {depth}, in ms")
        yield from _spreads(by_variant, figures, figures)


def _loads(report: VariantsReport) -> Iterator[str]:
    for load in dict.fromkeys(run.load for run in report.load_runs):
        by_variant = {
            name: [run for run in report.load_runs if (run.variant, run.load) == (name, load)]
            for name in report.variants
        }
        yield from ("", f"## Load {load:g}")
        yield from _spreads(by_variant, LOAD_FIGURES, COMPARED)


def _spreads(
    by_variant: Mapping[str, Sequence[Run]], figures: Mapping[str, Figure], compared: Any
) -> Iterator[str]:
    """Yield a table: a row a figure, a column a variant, and its ratio to the first."""
    first, *others = by_variant

    def value(name: str) -> Callable[[str], str]:
        return lambda figure: Spread.of(map(figures[figure], by_variant[name])).text(DIGITS)

    def ratio(name: str) -> Callable[[str], str]:
        def cell(figure: str) -> str:
            ratios = paired_ratios(by_variant[name], by_variant[first], figures[figure])
            return Spread.of(ratios).text(DIGITS) if ratios and figure in compared else "-"

        return cell

    columns: Columns[str] = [
        ("", lambda figure: figure),
        *((name, value(name)) for name in by_variant),
        *((f"{name} / {first}", ratio(name)) for name in others),
    ]
    yield from table(columns, tuple(figures))
