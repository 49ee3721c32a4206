"""Reports of the drills ``punctual study restart``, ``study alerts`` and ``study idle``.

They are written as JSON and as Markdown that a terminal shows as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loadtest.load.summary import LatencyQuantiles
from reporting.files import write_report
from reporting.markdown import Columns, table


@dataclass(frozen=True)
class Circumstances:
    """The circumstances of a drill: the machine, the date, the versions and the settings."""

    machine: str
    date: str
    load_average: float
    """Load average of the machine before the drill."""
    versions: Mapping[str, str]
    settings: Mapping[str, object]

    def lines(self) -> list[str]:
        """Return paragraphs for a report's head."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        return [
            f"{self.machine}, {self.date}, load average {self.load_average:.2f} before. "
            f"{versions}.",
            "",
            f"Settings: {settings}.",
        ]


# -- restarts ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RestartRun:
    """The result of one drill: two gateways behind a proxy, restarted in turn under load."""

    proxy: str
    drain_delay_s: float
    restarts: int
    drain_s: tuple[float, ...]
    """Seconds from SIGTERM to the end of the process, for each restart."""
    outage_s: tuple[float, ...]
    """Seconds from SIGTERM until the gateway was ready again, for each restart."""
    sent: int
    in_time: int
    late: int
    refused: Mapping[str, int]
    """Reason -> number of requests that were refused because there was no time for them."""
    failed: Mapping[str, int]
    """Reason -> number of requests that a restart cost."""
    latency_ms: LatencyQuantiles | None
    invalid_because: tuple[str, ...]
    """Reasons for which the run is not valid, which are the load client's, not the servers'."""

    @property
    def num_failed(self) -> int:
        """Return the number of requests that a restart cost, which must be 0."""
        return sum(self.failed.values())


@dataclass(frozen=True)
class RestartReport:
    """The report of a rolling restart, in each way that a proxy can be in front of the gateways."""

    circumstances: Circumstances
    runs: list[RestartRun] = field(default_factory=list)

    def markdown(self) -> str:
        """Return the report as Markdown: a heading and a table."""
        lines = [
            "# Restarting gateways under load",
            "",
            *self.circumstances.lines(),
            *table(RESTARTS, self.runs),
            "",
            "failed: no reply, an HTTP error, or refused because the server was starting or "
            "ending. refused: no time for it. late: by the client's clock, from the scheduled "
            "moment, or given up by the server. The proxy repeats nothing.",
        ]
        return "\n".join([*lines, *self._notes()]) + "\n"

    def _notes(self) -> Iterable[str]:
        for run in self.runs:
            for what in run.invalid_because:
                yield from ("", f"{run.proxy}, drain delay {run.drain_delay_s:g} s: {what}.")


def _counts(reasons: Mapping[str, int]) -> str:
    total = sum(reasons.values())
    named = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    return f"{total} ({named})" if named else "0"


RESTARTS: Columns[RestartRun] = (
    ("proxy", lambda run: run.proxy),
    ("drain delay, s", lambda run: f"{run.drain_delay_s:g}"),
    ("restarts", lambda run: str(run.restarts)),
    ("drain, s", lambda run: _longest(run.drain_s)),
    ("until ready, s", lambda run: _longest(run.outage_s)),
    ("sent", lambda run: str(run.sent)),
    ("**failed**", lambda run: f"**{_counts(run.failed)}**"),
    ("late", lambda run: str(run.late)),
    ("refused", lambda run: _counts(run.refused)),
    ("in time", lambda run: str(run.in_time)),
    ("p50, ms", lambda run: f"{run.latency_ms.p50:.1f}" if run.latency_ms else "-"),
    ("p99, ms", lambda run: f"{run.latency_ms.p99:.1f}" if run.latency_ms else "-"),
    ("max, ms", lambda run: f"{run.latency_ms.max:.0f}" if run.latency_ms else "-"),
)


def _longest(seconds: Iterable[float]) -> str:
    return f"up to {max(seconds, default=0.0):.1f}"


# -- alerts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Provocation:
    """One provocation: something that went wrong, and the alerts that it was to raise."""

    cause: str
    fired_s: Mapping[str, float | None]
    """Alert -> seconds from the cause until it fired; None if it did not."""
    others: tuple[str, ...]
    """Names of the alerts that fired beside those that were to."""
    ended_s: float | None
    """Seconds from the cause's end until no alert fired any more; None if some still did."""
    ends: bool
    """Whether the cause comes to an end."""


@dataclass(frozen=True)
class HealthyRun:
    """The result of a run under light load with nothing wrong."""

    seconds: float
    polls: int
    """Number of times that Prometheus was asked what fires."""
    fired: tuple[str, ...]
    outcomes: Mapping[str, int]
    """Outcome -> number of requests, by the client."""


