"""Report of ``punctual study cameras``: tables in Markdown, and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.studies.cameras.frames import End, RunFigures
from reporting.files import write_report
from reporting.markdown import table

FORMAT = 1


@dataclass(frozen=True)
class Report:
    """What a study found, and where."""

    machine: str
    date: str
    model: str
    circumstances: Mapping[str, Any]
    """What was sent, and for how long."""
    simulated: tuple[RunFigures, ...]
    live: tuple[RunFigures, ...]
    """Several of a system and load, where there were several rounds."""


def write(report: Report, folder: Path) -> Path:
    """Write the report as cameras-DATE.json and .md into ``folder``; return the latter's path."""
    data = {"format": FORMAT, **asdict(report)}
    stem = folder / f"cameras-{report.model}-{report.date}"
    _, path = write_report(stem, data, "\n".join(markdown(report)) + "\n")
    return path


def markdown(report: Report) -> Iterator[str]:
    """Yield the lines of a report."""
    facts = ", ".join(f"{name} {value}" for name, value in report.circumstances.items())
    yield f"# Cameras on {report.model}"
    yield ""
    yield f"{report.date}, {report.machine}; {facts}."
    for title, runs in (("Simulated", report.simulated), ("Live", report.live)):
        if runs:
            yield ""
            yield f"## {title}"
            yield from figures_table(runs)


def figures_table(runs: Sequence[RunFigures]) -> Iterator[str]:
    """Yield a table with a row for each run."""
    yield from table(
        (
            ("load", lambda r: f"{r.load:g}"),
            ("cameras", lambda r: str(r.num_cameras)),
            ("system", lambda r: r.system),
            ("age p50, ms", lambda r: _ms(r.age_p50_s)),
            ("age p99, ms", lambda r: _ms(r.age_p99_s)),
            ("worst camera's p99, ms", lambda r: _ms(r.worst_age_p99_s)),
            ("frames", lambda r: str(r.num_frames)),
            ("in time", lambda r: _share(r, End.IN_TIME)),
            ("superseded", lambda r: _share(r, End.SUPERSEDED)),
            ("refused", lambda r: _share(r, End.REFUSED)),
            ("late, of those begun", lambda r: f"{r.late_share:.2%}"),
            ("failed", lambda r: str(r.num(End.FAILED))),
            ("answers by camera", lambda r: "{} .. {}".format(*r.answers)),
            ("mean AP", lambda r: f"{r.mean_ap:.3f}"),
            ("points", _points),
        ),
        runs,
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f}"


def _share(run: RunFigures, end: End) -> str:
    return f"{run.num(end) / run.num_frames:.1%}"


def _points(run: RunFigures) -> str:
    """Return the shares of the operating points among the answers, the most frequent first."""
    total = max(1, sum(run.points.values()))
    ordered = sorted(run.points.items(), key=lambda item: -item[1])
    return ", ".join(
        f"{name} {count / total:.0%}" for name, count in ordered if count / total > 0.01
    )
