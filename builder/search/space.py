"""Spaces of pyramid tables, as data, and what connects a sequence of decisions with a table.

A table has some intermediate cells and then one output cell for each level, the order of whose
levels is a decision too (Ghiasi et al., NAS-FPN, 2019). Of each cell are decided, in this order:

    first input, second input (another map), level, op

An *encoding* holds these as four numbers a cell, in the order that Google published its graph in:
level (counted down from the coarsest), op, and the two inputs, ascending:

    3,1,1,3 3,0,1,5 4,0,0,6 ...

An input's order carries no meaning: the coarser map is what a cell finds by itself, and of equal
levels the one that was made first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product

import numpy as np

from builder.config.pyramid_graphs import OPS, Cell, Graph
from serving.core.command_errors import CommandError

Encoding = tuple[int, ...]
"""Four numbers for each cell of a table."""

CELL = 4
"""Count of the numbers that encode a cell."""
LEVEL, OP, FIRST, SECOND = range(CELL)
"""Place of each decision in the numbers of its cell."""
ORDER = (FIRST, SECOND, LEVEL, OP)
"""Order in which a cell's decisions are made."""

MAX_ENUMERATED = 100_000
"""Number of encodings of a space that may be listed one by one."""


class NotInSpace(CommandError, ValueError):
    """Error of a table or an encoding that a space does not have; the message says why."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice among ``num_choices``; which of them are open depends on those before."""

    cell: int
    kind: int
    """Kind of the decision: FIRST, SECOND, LEVEL or OP."""
    num_choices: int

    @property
    def position(self) -> int:
        """Place of the decision in an encoding."""
        return CELL * self.cell + self.kind


