"""What came of a contest of graphs, for reading: tables, and AP against time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any

from builder.search.contest import IN_TIME, REWARD, Contest, Standing, ap_of
from builder.search.drawing import STYLE, draw
from reporting import html, markdown
from reporting.intervals import MeanInterval
from reporting.svg import Chart


def as_markdown(contest: Contest) -> str:
    """Return the tables: how each graph did, what the first is ahead by, and under which load."""
    return "\n".join(_lines(contest)) + "\n"


def _lines(contest: Contest) -> Iterator[str]:
    yield _says(contest)
    yield from markdown.table(_columns(contest), contest.standings)
    if contest.rivals:
        yield ""
        yield _verdict(contest)
        yield from markdown.table(_ahead_columns(contest), contest.rivals)
    if contest.conditions:
        yield ""
        if (sentence := _agreement(contest)) is not None:
            yield sentence
            yield ""
        yield "Accuracy in time by load, as a share of the published graph's, and arrivals:"
        yield from markdown.table(_condition_columns(contest), contest.conditions)


def _says(contest: Contest) -> str:
    return (
        "Graphs trained alike; means over seeds with 95 % intervals (Student's t). Times are in "
        f"{contest.timing.unit}, and the reward is `anytime` by them."
    )


def _verdict(contest: Contest) -> str:
    ahead = [s.name for s in contest.rivals if _is_ahead(s)]
    others = [s.name for s in contest.rivals if not _is_ahead(s)]
    text = (
        f"What `{contest.standings[0].name}` is ahead by, with the same seeds. In the reward, the "
        f"interval is above 0 against {', '.join(ahead) or 'none'}"
    )
    return text + (f", and not against {', '.join(others)}." if others else ".")


def _agreement(contest: Contest) -> str | None:
    tau = contest.agreement
    if tau is None:
        return None
    return (
        f"The reward and accuracy in time order the {len(contest.standings)} graphs with a "
        f"Kendall's tau of {tau.middle:.2f} [{tau.low:.2f}, {tau.high:.2f}] (95 %, by resampling "
        "graphs)."
    )


def _is_ahead(standing: Standing) -> bool:
    found = standing.first_ahead.get(REWARD)
    return found is not None and found.mean - found.half > 0


def _text(interval: MeanInterval | None) -> str:
    if interval is None:
        return "-"
    # One seed has no interval.
    half = f" ± {interval.half:.4f}" if math.isfinite(interval.half) else ""
    return f"{interval.mean:.4f}{half}"


def _columns(contest: Contest) -> markdown.Columns[Standing]:
    def times(standing: Standing) -> str:
        return " ".join(f"{time:.4g}" for time in contest.timing.exits[standing.key])

    def ratio(standing: Standing) -> str:
        found = contest.timing.ratios.get(standing.key)
        return "-" if found is None else f"{found.middle:.3f} [{found.low:.3f}, {found.high:.3f}]"

    return (
        ("graph", lambda s: f"`{s.name}`"),
        ("seeds", lambda s: str(s.num_seeds)),
        *((name, _figure(name)) for name in _named(contest)),
        ("time by exit", times),
        ("time in that of the first", ratio),
    )


def _ahead_columns(contest: Contest) -> markdown.Columns[Standing]:
    return (
        ("of", lambda s: f"`{s.name}`"),
        *((name, _first_ahead(name)) for name in _named(contest)),
    )


def _condition_columns(contest: Contest) -> markdown.Columns[str]:
    return (
        ("load, arrivals", lambda name: name),
        *((s.name, _mean_of(s)) for s in contest.standings),
        *((f"ahead of {s.name}", _ahead_of(s)) for s in contest.rivals),
    )


def _named(contest: Contest) -> list[str]:
    names = [REWARD, *(ap_of(depth) for depth in range(1, contest.num_exits + 1))]
    return [*names, IN_TIME] if contest.conditions else names


def _figure(name: str) -> Callable[[Standing], str]:
    return lambda standing: _text(standing.figures[name])


def _first_ahead(name: str) -> Callable[[Standing], str]:
    return lambda standing: _text(standing.first_ahead.get(name))


def _mean_of(standing: Standing) -> Callable[[str], str]:
    return lambda name: f"{standing.figures[name].mean:.4f}"


def _ahead_of(standing: Standing) -> Callable[[str], str]:
    return lambda name: _text(standing.first_ahead.get(name))


# -- page ----------------------------------------------------------------------------------------


def as_html(contest: Contest) -> str:
    """Return a page with AP against time, the tables and the graphs. It fetches nothing."""
    content = f'<p class="muted">{escape(_says(contest).replace("`", ""))}</p>'
    content += html.section(_chart_title(contest), _chart(contest))
    content += html.section("How they did", _table(_columns(contest), contest.standings))
    if contest.rivals:
        text = f"<p>{escape(_verdict(contest).replace('`', ''))}</p>"
        text += _table(_ahead_columns(contest), contest.rivals)
        content += html.section("What the first is ahead by", text)
    if contest.conditions:
        sentence = _agreement(contest)
        text = f"<p>{escape(sentence)}</p>" if sentence else ""
        text += _table(_condition_columns(contest), contest.conditions)
        content += html.section("Accuracy in time", text)
    figures = "".join(
        f"<figure>{draw(s.graph, s.name)}<figcaption>{escape(s.name)}</figcaption></figure>"
        for s in contest.standings
    )
    content += html.section("The graphs", f'<div class="graphs">{figures}</div>')
    return html.document("Graphs compared", content, STYLE)


def _chart_title(contest: Contest) -> str:
    more = len(contest.standings) > len(html.SERIES)
    return "AP by exit against time" + (f", of the first {len(html.SERIES)}" if more else "")


def _table(columns: markdown.Columns[Any], rows: Sequence[Any]) -> str:
    cells = [[cell(row).strip("`") for _, cell in columns] for row in rows]
    return f'<div class="scroll">{html.table([head for head, _ in columns], cells)}</div>'


def _chart(contest: Contest) -> str:
    drawn = list(zip(contest.standings, html.SERIES, strict=False))
    lines = [
        [
            (time, standing.figures[ap_of(depth)])
            for depth, time in enumerate(contest.timing.exits[standing.key], start=1)
        ]
        for standing, _ in drawn
    ]
    times = [time for line in lines for time, _ in line]
    aps = [ap.mean for line in lines for _, ap in line]
    beside, above = 0.05 * (max(times) - min(times)), 0.1 * (max(aps) - min(aps)) or 0.01
    chart = Chart(
        _chart_title(contest),
        f"time, {contest.timing.unit}",
        "AP",
        (min(times) - beside, max(times) + beside),
        (min(aps) - above, max(aps) + above),
    )
    for line, (standing, colour) in zip(lines, drawn, strict=True):
        chart.line([(time, ap.mean) for time, ap in line], colour, standing.name)
        chart.dots(((t, ap.mean, f"{standing.name}: {_text(ap)}") for t, ap in line), colour)
    return chart.render() + html.legend([(s.name, colour) for s, colour in drawn])
