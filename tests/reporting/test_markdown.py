"""Tables in Markdown: every cell in its place."""

from __future__ import annotations

from reporting.markdown import table_of_cells


def test_a_cell_ends_where_it_ends() -> None:
    lines = list(table_of_cells(["a", "b"], [["one|two", "three\nfour"]]))
    assert lines == ["", "| a | b |", "|---|---|", r"| one\|two | three four |"]
