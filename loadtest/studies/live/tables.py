"""The findings of ``punctual study live`` as Markdown that a terminal shows as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtest.environment.spread import Spread
from loadtest.load.accounting import ENDS, Account
from loadtest.load.summary import by_number
from loadtest.simulation.recovery import WINDOW
from loadtest.simulation.tables import difference_text
from loadtest.studies.live.report import (
    ACCURACY,
    ATTAINMENT,
    COMPARED,
    METRICS,
    Burst,
    BurstRun,
    LiveReport,
    LiveRun,
    Metric,
    to_json,
)
from loadtest.studies.live.simulation_tables import simulation_tables
from loadtest.studies.live.systems import SHIPPED
from reporting.files import write_report
from reporting.markdown import Columns, table

NOTHING = "-"


def write(report: LiveReport, path: Path) -> None:
    """Write ``path`` as JSON and its neighbour ``.md`` as tables, each whole or not at all."""
    write_report(path, to_json(report), markdown(report))


def markdown(report: LiveReport) -> str:
    """Return the report as Markdown: headings and tables."""
    lines = [
        f"# Live on one machine: {report.model}",
        "",
        f"{report.machine}, {report.date}, load average {report.load_average:.2f} before. "
        + ", ".join(f"{name} {version}" for name, version in report.versions.items())
        + f". Model {report.model}, digest {report.model_digest[:12]}.",
        "",
        "Settings: " + ", ".join(f"{name} {value}" for name, value in report.settings.items()),
        "",
        "Spreads over rounds are median (p10 .. p90); of three rounds or less, middle (smallest .. "
        "largest).",
        *_reference(report),
        *_loads(report),
        *_bursts(report),
        *_accounting(report),
        *simulation_tables(report),
        *_validity(report),
    ]
    return "\n".join(lines) + "\n"


def _reference(report: LiveReport) -> Iterator[str]:
    reference = report.reference
    depths = Spread.of(1e3 * seconds for seconds in reference.full_depths_s)
    yield from ("", "## What loads and budgets are of", "")
    if reference.load_hz == reference.capacity_hz:
        yield f"- Load 1 is {reference.capacity_hz:.1f} requests/s, the capacity."
    else:
        yield "- Loads are requests per second."
    yield (
        f"- The capacity is {reference.capacity_hz:.1f} requests/s: what the whole server answers "
        "at its quickest operating point, asked by callers who wait for each answer, with client, "
        f"gateway and engine on the same cores ({Spread.of(reference.capacities_hz).text(1)})."
    )
    yield (
        f"- The engine alone would answer {reference.engine_capacity_hz:.1f}/s, "
        f"{reference.slowdown:.2f} times as many; that is load 1 in simulations."
    )
    yield (
        f"- Budgets that are multiples are of {1e3 * reference.full_depth_s:.1f} ms: the most "
        "accurate operating point as an idle server's only client sees it "
        f"({depths.text(1)}). The engine alone takes "
        f"{1e3 * reference.engine_full_depth_s:.1f} ms; the gateway keeps "
        f"{1e3 * reference.reserve_s:.1f} ms of each budget."
    )
    if report.has_peers:
        yield (
            f"- Peers give up after {1e3 * reference.peer_timeout_s:.1f} ms, the middle budget "
            "(loadtest/peers/README.md)."
        )
    else:
        yield "- Without peers: no environment that has them was named (--peers-python)."


# -- loads ---------------------------------------------------------------------------------------


def _loads(report: LiveReport) -> Iterator[str]:
    if not report.runs:
        return
    yield from _in_hindsight(report)
    for arrivals in report.arrivals:
        yield from ("", f"## {arrivals}, by load")
        for metric in METRICS:
            yield from ("", metric.title)
            yield from _by_load(report, arrivals, metric)
        for metric in COMPARED:
            yield from ("", f"{SHIPPED} less the other, within a round: {metric.title}")
            yield from _leads(report, arrivals, metric)
    yield from _not_won(report)
    yield from _ends(report)


def _in_hindsight(report: LiveReport) -> Iterator[str]:
    """Yield the shipped policy beside the best of each kind that has an operating point."""
    rivals = [*report.kinds, *(name for name in report.systems if ":" not in name)]
    rivals.remove(SHIPPED)
    yield from ("", f"## {SHIPPED} and the best fixed operating points in hindsight", "")
    yield (
        "In-time accuracy, mean of the rounds, and the % in time. Of servers of one operating "
        "point that with the highest mean at each load is taken, as nobody could have beforehand. "
        f"Difference: {SHIPPED} less the other, 95 % interval over tenths of runs, in which both "
        "had the same requests."
    )
    rows = [(arrivals, load) for arrivals in report.arrivals for load in report.loads]
    columns: Columns[tuple[str, float]] = (
        ("arrivals", lambda row: row[0]),
        ("load", lambda row: f"{row[1]:g}"),
        (SHIPPED, lambda row: _mean_text(report, SHIPPED, *row)),
        *((kind, lambda row, kind=kind: _rival_text(report, kind, *row)) for kind in rivals),
    )
    yield from table(columns, [row for row in rows if report.at(SHIPPED, *row)])


def _mean_text(report: LiveReport, system: str, arrivals: str, load: float) -> str:
    runs = report.at(system, arrivals, load)
    if not runs:
        return NOTHING
    accuracy, attainment = (
        sum(metric.get(run.summary) or 0.0 for run in runs) / len(runs)
        for metric in (ACCURACY, ATTAINMENT)
    )
    return f"{accuracy:.3f} ({100 * attainment:.1f})"


def _rival_text(report: LiveReport, kind: str, arrivals: str, load: float) -> str:
    system = report.best(kind, arrivals, load) if kind in report.kinds else kind
    if system is None:
        return NOTHING
    text = _mean_text(report, system, arrivals, load)
    difference = report.difference(system, arrivals, load)
    point = system.partition(":")[2]
    return " ".join(
        (text, *([point] if point else []), *([difference_text(difference)] if difference else []))
    )


def _by_load(report: LiveReport, arrivals: str, metric: Metric) -> Iterator[str]:
    def cell(system: str, load: float) -> str:
        spread = report.spread(metric, system, arrivals, load)
        return NOTHING if spread is None else spread.text(metric.digits)

    yield from _matrix(report, report.systems, cell)


def _leads(report: LiveReport, arrivals: str, metric: Metric) -> Iterator[str]:
    def cell(rival: str, load: float) -> str:
        spread = report.lead(metric, rival, arrivals, load)
        return NOTHING if spread is None else spread.text(metric.digits)

    yield from _matrix(report, [name for name in report.systems if name != SHIPPED], cell)


def _matrix(report: LiveReport, systems: Sequence[str], cell: object) -> Iterator[str]:
    assert callable(cell)
    columns: Columns[str] = (
        ("load", lambda system: system),
        *((f"{load:g}", lambda system, load=load: cell(system, load)) for load in report.loads),
    )
    yield from table(columns, systems)


def _not_won(report: LiveReport) -> Iterator[str]:
    lines = []
    for metric in COMPARED:
        for arrivals in report.arrivals:
            for load in report.loads:
                for rival in report.systems:
                    lead = None
                    if rival != SHIPPED:
                        lead = report.lead(metric, rival, arrivals, load)
                    if lead is not None and lead.p50 < 0:
                        lines.append(
                            f"- {metric.name}, {arrivals} at {load:g}, against {rival}: "
                            f"{lead.text(metric.digits)}"
                        )
    yield from ("", f"## Where {SHIPPED} is behind, in the middle of the rounds", "")
    yield from lines or ["Nowhere."]


def _ends(report: LiveReport) -> Iterator[str]:
    """Yield a table of operating points and refusals by system and load, over all rounds."""
    points = sorted({p for run in report.runs for p in run.summary.points}, key=by_number)
    groups = [
        (system, load, [r for r in report.runs if (r.system, r.load) == (system, load)])
        for system in report.systems
        for load in report.loads
    ]
    columns: Columns[tuple[str, float, list[LiveRun]]] = (
        ("system", lambda group: group[0]),
        ("load", lambda group: f"{group[1]:g}"),
        *((point, lambda group, point=point: _share_at(group[2], point)) for point in points),
        ("not in time, % of all", lambda group: _reasons(group[2])),
    )
    yield from ("", "## Operating points of the answers in time, %, and what became of the rest")
    yield from table(columns, [group for group in groups if group[2]])


def _share_at(runs: Sequence[LiveRun], point: str) -> str:
    in_time = sum(sum(run.summary.points.values()) for run in runs)
    here = sum(run.summary.points.get(point, 0) for run in runs)
    return f"{100 * here / in_time:.0f}" if in_time else NOTHING


def _reasons(runs: Sequence[LiveRun | BurstRun]) -> str:
    count = sum(run.summary.count for run in runs)
    reasons: Counter[str] = Counter()
    for run in runs:
        reasons["late"] += run.summary.outcomes["late"]
        for of_outcome in run.summary.reasons.values():
            reasons.update(of_outcome)
    return ", ".join(
        f"{reason} {100 * number / count:.1f}" for reason, number in reasons.most_common() if number
    )


# -- recovery ------------------------------------------------------------------------------------


def _bursts(report: LiveReport) -> Iterator[str]:
    if not report.bursts:
        return
    first = report.bursts[0]
    start_s, end_s = first.burst_s
    bin_s = first.duration_s / len(first.timeline.arrived)
    yield from ("", "## A burst", "")
    yield (
        f"Load {first.load:g} for {first.duration_s:g} s, but {first.arrivals.rpartition(':')[2]} "
        f"times as much from {start_s:g} to {end_s:g} s. Before, in and after it, over all rounds. "
        f"It is back when {WINDOW} bins of {bin_s:g} s in a row are as before; seconds from the "
        "burst's end to theirs."
    )
    bursts = report.through_bursts()
    yield from table(BURST, bursts)
    ratios = [
        f"{ratio.text(2)} times {burst.system}'s"
        for burst in bursts
        if burst.system != SHIPPED and (ratio := report.burst_ratio(burst.system)) is not None
    ]
    if ratios:
        yield ""
        yield f"In it, {SHIPPED}'s goodput is within a round {', '.join(ratios)}."


def _attainments(burst: Burst) -> str:
    if burst.recovery is None:
        return NOTHING
    stretches = (burst.recovery.before, burst.recovery.during)
    return ", ".join(f"{100 * stretch.attainment:.1f}" for stretch in stretches)


def _depths(burst: Burst) -> str:
    if burst.recovery is None:
        return NOTHING
    return ", ".join(f"{s.depth:.2f}" for s in (burst.recovery.before, burst.recovery.during))


def _goodputs(burst: Burst) -> str:
    if burst.recovery is None:
        return NOTHING
    before_hz, during_hz = burst.recovery.before.goodput_hz, burst.recovery.during.goodput_hz
    return f"{before_hz:.1f}, {during_hz:.1f}, {burst.goodput_after_hz:.1f}"


def _back(burst: Burst, name: str) -> str:
    if burst.recovery is None:
        return NOTHING
    back_s = getattr(burst.recovery, name)
    return "never" if back_s is None else f"{back_s:.1f}"


BURST: Columns[Burst] = (
    ("system", lambda burst: burst.system),
    ("goodput/s: before, in, after", _goodputs),
    ("in time, %: before, in", _attainments),
    ("depth: before, in", _depths),
    ("attainment back, s", lambda burst: _back(burst, "attainment_back_s")),
    ("depth back, s", lambda burst: _back(burst, "depth_back_s")),
    ("not in time, % of all", lambda burst: _reasons(burst.runs)),
)


# -- accounting ----------------------------------------------------------------------------------


def _accounting(report: LiveReport) -> Iterator[str]:
    accounts = report.accounts()
    if not accounts:
        return
    yield from ("", "## Every request's end", "")
    yield (
        "All runs of a system, by the client; where a server has counts of its own, they are the "
        "growth of its punctual_requests_total, with the requests that warmed it up. Unseen: "
        "turned away by the HTTP server at its limit of connections, which those counts leave out."
    )
    rows = [
        (name, side, account)
        for name, account in accounts.items()
        for side in ("client", "server")
        if side == "client" or account.server is not None
    ]
    yield from table(ACCOUNTS, rows)
    runs = report.all_runs
    off = [run for run in runs if not _is_exact(run.account)]
    yield ""
    yield (
        f"{len(runs) - len(off)} of {len(runs)} runs are exact: the ends add up to what was to be "
        "sent, and the server counted the same, but for those that warmed it up."
    )
    for run in off:
        yield (
            f"- not exact: {run.system}, {run.arrivals} at {run.load:g}: client "
            f"{dict(run.account.client)}, server {run.account.server and dict(run.account.server)}"
        )


def _is_exact(account: Account) -> bool:
    return account.is_complete and account.agrees


def _side(row: tuple[str, str, Account], end: str) -> str:
    _, side, account = row
    counts = account.client if side == "client" else account.server
    return NOTHING if counts is None else f"{counts[end]:,}"


def _sum(row: tuple[str, str, Account]) -> str:
    _, side, account = row
    counts = account.client if side == "client" else account.server
    return NOTHING if counts is None else f"{sum(counts.values()):,}"


ACCOUNTS: Columns[tuple[str, str, Account]] = (
    ("system", lambda row: row[0]),
    ("counted by", lambda row: row[1]),
    ("to be sent", lambda row: f"{row[2].scheduled:,}" if row[1] == "client" else ""),
    *((end, lambda row, end=end: _side(row, end)) for end in ENDS),
    ("sum", _sum),
    ("of them warm-up", lambda row: f"{row[2].warm_up:,}" if row[1] == "server" else ""),
    (
        "connection errors",
        lambda row: f"{row[2].connection_errors:,}" if row[1] == "client" else "",
    ),
)


# -- validity ------------------------------------------------------------------------------------


def _validity(report: LiveReport) -> Iterator[str]:
    runs = report.all_runs
    if not runs:
        return
    lags = Spread.of(run.summary.lag_ms.p99 for run in runs)
    invalid = report.not_valid()
    yield from ("", "## The client", "")
    yield (
        f"99 % of a run's requests were sent within {lags.text(2)} ms of when they were due. "
        f"{len(runs) - len(invalid)} of {len(runs)} runs are valid; the others are counted all the "
        "same."
    )
    for run in invalid:
        why = "; ".join(run.summary.invalid_because)
        yield f"- not valid: {run.system}, {run.arrivals} at {run.load:g}: {why}"