@dataclass(frozen=True)
class SearchSpace:
    """One set of tables, described by what may be decided."""

    name: str
    levels: tuple[int, ...]
    """Levels from the finest to the coarsest."""
    num_intermediate: int
    """Number of cells before those of the outputs."""
    intermediate_levels: tuple[int, ...]
    """Levels at which intermediate cells may be."""
    ops: tuple[str, ...] = OPS

    @property
    def num_cells(self) -> int:
        """Number of cells in a table."""
        return self.num_intermediate + len(self.levels)

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Decisions of a table, in the order in which they are made."""
        choices = {LEVEL: len(self.levels), OP: len(self.ops)}
        return tuple(
            Decision(cell, kind, choices.get(kind, len(self.levels) + cell))
            for cell in range(self.num_cells)
            for kind in ORDER
        )

    @property
    def size(self) -> int:
        """Number of encodings."""
        inputs = math.prod(math.comb(len(self.levels) + cell, 2) for cell in range(self.num_cells))
        levels = len(self.intermediate_levels) ** self.num_intermediate
        orders = math.factorial(len(self.levels))
        return inputs * levels * orders * len(self.ops) ** self.num_cells

    def is_output(self, cell: int) -> bool:
        """Return whether a cell is one of the outputs."""
        return cell >= self.num_intermediate

    def open_choices(self, decision: Decision, made: Sequence[int]) -> tuple[int, ...]:
        """Return the choices that ``made`` leaves.

        It is an encoding of which what was decided before is filled in.
        """
        everything = tuple(range(decision.num_choices))
        taken: set[int] = set()
        if decision.kind == SECOND:
            taken = {made[CELL * decision.cell + FIRST]}
        elif decision.kind == LEVEL and self.is_output(decision.cell):
            outputs = range(self.num_intermediate, decision.cell)
            taken = {made[CELL * cell + LEVEL] for cell in outputs}
        elif decision.kind == LEVEL:
            taken = {c for c in everything if self._level(c) not in self.intermediate_levels}
        return tuple(choice for choice in everything if choice not in taken)

    def _level(self, choice: int) -> int:
        return self.levels[-1] - choice

    # -- encodings and tables --------------------------------------------------------------------

    def normal(self, choices: Sequence[int]) -> Encoding:
        """Return the encoding that choices amount to: of each cell the inputs ascending."""
        cells = (choices[start : start + CELL] for start in range(0, len(choices), CELL))
        return tuple(
            number
            for level, op, first, second in cells
            for number in (level, op, min(first, second), max(first, second))
        )

    def decode(self, encoding: Sequence[int]) -> Graph:
        """Return the table of an encoding. Raises NotInSpace."""
        if len(encoding) != CELL * self.num_cells:
            raise NotInSpace(
                f"{self.name} has {CELL * self.num_cells} numbers, this is {len(encoding)}"
            )
        for decision in self.decisions:
            choice = encoding[decision.position]
            if choice not in self.open_choices(decision, encoding):
                raise NotInSpace(
                    f"{choice} is no choice at number {decision.position + 1} of {self.name}"
                )
        encoding = self.normal(encoding)
        cells = []
        for cell in range(self.num_cells):
            level, op, first, second = encoding[CELL * cell : CELL * (cell + 1)]
            cells.append(
                Cell(self._level(level), self.ops[op], (first, second), self.is_output(cell))
            )
        return Graph(self.levels, tuple(cells))

    def encode(self, graph: Graph) -> Encoding:
        """Return the encoding of a table. Raises NotInSpace."""
        if graph.levels != self.levels or len(graph.cells) != self.num_cells:
            raise NotInSpace(f"{self.name} has other levels, or another number of cells")
        encoding: list[int] = []
        for number, (cell, step) in enumerate(zip(graph.cells, graph.steps(), strict=True)):
            if cell.is_output != self.is_output(number) or cell.op not in self.ops:
                raise NotInSpace(f"row {number + 1} is none that {self.name} has there")
            inputs = tuple(sorted(cell.inputs))
            same_level = graph.map_levels[step.coarse] == graph.map_levels[step.fine]
            if cell.op == "attention" and same_level and cell.inputs != inputs:
                raise NotInSpace(f"row {number + 1} is gated by the later of two equal levels")
            level = self.levels[-1] - cell.level
            encoding += [level, self.ops.index(cell.op), *inputs]
        self.decode(encoding)
        return tuple(encoding)

    def to_text(self, encoding: Sequence[int]) -> str:
        """Return the numbers as they were published, with a space between cells."""
        cells = (encoding[start : start + CELL] for start in range(0, len(encoding), CELL))
        return " ".join(",".join(map(str, cell)) for cell in cells)

    # -- drawing ---------------------------------------------------------------------------------

    def sample(self, random: np.random.Generator) -> Encoding:
        """Return a random encoding, each as likely as the others."""
        made = [0] * (CELL * self.num_cells)
        for decision in self.decisions:
            choices = self.open_choices(decision, made)
            made[decision.position] = choices[random.integers(len(choices))]
        return self.normal(made)

    def mutate(self, encoding: Encoding, random: np.random.Generator) -> Encoding:
        """Return the encoding with one decision made otherwise.

        Where an output takes another level, the output that had it takes its.
        """
        changed = list(encoding)
        movable = [each for each in self.decisions if self._alternatives(each, changed)]
        decision = movable[random.integers(len(movable))]
        alternatives = self._alternatives(decision, changed)
        choice = alternatives[random.integers(len(alternatives))]
        before = changed[decision.position]
        if decision.kind == LEVEL and self.is_output(decision.cell):
            for cell in range(self.num_intermediate, self.num_cells):
                if changed[CELL * cell + LEVEL] == choice:
                    changed[CELL * cell + LEVEL] = before
        changed[decision.position] = choice
        return self.normal(changed)

    def _alternatives(self, decision: Decision, encoding: Sequence[int]) -> list[int]:
        """Return what else could be decided, all other decisions left as they are.

        Output levels change places.
        """
        start = CELL * decision.cell
        now = encoding[decision.position]
        if decision.kind == LEVEL and self.is_output(decision.cell):
            return [choice for choice in range(decision.num_choices) if choice != now]
        if decision.kind == FIRST:
            other = encoding[start + SECOND]
            return [c for c in range(decision.num_choices) if c not in (now, other)]
        return [choice for choice in self.open_choices(decision, encoding) if choice != now]

    def enumerate(self) -> Iterator[Encoding]:
        """Yield every encoding of a small space. Raises NotInSpace for a large one."""
        if self.size > MAX_ENUMERATED:
            raise NotInSpace(f"{self.name} has {self.size:,} encodings: too many to list")
        intermediate = [self.levels[-1] - level for level in self.intermediate_levels]
        outputs = range(len(self.levels))
        levels = [
            (*of_intermediates, *of_outputs)
            for of_intermediates in product(intermediate, repeat=self.num_intermediate)
            for of_outputs in product(outputs, repeat=len(self.levels))
            if len(set(of_outputs)) == len(self.levels)
        ]
        inputs = [combinations(range(len(self.levels) + cell), 2) for cell in range(self.num_cells)]
        ops = [range(len(self.ops))] * self.num_cells
        for of_levels, pairs, of_ops in product(levels, list(product(*inputs)), product(*ops)):
            yield tuple(
                number
                for level, op, pair in zip(of_levels, of_ops, pairs, strict=True)
                for number in (level, op, *pair)
            )


SPACES = {
    space.name: space
    for space in (
        # Of Ghiasi et al. (2019), and of the search space that Google published in
        # google/vertex-ai-nas: no intermediate cell has the cost of the finest level.
        SearchSpace("nas-fpn", (3, 4, 5, 6, 7), 2, (4, 5, 6, 7)),
        # Without P7, as for the lite detectors of that paper: small enough for some hundred
        # samples, and as large as theirs.
        SearchSpace("lite", (3, 4, 5, 6), 2, (4, 5, 6)),
        SearchSpace("lite-15", (3, 4, 5, 6), 11, (4, 5, 6)),
        # So small that each of its graphs can be trained.
        SearchSpace("micro", (3, 4, 5), 0, (), ("sum",)),
    )
}
"""Name -> space."""
