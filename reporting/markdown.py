"""Tables as Markdown, which a terminal shows as well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

Figures = TypeVar("Figures")
Columns = Sequence[tuple[str, Callable[[Figures], str]]]
"""Columns of a table: heading, and function that gives the cell of a row."""


def table(columns: Columns[Figures], rows: Iterable[Figures]) -> Iterator[str]:
    """Yield the lines of a Markdown table, with an empty one before."""
    head = [heading for heading, _ in columns]
    return table_of_cells(head, ([cell(row) for _, cell in columns] for row in rows))


def table_of_cells(head: Sequence[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table of texts, with an empty one before."""
    yield ""
    yield _line(head)
    yield "|" + "---|" * len(head)
    yield from map(_line, rows)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """Return a text as it is written in a cell: there, a bar or the end of a line would end it."""
    return " ".join(text.replace("|", r"\|").splitlines())
