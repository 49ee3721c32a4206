"""``punctual study ladders``: the policy that serves on many ladders, in virtual time.

Each setting is a ladder (a profile of ``loadtest/profiles``), a kind of arrivals and a load. Beside
the policy stand the best fixed operating point in hindsight and what no schedule can exceed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from loadtest.simulation.profiles import load_profile
from loadtest.simulation.report import SHIPPED, SimulationReport
from loadtest.simulation.study import HINDSIGHT, Conditions, Point, policies_at
from loadtest.simulation.study import study as simulate
from loadtest.simulation.tables import HINDSIGHT_TEXT, difference_text
from loadtest.workload.arrivals import parse_arrivals
from loadtest.workload.budgets import parse_budgets
from reporting import html
from reporting.files import write_report, write_whole
from reporting.intervals import MeanInterval
from reporting.markdown import Columns, table
from serving.core.command_errors import InvalidArgument

POLICIES = (SHIPPED, HINDSIGHT)
EVERY = 100
"""Number of runs between two words of progress."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class LadderStudySettings:
    """The settings of a study of ladders."""

    profiles: tuple[str, ...]
    arrivals: tuple[str, ...]
    loads: tuple[float, ...]
    """Shares of the capacity at the quickest operating point."""
    conditions: Conditions
    seeds: int
    jobs: int
    """Number of processes."""

    def check(self) -> None:
        """Raise ValueError, with a sentence, for settings that cannot be meant."""
        for name in self.profiles:
            load_profile(name)
        for name in self.arrivals:
            parse_arrivals(name)
        parse_budgets(self.conditions.budgets)
        if not all(0 < load < math.inf for load in self.loads):
            raise InvalidArgument("loads must be positive and finite")

    @property
    def points(self) -> list[Point]:
        """Return all settings: each ladder, with each kind of arrivals, at each load."""
        return [
            Point(profile, arrivals, load)
            for profile in self.profiles
            for arrivals in self.arrivals
            for load in self.loads
        ]


@dataclass(frozen=True)
class LadderReport:
    """The findings of a study of ladders, and when and on what it was made."""

    date: str
    machine: str
    settings: LadderStudySettings
    simulated: SimulationReport


def study(settings: LadderStudySettings, date: str, machine: str, say: Say) -> LadderReport:
    """Simulate every setting. Raises ValueError for settings that make no sense."""
    settings.check()
    points = settings.points
    total = settings.seeds * sum(len(policies_at(point, POLICIES)) for point in points)
    results = []
    for result in simulate(points, POLICIES, settings.conditions, settings.seeds, settings.jobs):
        results.append(result)
        if len(results) % EVERY == 0:
            say(f"{len(results)} of {total} runs")
    report = SimulationReport(settings.conditions, points, POLICIES, results)
    return LadderReport(date, machine, settings, report)


# -- figures -------------------------------------------------------------------------------------


class Row(NamedTuple):
    """The figures of one setting."""

    point: Point
    attainment: float
    accuracy: float
    """In-time accuracy of the policy that serves."""
    best_fixed: str
    """Name of the operating point that is best in hindsight."""
    best_accuracy: float
    best_attainment: float
    regret: MeanInterval
    bound: float
    share: float
    """Share of the oracle's bound that the policy reaches."""

    @property
    def is_behind(self) -> bool:
        """Return whether the whole interval of the regret is above zero."""
        return self.regret.mean - self.regret.half > 0


def rows(report: SimulationReport) -> list[Row]:
    """Return the figures of every setting, in their order."""
    regrets = report.regrets()
    return [
        Row(
            point,
            cells[SHIPPED].metrics["attainment"].mean,
            cells[SHIPPED].metrics["in_time_accuracy"].mean,
            report.best_fixed[point].partition(":")[2],
            cells[HINDSIGHT].metrics["in_time_accuracy"].mean,
            cells[HINDSIGHT].metrics["attainment"].mean,
            regrets[point],
            cells[SHIPPED].metrics["bound"].mean,
            cells[SHIPPED].metrics["share_of_oracle"].mean,
        )
        for point, cells in report.cells.items()
    ]


class LadderSummary(NamedTuple):
    """The settings of one ladder, or of all, taken together."""

    name: str
    settings: int
    behind: int
    """Number of settings at which the best fixed point is ahead on average."""
    certain: int
    """Number of these at which the whole interval is on its side."""
    regret: float
    """Mean regret."""
    worst: float
    """Largest regret."""
    share: float
    """Mean share of the oracle's bound."""

    @classmethod
    def of(cls, name: str, found: Sequence[Row]) -> LadderSummary:
        """Sum up the settings of a ladder."""
        regrets = [row.regret.mean for row in found]
        return cls(
            name,
            len(found),
            sum(regret > 0 for regret in regrets),
            sum(row.is_behind for row in found),
            math.fsum(regrets) / len(regrets),
            max(regrets),
            math.fsum(row.share for row in found) / len(found),
        )


