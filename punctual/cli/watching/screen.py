"""What a terminal shows while a source is watched: four lines that are drawn anew."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from punctual.cli.watching.ledger import LOST, SKIPPED, SUPERSEDED, Figures, Ledger

_BARS = "▁▂▃▄▅▆▇█"
_NUM_BARS = 48
_POINT_CELLS = 16
_NUM_LABELS = 6
_GOOD_SHARE = 0.99

GOOD, BAD, QUIET, ACCENT = "green", "red", "dim", "cyan"


def render(title: str, where: str, ledger: Ledger, now_s: float, is_connected: bool) -> Panel:
    """Return what is shown at an instant: figures of the last seconds."""
    figures = ledger.recent(now_s)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=QUIET, min_width=9)
    grid.add_column()
    grid.add_row("in time", _rates(ledger, figures))
    grid.add_row("budget", _used(ledger))
    grid.add_row("depth", _points(figures))
    grid.add_row("seen", _seen(ledger))
    parts: list[RenderableType] = [grid]
    if not is_connected:
        parts.append(Text("no connection; trying again", style=BAD))
    return Panel(
        Group(*parts),
        title=Text(title, style="bold"),
        title_align="left",
        subtitle=Text(where, style=QUIET),
        subtitle_align="right",
        border_style=ACCENT,
    )


def summary(ledger: Ledger) -> str:
    """Return one sentence about all frames."""
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in ledger.outcomes.most_common())
    on_time = "" if ledger.on_time is None else f"; {ledger.on_time:.1%} in time"
    points = "".join(
        f"; {point} {count / ledger.points.total():.0%}"
        for point, count in ledger.points.most_common(3)
    )
    return f"{ledger.num_frames} frames: {outcomes or 'none'}{on_time}{points}"


def _rates(ledger: Ledger, figures: Figures) -> Text:
    text = Text()
    if figures.on_time is None:
        text.append("none yet", style=QUIET)
    else:
        style = GOOD if figures.on_time >= _GOOD_SHARE else BAD
        text.append(f"{figures.on_time:7.1%} ", style=f"bold {style}")
    text.append(f"  {figures.answered_hz:5.1f} answers a second")
    if figures.age_s is not None:
        text.append(f", {figures.age_s * 1e3:.0f} ms old")
    for outcome in (SUPERSEDED, SKIPPED, LOST):
        if ledger.outcomes[outcome]:
            text.append(f"  {ledger.outcomes[outcome]} {outcome}", style=QUIET)
    return text


def _used(ledger: Ledger) -> Text:
    """Return bars of how much of their budgets the last frames used; full is the deadline."""
    text = Text()
    for share in ledger.used(_NUM_BARS):
        if share is None:
            text.append("✗", style=BAD)
        else:
            text.append(_BARS[min(len(_BARS) - 1, int(share * len(_BARS)))], style=ACCENT)
    if ledger.latest is not None:
        timings = ledger.latest.timings
        text.append(f"  {timings.elapsed_ms:.0f} of {timings.budget_ms:g} ms", style=QUIET)
    return text


def _points(figures: Figures) -> Text:
    text = Text()
    for point, share in figures.points:
        text.append("█" * max(1, round(share * _POINT_CELLS)), style=ACCENT)
        text.append(f" {point} {share:.0%}  ")
    return text


def _seen(ledger: Ledger) -> Text:
    if ledger.latest is None:
        return Text("")
    counts = Counter(ledger.latest.labels).most_common(_NUM_LABELS)
    return Text(", ".join(label if n == 1 else f"{n} {label}" for label, n in counts) or "nothing")
