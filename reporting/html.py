"""Parts of an HTML page: sections, tables, legends and tiles.

They have one style, light or dark as its reader likes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

SERIES = tuple(f"class{i}" for i in range(8))
"""Colours, as CSS variables, of things that are compared."""

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1c2530; --muted: #5c6875;
  --rule: #e2e6eb; --good: #17807a; --bad: #b3261e;
  --class0: #0b3c8c; --class1: #12a0a0; --class2: #d98a1f; --class3: #c0396b; --class4: #6ab04c;
  --class5: #7b4fb5; --class6: #2f7fd0; --class7: #8a6d3b; }
@media (prefers-color-scheme: dark) { :root { --page: #12161b; --card: #1b2129; --text: #e6eaef;
  --muted: #98a4b1; --rule: #2c343e; --good: #35aaa2; --bad: #ff8a80; --class0: #7ba2f0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 22px; margin: 0 0 2px; } h2 { font-size: 16px; margin: 0 0 10px; }
p { margin: 0 0 8px; } .muted, th, svg text { color: var(--muted); fill: var(--muted); }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 16px 18px; margin-top: 14px; overflow-x: auto; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px;
  margin-top: 14px; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 10px 14px; }
.tile b { display: block; font-size: 23px; font-weight: 600; }
.tile span, .tile small { color: var(--muted); } .tile small { display: block; }
svg { display: block; width: 100%; height: auto; } svg text { font-size: 11.5px; }
.grid { stroke: var(--rule); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 4px 0 0 52px; font-size: 13px; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 2px;
  margin-right: 6px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(380px, 100%), 1fr));
  gap: 0 14px; align-items: start; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { font-weight: 500; font-size: 13px; } th, td { padding: 4px 10px 4px 0; text-align: right;
  border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr:last-child td { border-bottom: 0; }
"""


def document(title: str, content: str, style: str = "") -> str:
    """Return the whole page; ``content`` is HTML, ``style`` adds to the CSS."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{content}</main></body></html>\n"
    )


def section(title: str, content: str) -> str:
    """Return a card with a heading; ``content`` is HTML."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def tiles(entries: Iterable[tuple[str, str, str]]) -> str:
    """Return tiles, figures to be seen at a glance, from name, value and note of each."""
    content = "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f"<small>{escape(note)}</small></div>"
        for name, value, note in entries
    )
    return f'<div class="tiles">{content}</div>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Return a legend from name and colour (a CSS variable) of each entry."""
    items = "".join(
        f'<span><i style="background:var(--{colour})"></i>{escape(name)}</span>'
        for name, colour in entries
    )
    return f'<div class="legend">{items}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts in columns, the first one left-aligned."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'
