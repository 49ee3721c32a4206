"""The report of ``punctual study soak``, as JSON and as Markdown that a terminal shows as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtest.studies.drills.report import Circumstances
from loadtest.studies.soak.samples import Sample
from loadtest.studies.soak.trend import Trend
from reporting.files import write_report
from reporting.markdown import Columns, table

MIB = 2.0**20


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that a server holds, of which it must not hold more and more."""

    name: str
    field: str
    """Field of ``Sample``."""
    unit: float
    """What one of the report's units is in those of the sample."""
    notable: float
    """Growth in an hour, in the report's unit, from which on it counts as one.

    Less could go on for weeks.
    """


RESOURCES = (
    Resource("resident memory, MiB", "resident_bytes", MIB, 2.0),
    Resource("of that, no file's, MiB", "anonymous_bytes", MIB, 2.0),
    Resource("file descriptors", "descriptors", 1.0, 1.0),
    Resource("threads", "threads", 1.0, 1.0),
    Resource("tasks of the event loop", "tasks", 1.0, 1.0),
)
LEAKED = frozenset({"resident_bytes", "anonymous_bytes", "descriptors", "threads"})
"""Fields of what a server leaks as a control."""


@dataclass(frozen=True, slots=True)
class Growth:
    """How much of a resource there was at rest, and its trend in between."""

    resource: str
    field: str
    before: float
    """Amount before the load, when nobody had asked anything for a while."""
    after: float
    trend: Trend
    """Trend under load, in units per hour, after the warm-up."""
    notable: float

    @property
    def grows(self) -> bool:
        """Return whether it grows by something notable, as far as chance allows to say so."""
        return self.trend.low > 0 and self.trend.slope >= self.notable


@dataclass(frozen=True, slots=True)
class Tally:
    """The requests of one kind, by what became of them."""

    kind: str
    sent: int
    ends: Mapping[str, int]
    """Status, or reason why there was no reply -> number of requests."""
    unexpected: int
    """Number of requests with an end that they must not have."""


@dataclass(frozen=True)
class SoakReport:
    """The report of one soak."""

    circumstances: Circumstances
    is_control: bool
    """Whether the server leaked on purpose."""
    capacity_hz: float
    """Answers per second of a closed loop of the same images with ample budgets."""
    rate_hz: float
    seconds: float
    warm_up_s: float
    """Seconds at the beginning that trends leave out."""
    tallies: Sequence[Tally]
    counted: Mapping[str, int]
    """End -> detection requests as the server counted them."""
    certain: int
    """Number of detection requests that the server must have counted."""
    possible: int
    """Number of those that it may have counted: clients that left may not have been seen."""
    growths: Sequence[Growth]
    inside_after: int
    """Number of requests that were still inside when all had ended."""
    samples: Sequence[Sample]

    @property
    def is_counted(self) -> bool:
        """Return whether the server counted each request once."""
        return self.certain <= sum(self.counted.values()) <= self.possible

    @property
    def is_good(self) -> bool:
        """Return whether every request had an end that it may have, and nothing leaked.

        Of a control: whether every leak was found.
        """
        found = {growth.field for growth in self.growths if growth.grows}
        if self.is_control:
            return found == LEAKED
        return (
            not found
            and not self.inside_after
            and self.is_counted
            and not any(tally.unexpected for tally in self.tallies)
        )

    def markdown(self) -> str:
        """Return the report as Markdown: a heading and tables."""
        sent = sum(tally.sent for tally in self.tallies)
        of_kind = " of a server that leaks, which must be found" if self.is_control else ""
        lines = [
            f"# Soak{of_kind}",
            "",
            *self.circumstances.lines(),
            "",
            f"{sent} requests in {self.seconds / 60:.0f} minutes, {self.rate_hz:.1f} a second: "
            f"{self.rate_hz / self.capacity_hz:.0%} of the {self.capacity_hz:.1f} a second that "
            f"a closed loop with ample budgets was answered. Trends leave out the first "
            f"{self.warm_up_s / 60:.0f} minutes. The server counted {sum(self.counted.values())} "
            f"detection requests, of {self.certain} to {self.possible} that it got to see; "
            f"{self.inside_after} were inside at the end.",
            "",
            "## What it held",
            *table(_growth_columns(sent / self.seconds), self.growths),
            "",
            "At rest: before the first request and after the last, when nobody asks for anything.",
            "",
            "## What became of requests",
            *table(TALLIES, self.tallies),
        ]
        return "\n".join(lines) + "\n"


def _growth_columns(rate_hz: float) -> Columns[Growth]:
    per_thousand = 1000 / (3600 * rate_hz)

    def interval(growth: Growth) -> str:
        of = growth.trend
        text = f"{of.slope:+.2f} ({of.low:+.2f} to {of.high:+.2f})"
        return f"**{text}**" if growth.grows else text

    return (
        ("", lambda growth: growth.resource),
        ("at rest before", lambda growth: f"{growth.before:.0f}"),
        ("at rest after", lambda growth: f"{growth.after:.0f}"),
        ("an hour more, with its 95 % interval", interval),
        (
            "a thousand requests more, at most",
            lambda growth: f"{growth.trend.high * per_thousand:+.4f}",
        ),
        ("grows", lambda growth: "**yes**" if growth.grows else "no"),
    )


TALLIES: Columns[Tally] = (
    ("kind", lambda tally: tally.kind),
    ("sent", lambda tally: str(tally.sent)),
    (
        "ended with",
        lambda tally: ", ".join(f"{end} {count}" for end, count in sorted(tally.ends.items())),
    ),
    (
        "**not as it may**",
        lambda tally: f"**{tally.unexpected}**" if tally.unexpected else "0",
    ),
)


def write(report: SoakReport, path: Path) -> None:
    """Write ``path`` as JSON and its neighbour ``.md`` as tables, each whole or not at all."""
    write_report(path, asdict(report), report.markdown())
