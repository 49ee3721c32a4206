"""The study's figures as Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtest.environment.spread import Spread
from loadtest.studies.clients.frigate import PROCESSOR, Capacity, FrigateFigures
from loadtest.studies.clients.protocols import ProtocolFigures
from loadtest.studies.clients.tiles import TileFigures
from reporting.files import write_report
from reporting.markdown import Columns, table


@dataclass(frozen=True, slots=True)
class Report:
    """What one run of the study has found."""

    machine: str
    date: str
    model: str
    tiles: Sequence[TileFigures]
    capacity: Capacity | None
    """What clients as Frigate is are compared with, if there are any."""
    frigate: Sequence[FrigateFigures]
    protocols: Sequence[ProtocolFigures]


def write(report: Report, folder: Path) -> Path:
    """Write Markdown and JSON; return the path of the first."""
    stem = folder / f"clients-{report.model}-{report.date}"
    _, path = write_report(stem, asdict(report), "\n".join(markdown(report)) + "\n")
    return path


def markdown(report: Report) -> list[str]:
    """Return the lines of a page."""
    lines = [
        f"# Clients of other kinds: {report.model}",
        "",
        f"`punctual study clients`, {report.date}, {report.machine}. Spreads are 10th and 90th "
        "percentiles.",
    ]
    if report.tiles:
        lines += [
            "",
            "## Nine tiles of a picture of 2000 x 1500 pixels",
            *table(_TILES, report.tiles),
        ]
    if report.capacity is not None:
        capacity = report.capacity
        lines += [
            "",
            "## Clients as Frigate is, which wait 100 ms",
            "",
            f"A server that knows {capacity.point} alone (AP {capacity.ap:.3f}) answers "
            f"{capacity.server_hz:.1f} such frames a second at most; its engine alone could do "
            f"{capacity.engine_hz:.1f}.",
            *table(_FRIGATE, report.frigate),
        ]
    if report.protocols:
        heading = "## gRPC beside HTTP, by perf_analyzer"
        lines += ["", heading, *table(_PROTOCOLS, report.protocols)]
    return lines


def _spread(spread: Spread | None, digits: int) -> str:
    return "-" if spread is None else spread.text(digits)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items()) or "-"


_TILES: Columns[TileFigures] = (
    ("budget, ms", lambda each: f"{each.budget_ms:g}"),
    ("requests", lambda each: str(each.num_requests)),
    ("latency, ms", lambda each: _spread(each.latency_ms, 1)),
    ("share of tiles answered", lambda each: _spread(each.answered, 2)),
    ("exits", lambda each: _counts(each.points)),
    ("refused", lambda each: _counts(each.refused)),
)
_FRIGATE: Columns[FrigateFigures] = (
    ("load", lambda each: f"{each.load:g} x {each.of}"),
    ("frames/s", lambda each: f"{each.rate_hz:.0f}"),
    ("frames", lambda each: str(each.num_frames)),
    ("in time", lambda each: f"{each.in_time:.2%}"),
    ("timed out", lambda each: str(each.timed_out)),
    ("refused", lambda each: _counts(each.refused)),
    ("malformed", lambda each: str(each.malformed)),
    ("p50, ms", lambda each: f"{each.latency_ms[0]:.1f}"),
    ("p99, ms", lambda each: f"{each.latency_ms[1]:.1f}"),
    ("exits", lambda each: _counts(each.points)),
    ("mean AP", lambda each: f"{each.expected_ap:.3f}"),
    (
        f"processor, ms a frame: {', '.join(PROCESSOR)}",
        lambda each: ", ".join(f"{each.ms_each[whose]:.1f}" for whose in PROCESSOR),
    ),
)
_PROTOCOLS: Columns[ProtocolFigures] = (
    ("protocol", lambda each: each.protocol),
    ("at once", lambda each: str(each.concurrency)),
    ("p50, ms", lambda each: _spread(each.p50_ms, 2)),
    ("p99, ms", lambda each: _spread(each.p99_ms, 2)),
    ("per s", lambda each: _spread(each.per_s, 1)),
    ("p50 to HTTP", lambda each: _spread(each.p50_to_http, 3)),
    ("per s to HTTP", lambda each: _spread(each.per_s_to_http, 3)),
)