@dataclass
class AlertReport:
    """The report on every alert: provoked, and when all is well."""

    circumstances: Circumstances
    speed: float
    provoked: list[Provocation] = field(default_factory=list)
    healthy: HealthyRun | None = None

    @property
    def is_good(self) -> bool:
        """Return whether every alert did what it should."""
        as_provoked = all(
            None not in step.fired_s.values() and (step.ended_s is not None or not step.ends)
            for step in self.provoked
        )
        return as_provoked and not (self.healthy is not None and self.healthy.fired)

    def markdown(self) -> str:
        """Return the report as Markdown: headings and tables."""
        lines = [
            "# Alerts, provoked and not",
            "",
            *self.circumstances.lines(),
            "",
            f"Durations in the rules, and intervals, are divided by {self.speed:g}: a second here "
            f"is {self.speed:g} seconds in production.",
        ]
        if self.provoked:
            lines += ["", "## Provoked", *table(PROVOKED, self.provoked)]
        if self.healthy is not None:
            run = self.healthy
            outcomes = ", ".join(f"{name} {n}" for name, n in run.outcomes.items() if n)
            fired = ", ".join(run.fired) or "none"
            lines += [
                "",
                "## When all is well",
                "",
                f"{run.seconds:.0f} s ({run.seconds * self.speed / 3600:.1f} h in production), "
                f"asked {run.polls} times. Requests: {outcomes}.",
                "",
                f"Alerts that fired: **{fired}**.",
            ]
        return "\n".join(lines) + "\n"


def _fired(step: Provocation) -> str:
    return ", ".join(
        f"{name} {'**never**' if after_s is None else f'{after_s:.1f}'}"
        for name, after_s in step.fired_s.items()
    )


PROVOKED: Columns[Provocation] = (
    ("cause", lambda step: step.cause),
    ("fired after, s", _fired),
    ("fired as well", lambda step: ", ".join(step.others)),
    (
        "ended after, s",
        lambda step: (
            f"{step.ended_s:.1f}"
            if step.ended_s is not None
            else "**never**"
            if step.ends
            else "(not ended)"
        ),
    ),
)


# -- an idle server ------------------------------------------------------------------------------

ANSWERED_SHARE = 0.95
"""Share of requests that must be answered with a little more than what the server suggests."""


@dataclass(frozen=True)
class IdleRound:
    """One round of requests, one at a time, with a little more than what was suggested."""

    suggested_ms: float
    """``min_budget_ms`` of the refusal before it."""
    budget_ms: float
    answered: int
    refused: Mapping[str, int]
    """Status and problem -> number of replies."""
    median_ms: float | None
    """Median latency of the answers by the client's clock; None without any."""

    @property
    def share(self) -> float:
        """Return the share of the requests that were answered."""
        return self.answered / (self.answered + sum(self.refused.values()))


@dataclass(frozen=True)
class DepthAtBudget:
    """What requests with one budget got, one at a time."""

    budget_ms: float
    answered: int
    points: tuple[str, ...]
    """Operating points, by accuracy, that a tenth, half and nine tenths of the answers do not
    exceed; none without answers."""
    refused: Mapping[str, int]


@dataclass(frozen=True)
class IdleReport:
    """The report of a server that had nothing else to do."""

    circumstances: Circumstances
    rounds: Sequence[IdleRound]
    budgets: Sequence[DepthAtBudget]

    @property
    def is_good(self) -> bool:
        """Return whether each round had its answers, and no reply said that the server is busy."""
        replies = [each.refused for each in self.rounds] + [each.refused for each in self.budgets]
        busy = any(name.startswith("503") for refused in replies for name in refused)
        return not busy and all(each.share >= ANSWERED_SHARE for each in self.rounds)

    def markdown(self) -> str:
        """Return the report as Markdown: a heading and tables."""
        lines = [
            "# An idle server, right after its start",
            "",
            *self.circumstances.lines(),
            "",
            "## Budgets just above what a refusal suggests",
            *table(IDLE_ROUNDS, self.rounds),
            "",
            "## Depth by budget",
            *table(DEPTHS, self.budgets),
        ]
        return "\n".join(lines) + "\n"


IDLE_ROUNDS: Columns[IdleRound] = (
    ("suggested, ms", lambda each: f"{each.suggested_ms:.1f}"),
    ("budget, ms", lambda each: f"{each.budget_ms:.1f}"),
    ("answered", lambda each: str(each.answered)),
    ("p50, ms", lambda each: "-" if each.median_ms is None else f"{each.median_ms:.1f}"),
    ("**refused**", lambda each: f"**{_counts(each.refused)}**"),
)

DEPTHS: Columns[DepthAtBudget] = (
    ("budget, ms", lambda each: f"{each.budget_ms:.1f}"),
    ("answered", lambda each: str(each.answered)),
    ("point p10 / p50 / p90", lambda each: ", ".join(each.points) or "-"),
    ("refused", lambda each: _counts(each.refused)),
)


def write(report: RestartReport | AlertReport | IdleReport, path: Path) -> None:
    """Write ``path`` as JSON and its neighbour ``.md`` as tables, each whole or not at all."""
    write_report(path, asdict(report), report.markdown())