def summaries(report: SimulationReport) -> list[LadderSummary]:
    """Return a summary of each ladder, and of all of them where there are several."""
    found = rows(report)
    names = dict.fromkeys(row.point.profile for row in found)
    each = [
        LadderSummary.of(name, [row for row in found if row.point.profile == name])
        for name in names
    ]
    return [*each, LadderSummary.of("all", found)] if len(each) > 1 else each


# -- tables --------------------------------------------------------------------------------------

SUMMARY: Columns[LadderSummary] = (
    ("ladder", lambda each: each.name),
    ("settings", lambda each: f"{each.settings}"),
    ("fixed point ahead", lambda each: f"{each.behind}"),
    ("certainly", lambda each: f"{each.certain}"),
    ("mean regret", lambda each: f"{each.regret:+.4f}"),
    ("largest", lambda each: f"{each.worst:+.4f}"),
    ("% of the bound", lambda each: f"{100 * each.share:.1f}"),
)

SETTINGS: Columns[Row] = (
    ("arrivals", lambda row: row.point.arrivals),
    ("load", lambda row: f"{row.point.load:g}"),
    (SHIPPED, lambda row: f"{row.accuracy:.3f}"),
    ("in time, %", lambda row: f"{100 * row.attainment:.1f}"),
    ("best fixed point in hindsight", lambda row: f"{row.best_accuracy:.3f} ({row.best_fixed})"),
    ("in time, %", lambda row: f"{100 * row.best_attainment:.1f}"),
    ("regret", lambda row: difference_text(row.regret) + (" certain" if row.is_behind else "")),
    ("oracle's bound", lambda row: f"{row.bound:.3f}"),
    ("% of the bound", lambda row: f"{100 * row.share:.1f}"),
)


def _title(report: LadderReport) -> str:
    return f"The policy on many ladders, simulated {report.date}"


def _made(report: LadderReport) -> str:
    settings = report.settings
    conditions = settings.conditions
    return (
        f"On {report.machine}. Budgets {conditions.budgets}, jitter {conditions.jitter:g}, "
        f"seeds 0 to {settings.seeds - 1}, {conditions.num_requests} requests a run on average. "
        "Figures are in-time accuracy: AP of the answers in time, summed, over all requests."
    )


def _ladder_text(name: str) -> str:
    profile = load_profile(name)
    points = ", ".join(
        f"{profile.ladder.label(point)} {1e3 * profile.quickest_s(point):.1f} ms "
        f"{profile.ladder.ap(point):.3f}"
        for point in profile.ladder.points
    )
    merged = ", ".join(
        f"{profile.ladder.answer_label((first, then))} {ap:.3f}"
        for first, then, ap in profile.ladder.gains()
    )
    return f"{profile.description}: {points}" + (f"; merged {merged}" if merged else "") + "."


def markdown(report: LadderReport) -> str:
    """Return the report as Markdown: a summary, and a table for each ladder."""
    found = rows(report.simulated)
    lines = [f"# {_title(report)}", "", _made(report), "", HINDSIGHT_TEXT]
    lines += table(SUMMARY, summaries(report.simulated))
    for name in report.settings.profiles:
        lines += ["", f"## {name}", "", _ladder_text(name)]
        lines += table(SETTINGS, [row for row in found if row.point.profile == name])
    return "\n".join(lines) + "\n"


def page(report: LadderReport) -> str:
    """Return the report as an HTML page."""
    found = rows(report.simulated)
    parts = [
        f'<p class="muted">{escape(_made(report))}</p><p>{escape(HINDSIGHT_TEXT)}</p>',
        html.section("Summary", _html(SUMMARY, summaries(report.simulated))),
    ]
    for name in report.settings.profiles:
        of_ladder = [row for row in found if row.point.profile == name]
        text = f'<p class="muted">{escape(_ladder_text(name))}</p>'
        parts.append(html.section(name, text + _html(SETTINGS, of_ladder)))
    return html.document(_title(report), "".join(parts))


def _html(columns: Columns[Any], found: Sequence[Any]) -> str:
    cells = ([cell(row) for _, cell in columns] for row in found)
    return html.table([heading for heading, _ in columns], cells)


def to_json(report: LadderReport) -> dict[str, Any]:
    """Return the report as JSON."""
    return {
        "date": report.date,
        "machine": report.machine,
        "seeds": report.settings.seeds,
        "summary": [each._asdict() for each in summaries(report.simulated)],
        **report.simulated.to_json(),
    }


def write(report: LadderReport, folder: Path) -> list[Path]:
    """Write ladders-DATE.json, .md and .html into ``folder``, which exists; return their paths."""
    stem = folder / f"ladders-{report.date}"
    written = write_report(stem, to_json(report), markdown(report))
    write_whole(stem.with_name(stem.name + ".html"), page(report))
    return [*written, stem.with_name(stem.name + ".html")]
