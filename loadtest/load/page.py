"""The report of a load test as one HTML page that fetches nothing from elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from loadtest.load.open_loop import LoadResult
from loadtest.load.outcomes import Outcome, RequestOutcome
from loadtest.load.served_accuracy import ServedAp
from loadtest.load.summary import BudgetClass, LatencyQuantiles, Summary
from reporting.html import SERIES, document, legend, section, table, tiles
from reporting.svg import Chart

MAX_BINS = 120
BIN_WIDTHS_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
OUTCOME_COLOURS = {
    Outcome.IN_TIME: "in-time",
    Outcome.LATE: "late",
    Outcome.REFUSED: "refused",
    Outcome.HTTP_ERROR: "http-error",
    Outcome.CONNECTION_ERROR: "connection-error",
    Outcome.TIMEOUT: "timeout",
    Outcome.UNSENT: "unsent",
}
BUDGET_HEAD = (
    *("budget", "requests", "in time", "late", "refused", "failed", "p50 ms", "p99 ms"),
    *("mean depth", "in-time accuracy", "AP with misses"),
)
_STYLE = """
:root { --in-time: #17807a; --late: #e8a317; --refused: #a3adb8; --http-error: #c8451f;
  --connection-error: #7d1f3a; --timeout: #a347b5; --unsent: #30343a; --depth: #3566c4;
  --mean-depth: #d1431f; }
@media (prefers-color-scheme: dark) { :root { --in-time: #35aaa2; --refused: #66727f;
  --depth: #7ba2f0; --unsent: #d5dae0; --connection-error: #d2688c; --mean-depth: #ff9a76; } }
.verdict { font-weight: 600; } .verdict.valid { color: var(--good); }
.verdict.invalid { color: var(--bad); }
td.wide { text-align: left; width: 50%; } td.wide div { height: 12px; border-radius: 2px;
  background: var(--depth); }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.facts td:first-child { color: var(--muted); white-space: nowrap; width: 1%; }
"""


def page(result: LoadResult, summary: Summary) -> str:
    """Return the report as a whole HTML document."""
    title = f"Load test of {summary.model or summary.url}"
    bins = _bins(result)
    sections = (
        _tiles(summary),
        section("Outcome of requests, by when they were due", _outcomes_over_time(bins)),
        section("Exit depth of the answers in time", _depth_over_time(bins, summary)),
        section("Requests answered within a latency", _latencies(result.outcomes, summary)),
        section("By budget", table(BUDGET_HEAD, map(budget_cells, summary.by_budget))),
        '<div class="columns">',
        section("Accounting", _accounting(summary)),
        section("Answers in time, by operating point", _point_table(summary)),
        "</div>",
        section("The run", _facts(summary)),
    )
    subtitle = f'<p class="muted">{escape(_subtitle(summary))}</p>'
    return document(title, f"{subtitle}{_verdict(summary)}{''.join(sections)}", _STYLE)


def _subtitle(summary: Summary) -> str:
    return (
        f"{summary.count:,} requests in {summary.duration_s:g} s: {summary.arrivals} at "
        f"{summary.target_hz:g}/s, budgets {summary.budgets}, seed {summary.seed}"
    )


def _verdict(summary: Summary) -> str:
    if summary.is_valid:
        return '<p class="verdict valid">Valid: requests were sent when they were due.</p>'
    reasons = "; ".join(summary.invalid_because)
    return f'<p class="verdict invalid">Not valid: {escape(reasons)}.</p>'


# -- tiles ---------------------------------------------------------------------------------------


def _tiles(summary: Summary) -> str:
    served = summary.served_with_misses
    p50, _, p99 = latency_texts(summary.latency_ms)
    entries = [
        ("in time", f"{summary.attainment:.1%}", f"of {summary.count:,}"),
        ("goodput", f"{summary.goodput_hz:.1f}/s", f"{summary.achieved_hz:.1f}/s were sent"),
        ("latency p99", f"{p99} ms", f"p50 {p50}, of answers"),
        (
            "in-time accuracy",
            digits(summary.in_time_accuracy, 3),
            f"expected AP {digits(summary.expected_ap, 3)} of answers",
        ),
    ]
    if served is not None:
        in_time = ap_text(summary.served_in_time)
        entries.append(("AP with misses", ap_text(served), f"served AP {in_time} in time"))
    lag = summary.lag_ms
    entries.append(
        ("client's lag p99", f"{lag.p99:.2f} ms", f"p50 {lag.p50:.2f}, max {lag.max:.1f}")
    )
    return tiles(entries)


def digits(value: float | None, count: int) -> str:
    """Return a number with ``count`` digits after the point, or a dash where there is none."""
    return "-" if value is None else f"{value:.{count}f}"


def latency_texts(latency_ms: LatencyQuantiles | None) -> tuple[str, str, str]:
    """Return p50, p90 and p99 in milliseconds as texts; dashes where there are none."""
    if latency_ms is None:
        return ("-", "-", "-")
    p50, p90, p99 = (f"{ms:.1f}" for ms in (latency_ms.p50, latency_ms.p90, latency_ms.p99))
    return p50, p90, p99


def ap_text(served: ServedAp | None) -> str:
    """Return AP with three digits, or a dash where it is not known."""
    return "-" if served is None else f"{served.ap:.3f}"


# -- charts --------------------------------------------------------------------------------------


class _Bins:
    """A run's outcomes by when they were due, in equal steps of ``width_s`` seconds."""

    def __init__(self, width_s: float, outcomes: Sequence[tuple[RequestOutcome, ...]]) -> None:
        self.width_s = width_s
        self.outcomes = outcomes

    @property
    def end_s(self) -> float:
        return self.width_s * len(self.outcomes)


def _bins(result: LoadResult) -> _Bins:
    duration_s = result.settings.duration_s
    width_s = next(
        (width for width in BIN_WIDTHS_S if duration_s / width <= MAX_BINS),
        duration_s / MAX_BINS,
    )
    count = max(1, int(-(-duration_s // width_s)))
    binned: list[list[RequestOutcome]] = [[] for _ in range(count)]
    for request in result.outcomes:
        binned[min(count - 1, int(request.scheduled_s / width_s))].append(request)
    return _Bins(width_s, [tuple(outcomes) for outcomes in binned])


def _outcomes_over_time(bins: _Bins) -> str:
    most = max(len(outcomes) for outcomes in bins.outcomes) / bins.width_s
    chart = Chart("Outcomes", "s", "requests/s", (0.0, bins.end_s), (0.0, 1.05 * most))
    seen = set()
    for number, outcomes in enumerate(bins.outcomes):
        counts, base = Counter(request.outcome for request in outcomes), 0.0
        span = (number * bins.width_s, (number + 1) * bins.width_s)
        for outcome, colour in OUTCOME_COLOURS.items():
            if counts[outcome]:
                seen.add(outcome)
                top = base + counts[outcome] / bins.width_s
                label = f"{span[0]:g} to {span[1]:g} s: {counts[outcome]} {outcome}"
                chart.bar(span, base, top, colour, label)
                base = top
    used = [(o.value, colour) for o, colour in OUTCOME_COLOURS.items() if o in seen]
    return chart.render() + legend(used)


def _depth_over_time(bins: _Bins, summary: Summary) -> str:
    if not summary.depths:
        return '<p class="muted">No answer in time says from which exit it came.</p>'
    deepest = max(summary.depths)
    chart = Chart("Depth", "s", "exit", (0.0, bins.end_s), (0.5, deepest + 0.5))
    mean: list[list[tuple[float, float]]] = [[]]  # a gap in the answers is a gap in the line
    for number, outcomes in enumerate(bins.outcomes):
        span = (number * bins.width_s, (number + 1) * bins.width_s)
        depths = [r.depth for r in outcomes if r.outcome is Outcome.IN_TIME and r.depth is not None]
        for depth, count in sorted(Counter(depths).items()):
            label = f"{span[0]:g} to {span[1]:g} s: {count} of {len(depths)} from exit {depth}"
            share = count / len(depths)
            chart.bar(span, depth - 0.5, depth + 0.5, "depth", label, share)
        if depths:
            average = sum(depths) / len(depths)
            mean[-1].extend((at_s, average) for at_s in span)
        elif mean[-1]:
            mean.append([])
    for points in filter(None, mean):
        chart.line(points, "mean-depth", "mean depth")
    entries = [("share of the answers, from none (pale) to all", "depth"), ("mean", "mean-depth")]
    return chart.render() + legend(entries)


def _latencies(outcomes: Sequence[RequestOutcome], summary: Summary) -> str:
    answers = sorted(request.latency_s for request in outcomes if request.is_answer)
    if not answers:
        return '<p class="muted">There are no answers.</p>'
    budgets_ms = [entry.most_ms for entry in summary.by_budget]
    # With the slowest answers the scale would press the others against the axis.
    end_ms = 1.05 * max(*budgets_ms, 1e3 * answers[int(0.995 * (len(answers) - 1))])
    chart = Chart(
        "Latencies", "ms from the scheduled moment", "of all", (0.0, end_ms), (0.0, 1.0), True
    )
    entries = []
    for budget, colour in zip(summary.by_budget, SERIES, strict=False):
        of_class = sorted(
            1e3 * request.latency_s
            for request in outcomes
            if request.is_answer and budget.least_ms <= 1e3 * request.budget_s <= budget.most_ms
        )
        steps = [(0.0, 0.0)]
        for number, latency_ms in enumerate(of_class, start=1):
            if latency_ms > end_ms:
                break
            steps.extend(((latency_ms, steps[-1][1]), (latency_ms, number / budget.count)))
        steps.append((end_ms, steps[-1][1]))
        name = f"budget {budget_text(budget)}"
        chart.mark(budget.most_ms, colour)
        chart.line(steps, colour, name)
        entries.append((name, colour))
    note = '<p class="muted">Dashed: the budgets. Late answers lie to the right of theirs.</p>'
    return chart.render() + legend(entries) + note


# -- tables --------------------------------------------------------------------------------------


def budget_text(entry: BudgetClass) -> str:
    """Return a class of budgets as text: ``24.0 ms``, or ``20 to 30 ms``."""
    if entry.least_ms == entry.most_ms:
        return f"{entry.most_ms:.1f} ms"
    return f"{entry.least_ms:.0f} to {entry.most_ms:.0f} ms"


def budget_cells(entry: BudgetClass) -> tuple[str, ...]:
    """Return a row of the table by budget, one cell for each of BUDGET_HEAD."""
    counts = [entry.outcomes[o] for o in (Outcome.IN_TIME, Outcome.LATE, Outcome.REFUSED)]
    p50, _, p99 = latency_texts(entry.latency_ms)
    return (
        budget_text(entry),
        f"{entry.count:,}",
        *(f"{count / entry.count:.1%}" for count in (*counts, entry.count - sum(counts))),
        p50,
        p99,
        digits(entry.mean_depth, 2),
        digits(entry.in_time_accuracy, 3),
        ap_text(entry.served_with_misses),
    )


def _accounting(summary: Summary) -> str:
    rows: list[tuple[str, str, str]] = []
    for outcome, count in summary.outcomes.items():
        rows.append((outcome, f"{count:,}", f"{count / summary.count:.1%}"))
        for reason, of_reason in summary.reasons.get(outcome, {}).items():
            share = f"{of_reason / summary.count:.1%}"
            rows.append((f"\N{EM SPACE}{reason}", f"{of_reason:,}", share))
    rows.append(("all", f"{sum(summary.outcomes.values()):,}", f"{summary.count:,} scheduled"))
    return table(("outcome", "requests", "share"), rows)


def _point_table(summary: Summary) -> str:
    if not summary.points:
        return '<p class="muted">No answer in time says from which exit it came.</p>'
    total, most = sum(summary.points.values()), max(summary.points.values())
    rows = "".join(
        f"<tr><td>{escape(point)}</td><td>{count:,}</td><td>{count / total:.1%}</td>"
        f'<td class="wide"><div style="width:{100 * count / most:.1f}%"></div></td></tr>'
        for point, count in summary.points.items()
    )
    return f"<table><tr><th>point</th><th>answers</th><th>share</th><th></th></tr>{rows}</table>"


def _facts(summary: Summary) -> str:
    facts: Mapping[str, str] = {
        "server": f"{summary.url}, target {summary.target}, model {summary.model or 'unknown'}",
        "started": summary.started,
        "client's machine": summary.machine,
        "schedule digest": summary.schedule_digest,
        "trace digest": summary.trace_digest or "none",
        "full-depth time": f"{summary.full_depth_ms:.2f} ms",
        "pictures": f"{summary.num_pictures}",
        "client": f"{summary.cpu_us_per_request:.0f} \N{MICRO SIGN}s of processor time a request, "
        f"at most {summary.peak_connections} connections, "
        f"{'real-time' if summary.is_real_time else 'ordinary'} scheduling",
    }
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in facts.items()
    )
    return f'<table class="facts">{rows}</table>'
