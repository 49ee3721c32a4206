"""The findings of ``punctual study triton``, as records and as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loadtest.studies.triton.memory import MemoryFigures
from loadtest.studies.triton.overhead import BASELINE, TARGET_MS, OverheadFigures
from loadtest.studies.triton.perf import PerfFigures
from reporting.files import write_report
from reporting.markdown import Columns, table


@dataclass
class TritonReport:
    """Everything that was measured, on what and how; a part that was not asked for is None."""

    machine: str
    load_average: float
    """Load average of the machine in the minute before: what else it had to do."""
    versions: dict[str, str]
    date: str
    model: str
    model_digest: str
    settings: Mapping[str, Any]
    perf: list[PerfFigures] | None = None
    overhead: list[OverheadFigures] | None = None
    lost_turns: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of turns of ``overhead`` that were left out."""
    memory: list[MemoryFigures] | None = None

    def write(self, path: Path) -> None:
        """Write ``path`` as JSON and its neighbour ``.md`` as tables, each whole or not at all."""
        write_report(path, asdict(self), markdown(self))


def _met(row: OverheadFigures) -> str:
    if row.gateway == BASELINE:
        return ""
    return "yes" if row.added_ms.p50 <= TARGET_MS else "no"


PERF: Columns[PerfFigures] = (
    ("server", lambda row: row.server),
    ("model", lambda row: row.model),
    ("over", lambda row: row.transport),
    ("exit", lambda row: str(row.depth)),
    ("callers", lambda row: str(row.concurrency)),
    ("images/s", lambda row: row.per_s.text(1)),
    ("p50, ms", lambda row: row.p50_ms.text(1)),
    ("p90, ms", lambda row: row.p90_ms.text(1)),
    ("p99, ms", lambda row: row.p99_ms.text(1)),
    ("images/s, ratio", lambda row: row.per_s_to_plain.text(2)),
    ("p50, ratio", lambda row: row.p50_to_plain.text(2)),
)

OVERHEAD: Columns[OverheadFigures] = (
    ("gateway", lambda row: row.gateway),
    ("exit", lambda row: str(row.depth)),
    ("turns", lambda row: str(row.num_turns)),
    ("elapsed p50, ms", lambda row: f"{row.elapsed_p50_ms:.2f}"),
    ("engine p50, ms", lambda row: f"{row.engine_p50_ms:.2f}"),
    ("overhead p50, ms", lambda row: f"{row.overhead_p50_ms:.2f}"),
    ("p90, ms", lambda row: f"{row.overhead_p90_ms:.2f}"),
    ("p99, ms", lambda row: f"{row.overhead_p99_ms:.2f}"),
    (f"over {BASELINE}, ms", lambda row: "" if row.gateway == BASELINE else row.added_ms.text(2)),
    (f"{TARGET_MS:g} ms or less", _met),
)

MEMORY: Columns[MemoryFigures] = (
    ("held as", lambda row: row.name),
    ("processes", lambda row: str(row.num_processes)),
    ("runners", lambda row: str(row.num_runners)),
    ("resident, MB", lambda row: row.resident_mb.text(0)),
    ("anonymous over the runtime's, MB", lambda row: row.over_runtime_mb.text(0)),
    ("in files, MB", lambda row: f"{row.disk_mb:.2f}"),
)


def markdown(report: TritonReport) -> str:
    """Return the report as Markdown: headings and tables."""
    lines = [
        f"# What Triton costs, and what it serves: {report.model}",
        "",
        f"{report.machine}, {report.date}, load average {report.load_average:.2f} before. "
        + ", ".join(f"{name} {version}" for name, version in report.versions.items())
        + f". Model {report.model}, digest {report.model_digest[:12]}.",
        "",
        "Settings: " + ", ".join(f"{name} {value}" for name, value in report.settings.items()),
        "",
        "Spreads are median (p10 .. p90); of three rounds or less, middle (smallest .. largest).",
        *_perf(report),
        *_overhead(report),
        *_memory(report),
    ]
    return "\n".join(lines) + "\n"


def _perf(report: TritonReport) -> Iterator[str]:
    if report.perf is None:
        return
    yield from ("", "## Throughput and latency of one model", "")
    yield (
        "perf_analyzer in a closed loop, one server at a time; figures over rounds. Ratios are "
        "taken within a round, to the depth model of the same exit over plain gRPC with as many "
        "callers."
    )
    yield from table(PERF, report.perf)


def _overhead(report: TritonReport) -> Iterator[str]:
    if report.overhead is None:
        return
    yield from ("", "## What Triton adds to a request", "")
    yield (
        "One request at a time, to each gateway in turn, held to one exit. Overhead is the "
        "client's elapsed time without the engine's; the differences are taken within a turn. For "
        "triton-depth, the engine's time is Triton's compute_infer."
    )
    yield from table(OVERHEAD, report.overhead)
    if report.lost_turns:
        lost = ", ".join(f"{reason}: {count}" for reason, count in report.lost_turns.items())
        yield from ("", f"Turns left out since a gateway did not answer as asked: {lost}.")


def _memory(report: TritonReport) -> Iterator[str]:
    if report.memory is None:
        return
    yield from ("", "## What holding the model takes", "")
    yield (
        "Proportional set size of fresh processes, all of a case alive at once, after one run of "
        "every segment at every batch size. A page that other processes on the machine have as "
        "well counts in part; what is anonymous is nobody else's."
    )
    yield from table(MEMORY, report.memory)
