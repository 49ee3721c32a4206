"""Pyramid tables: the published graph, what Google's rules make of a table, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from builder.config.pyramid_graphs import GRAPHS, Graph, InvalidGraph, read_graph

SMALL = (
    (4, "attention", (1, 2), False),  # 3
    (3, "sum", (0, 3), True),  # 4
    (4, "sum", (3, 4), True),  # 5
    (5, "sum", (2, 5), True),  # 6
)


def test_unused_features_of_the_seven_cell_graph() -> None:
    """Exactly two inputs are consumed by no cell: P5 and P7."""
    graph = GRAPHS["nas_fpn"]
    assert graph.levels == (3, 4, 5, 6, 7)
    assert [step.unused for step in graph.steps()] == [(), (), (), (), (2,), (4,), ()]
    assert graph.outputs == (7, 8, 9, 11, 10)


def test_attention_of_the_seven_cell_graph_is_gated_by_the_coarser_input() -> None:
    steps = enumerate(GRAPHS["nas_fpn"].steps(), start=5)
    gates = {offset: step.coarse for offset, step in steps if step.cell.op == "attention"}
    assert gates == {5: 3, 9: 8, 10: 9, 11: 10}  # P6, P4', P5', P7'


def test_of_equal_levels_the_first_counts_as_coarser() -> None:
    rows = (
        (5, "sum", (2, 1), False),  # 3
        (5, "attention", (3, 2), True),  # 4
        (4, "sum", (1, 4), True),  # 5
        (3, "attention", (0, 5), True),  # 6
    )
    steps = Graph.from_rows(rows).steps()
    assert [(step.coarse, step.fine) for step in steps] == [(2, 1), (3, 2), (4, 1), (5, 0)]


def test_unused_means_by_then() -> None:
    """P4 is added to the output at its level although a later cell takes it, and an unused map is
    added to one output only."""
    graph = Graph.from_rows(
        (
            (4, "sum", (0, 2), True),  # 3: P4 is unused so far
            (3, "sum", (0, 3), True),  # 4
            (5, "sum", (1, 2), True),  # 5
        )
    )
    assert [step.unused for step in graph.steps()] == [(1,), (), ()]


@pytest.mark.parametrize("graph", GRAPHS.values())
def test_rows_round_trip(graph: Graph) -> None:
    assert Graph.from_rows(graph.rows) == graph


def with_row(index: int, *row: object) -> tuple:
    return (*SMALL[:index], row, *SMALL[index + 1 :])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (with_row(0, 6, "sum", (1, 2), False), r"cell 3 \(row 1\) is at level 6, .* 3 to 5"),
        (with_row(1, 3, "mean", (0, 3), True), r"cell 4 \(row 2\) has the unknown op 'mean'"),
        (with_row(0, 4, "sum", (1, 5), False), "takes map 5, which does not exist yet"),
        (with_row(0, 4, "sum", (1, 3), False), "takes map 3, which does not exist yet"),
        (with_row(0, 4, "sum", (-1, 2), False), "takes map -1"),
        (with_row(0, 4, "sum", (1, 1), False), "merges map 1 with itself"),
        (with_row(3, 3, "sum", (2, 5), True), "coarsest level is at least 5"),
        ((*SMALL, (4, "sum", (1, 2), True)), "level 4 needs one output cell, the table has 2"),
        ((*SMALL, (4, "sum", (1, 2), False)), "cell 7 is used by nothing"),
        (SMALL[1:3], "coarsest level is at least 5"),
        ((), "levels count up"),
    ],
)
def test_invalid_tables_say_which_row_and_why(rows: tuple, message: str) -> None:
    with pytest.raises(InvalidGraph, match=message):
        Graph.from_rows(rows)


def test_a_level_without_an_output_is_named() -> None:
    cells = tuple(
        replace(cell, is_output=cell.is_output and cell.level != 4)
        for cell in Graph.from_rows(SMALL).cells
    )
    with pytest.raises(InvalidGraph, match="level 4 needs one output cell, the table has 0"):
        Graph((3, 4, 5), cells)


def write(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data))
    return path


def as_json(graph: Graph) -> dict:
    names = ("level", "op", "inputs", "output")
    return {
        "levels": list(graph.levels),
        "cells": [dict(zip(names, row, strict=True)) for row in graph.rows],
    }


@pytest.mark.parametrize("graph", GRAPHS.values())
def test_a_table_from_a_file(graph: Graph, tmp_path: Path) -> None:
    assert read_graph(write(tmp_path / "mine.json", as_json(graph))) == graph


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": [3, 4, 5, 6]}, "level 6 needs one output cell, the table has 0"),
        ({"levels": [3, 5]}, r"without a gap, these are \[3, 5\]"),
        ({"levels": [3, 4]}, "coarsest level is at least 5"),
        ({"levels": "all"}, '"levels" must be whole numbers'),
        ({"cells": 3}, '"cells" is not a list'),
        ({"cells": [[4, "sum", [1, 2], False]]}, "row 1 is not an object with the fields"),
        ({"extra": 1}, "expected"),
    ],
)
def test_a_file_that_is_no_table_says_why(change: dict, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.json", {**as_json(Graph.from_rows(SMALL)), **change})
    with pytest.raises(InvalidGraph, match=f"mine.json: .*{message}"):
        read_graph(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": [1]}, "row 1 merges 1 maps"),
        ({"inputs": [1, 2.0]}, '"inputs" of row 1 must be whole numbers'),
        ({"level": "P4"}, '"level" of row 1 must be whole numbers'),
        ({"output": 0}, '"output" of row 1 is neither true nor false'),
        ({"op": ["sum"]}, "unknown op"),
    ],
)
def test_a_row_that_is_no_cell_says_why(change: dict, message: str, tmp_path: Path) -> None:
    data = as_json(Graph.from_rows(SMALL))
    data["cells"][0].update(change)
    with pytest.raises(InvalidGraph, match=message):
        read_graph(write(tmp_path / "mine.json", data))


def test_what_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("levels: 3")
    with pytest.raises(InvalidGraph, match=r"mine\.json"):
        read_graph(tmp_path / "mine.json")
