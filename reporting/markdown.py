"""Tables as Markdown, which a terminal shows as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Figures = TypeVar("Figures")
Columns = Sequence[tuple[str, Callable[[Figures], str]]]
"""Columns of a table: heading, and function that gives the cell of a row."""


def table(columns: Columns[Figures], rows: Sequence[Figures]) -> Iterator[str]:
    """Yield the lines of a Markdown table, with an empty one before."""
    yield ""
    yield "| " + " | ".join(heading for heading, _ in columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(cell(row) for _, cell in columns) + " |"
