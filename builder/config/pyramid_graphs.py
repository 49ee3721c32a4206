"""Feature pyramids as tables: the rows, what makes a table valid, and the built-in ones.

A pyramid takes the feature maps of its levels (offsets 0, 1, ...) and appends one map per *cell*.
A cell merges two earlier maps at its own level. The seven-cell graph is the one that Ghiasi et al.
(NAS-FPN, 2019) found:

    P3 ----------------------+--> P3' -------.
    P4 --+--> #5 --> #6 --+--'   (+ #6)       |
         |     ^ P4      |--> P4' <-----------+
    P6 --'               |      '--> P5' <----'
                         '--> P7' <--'  '--> P6' <-- P7'

A table of one's own is a JSON file, see ``read_graph``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.config.user_files import read_text
from serving.core.command_errors import InvalidArgument

OPS = ("sum", "attention")
"""Operations by which a cell may merge its two maps; a flavour defines them."""

FINEST_LEVEL, COARSEST_BACKBONE_LEVEL = 3, 5
"""Finest level of a pyramid, and the coarsest that a backbone gives.

Backbones end in C3, C4 and C5; coarser levels are pooled from the last of them.
"""

MAX_CELLS = 256
"""Most cells of a table: what is told of one takes the square of them, and more."""

Row = tuple[int, str, tuple[int, int], bool]
"""One cell as plain data: level, op, inputs, is_output."""


class InvalidGraph(InvalidArgument):
    """Error of a table that is no feature pyramid; the message says which row and why."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of a pyramid's table."""

    level: int
    op: str
    """Operation that merges the two inputs: one of ``OPS``."""
    inputs: tuple[int, int]
    """Offsets of the two earlier maps that the cell merges."""
    is_output: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One row of a table, with everything that an interpreter would otherwise have to look up."""

    cell: Cell
    coarse: int
    fine: int
    """Offset of the finer input of the cell.

    Of inputs at equal levels the first counts as the coarser, whose offset is ``coarse``.
    """
    unused: tuple[int, ...]
    """Offsets of the maps that are added to an output cell.

    They are earlier maps of its level that nothing has consumed so far.
    """


@dataclass(frozen=True, slots=True)
class Graph:
    """A valid pyramid: the levels and the cells of its table. Making one raises InvalidGraph."""

    levels: tuple[int, ...]
    """Levels from the finest to the coarsest; the stride of level l is 2**l pixels."""
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        if len(self.cells) > MAX_CELLS:
            raise InvalidGraph(f"{len(self.cells)} cells, a table has {MAX_CELLS} at most")
        _check_levels(self.levels)
        for offset, cell in enumerate(self.cells, start=len(self.levels)):
            _check_cell(offset, cell, self.levels)
        outputs = [cell.level for cell in self.cells if cell.is_output]
        for level in self.levels:
            if outputs.count(level) != 1:
                raise InvalidGraph(
                    f"level {level} needs one output cell, the table has {outputs.count(level)}"
                )
        _check_use(self)

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> Graph:
        """Return the graph whose levels are those of the output rows. Raises InvalidGraph."""
        for number, row in enumerate(rows, start=1):
            if not _is_row(row):
                raise InvalidGraph(f"row {number} is not (level, op, (map, map), output): {row!r}")
        cells = tuple(Cell(*row) for row in rows)
        return cls(tuple(sorted({cell.level for cell in cells if cell.is_output})), cells)

    @property
    def rows(self) -> tuple[Row, ...]:
        """Cells of the table as plain data."""
        return tuple((cell.level, cell.op, cell.inputs, cell.is_output) for cell in self.cells)

    @property
    def map_levels(self) -> tuple[int, ...]:
        """Level of every map: of the inputs, then of the cells."""
        return (*self.levels, *(cell.level for cell in self.cells))

    @property
    def outputs(self) -> tuple[int, ...]:
        """Offsets of the output maps, from the finest level to the coarsest."""
        at = {cell.level: offset for offset, cell in self._numbered() if cell.is_output}
        return tuple(at[level] for level in self.levels)

    def steps(self) -> tuple[Step, ...]:
        """Return the cells in order, ready to be run."""
        consumed: set[int] = set()
        steps = []
        for offset, cell in self._numbered():
            consumed.update(cell.inputs)
            unused = self._unused(offset, consumed) if cell.is_output else ()
            consumed.update(unused)
            first, second = cell.inputs
            if self.map_levels[first] < self.map_levels[second]:
                first, second = second, first
            steps.append(Step(cell, coarse=first, fine=second, unused=unused))
        return tuple(steps)

    def _numbered(self) -> list[tuple[int, Cell]]:
        return list(enumerate(self.cells, start=len(self.levels)))

    def _unused(self, offset: int, consumed: set[int]) -> tuple[int, ...]:
        """Return the maps before ``offset``, of its level, that are not in ``consumed``."""
        level = self.map_levels[offset]
        return tuple(
            index
            for index in range(offset)
            if self.map_levels[index] == level and index not in consumed
        )


def _is_row(row: Any) -> bool:
    if not isinstance(row, tuple) or len(row) != 4:
        return False
    level, op, inputs, is_output = row
    return (
        type(level) is int
        and isinstance(op, str)
        and isinstance(inputs, tuple)
        and [type(index) for index in inputs] == [int, int]
        and isinstance(is_output, bool)
    )


def _check_levels(levels: tuple[int, ...]) -> None:
    # Counted by how many there are: the last may be any number.
    if not levels or levels != tuple(range(FINEST_LEVEL, FINEST_LEVEL + len(levels))):
        raise InvalidGraph(
            f"levels count up from {FINEST_LEVEL} without a gap, these are {list(levels)}"
        )
    if levels[-1] < COARSEST_BACKBONE_LEVEL:
        raise InvalidGraph(f"the coarsest level is at least {COARSEST_BACKBONE_LEVEL}: {levels}")


def _check_cell(offset: int, cell: Cell, levels: tuple[int, ...]) -> None:
    def fail(reason: str) -> None:
        row = offset - len(levels) + 1
        raise InvalidGraph(f"cell {offset} (row {row}) {reason}")

    if cell.level not in levels:
        fail(f"is at level {cell.level}, the levels are {levels[0]} to {levels[-1]}")
    if cell.op not in OPS:
        fail(f"has the unknown op {cell.op!r}, an op is one of {', '.join(OPS)}")
    for index in cell.inputs:
        if index < 0:
            fail(f"takes map {index}, offsets count from 0")
        if index >= offset:
            fail(f"takes map {index}, which does not exist yet: rows are in order of evaluation")
    if cell.inputs[0] == cell.inputs[1]:
        fail(f"merges map {cell.inputs[0]} with itself")


def _check_use(graph: Graph) -> None:
    """Raise InvalidGraph unless every map reaches an output."""
    used = {index for step in graph.steps() for index in (*step.cell.inputs, *step.unused)}
    for offset, level in enumerate(graph.map_levels):
        if offset not in used and offset not in graph.outputs:
            what = f"P{level}" if offset < len(graph.levels) else f"cell {offset}"
            raise InvalidGraph(
                f"{what} is used by nothing: no cell takes it, it is no output, and no output "
                f"cell of its level {level} comes after it"
            )


_FIELDS = {"level", "op", "inputs", "output"}


def read_graph(path: Path) -> Graph:
    """Read a pyramid from a JSON file, as ``parse_graph`` has it.

    Raises InvalidGraph, whose message begins with the path, CommandError for no regular file, and
    OSError.
    """
    try:
        return parse_graph(read_text(path))
    except (ValueError, RecursionError) as error:  # InvalidGraph, and what is not JSON or not text
        raise InvalidGraph(f"{path}: {error}") from error


def parse_graph(text: str) -> Graph:
    """Return the pyramid that a JSON text describes.

    ``{"levels": [3, 4, 5], "cells": [{"level": 4, "op": "sum", "inputs": [1, 2], "output":
    false}, ...]}``; offsets 0, 1, ... are the levels' maps, the first cell comes next. Raises
    ValueError, of which InvalidGraph is one, and RecursionError.
    """
    data = json.loads(text)
    if not isinstance(data, dict) or set(data) != {"levels", "cells"}:
        raise InvalidGraph('expected {"levels": [...], "cells": [...]}')
    if not isinstance(data["cells"], list):
        raise InvalidGraph('"cells" is not a list')
    cells = [_read_cell(number, row) for number, row in enumerate(data["cells"], start=1)]
    return Graph(_integers(data["levels"], '"levels"'), tuple(cells))


def graph_json(graph: Graph) -> str:
    """Return the text that ``parse_graph`` reads a pyramid from, a row a line."""
    rows = ",\n".join(
        "    " + json.dumps({"level": level, "op": op, "inputs": inputs, "output": is_output})
        for level, op, inputs, is_output in graph.rows
    )
    return f'{{\n  "levels": {json.dumps(graph.levels)},\n  "cells": [\n{rows}\n  ]\n}}\n'


def _read_cell(number: int, row: Any) -> Cell:
    if not isinstance(row, dict) or set(row) != _FIELDS:
        fields = ", ".join(sorted(_FIELDS))
        raise InvalidGraph(f"row {number} is not an object with the fields {fields}: {row!r}")
    inputs = _integers(row["inputs"], f'"inputs" of row {number}')
    (level,) = _integers([row["level"]], f'"level" of row {number}')
    if len(inputs) != 2:
        raise InvalidGraph(f"row {number} merges {len(inputs)} maps, a cell merges two")
    if not isinstance(row["output"], bool):
        raise InvalidGraph(f'"output" of row {number} is neither true nor false')
    return Cell(level, row["op"], (inputs[0], inputs[1]), row["output"])


def _integers(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise InvalidGraph(f"{what} must be whole numbers: {value!r}")
    return tuple(value)


GRAPHS = {
    # As published in tensorflow/tpu, architecture/nasfpn.py: offsets 5 to 11.
    "nas_fpn": Graph.from_rows(
        (
            (4, "attention", (1, 3), False),
            (4, "sum", (1, 5), False),
            (3, "sum", (0, 6), True),
            (4, "sum", (6, 7), True),
            (5, "attention", (7, 8), True),
            (7, "attention", (6, 9), True),
            (6, "attention", (9, 10), True),
        )
    ),
    # The same cut to P3..P6: the cell at P7 moves to P6 and takes the place of the one there.
    "nas_fpn_p6": Graph.from_rows(
        (
            (4, "attention", (1, 3), False),
            (4, "sum", (1, 4), False),
            (3, "sum", (0, 5), True),
            (4, "sum", (5, 6), True),
            (5, "attention", (6, 7), True),
            (6, "attention", (5, 8), True),
        )
    ),
    # The top-down pyramid of Lin et al. (2017) in merging cells: each sum is convolved before it is
    # handed down, and P7 is refined from P6.
    "fpn": Graph.from_rows(
        (
            (6, "sum", (3, 4), True),
            (5, "sum", (2, 5), True),
            (4, "sum", (1, 6), True),
            (3, "sum", (0, 7), True),
            (7, "sum", (4, 5), True),
        )
    ),
    "fpn_p6": Graph.from_rows(
        (
            (5, "sum", (2, 3), True),
            (4, "sum", (1, 4), True),
            (3, "sum", (0, 5), True),
            (6, "sum", (3, 4), True),
        )
    ),
    "fpn_p5": Graph.from_rows(
        (
            (4, "sum", (1, 2), True),
            (3, "sum", (0, 3), True),
            (5, "sum", (2, 3), True),
        )
    ),
}
"""Built-in pyramids: name -> graph."""
