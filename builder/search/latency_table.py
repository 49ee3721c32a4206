"""How long the exits of a detector take, as a function of its pyramid's table.

    exit k  =  stem + k stacks + head
    stack   =  constant + sum over cells of t[level, op] + sum over their inputs of t[from -> to]

Children are not measured while a search runs: on a machine that is shared, the neighbours would be
measured. The terms are fitted to some graphs that were measured, or follow from counts of
multiply-accumulates, which are then the unit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from builder.config.named import DetectorConfig
from builder.config.pyramid_graphs import FINEST_LEVEL, OPS, Graph
from builder.search.statistics import kendall
from serving.core.command_errors import CommandError, CommandFailed

RIDGE = 0.001
"""Ridge of the terms, for each graph."""

MAX_ERROR, MIN_KENDALL = 0.10, 0.8
"""Bounds that a fitted table must keep to on graphs that it was not fitted to."""


class PoorFit(CommandFailed, ValueError):
    """A latency table that does not foretell what was measured."""


Terms = dict[str, float]
"""Term of a stack -> how often it occurs."""


def stack_terms(graph: Graph) -> Terms:
    """Return the terms of a stack."""
    terms: Terms = {}
    for step in graph.steps():
        level, op = step.cell.level, step.cell.op
        names = [f"P{level} {op}"]
        for offset in (step.coarse, step.fine):
            source = graph.map_levels[offset]
            if source != level:
                names.append(f"P{source} to P{level}")
        names += [f"P{level} unused"] * len(step.unused)
        for name in names:
            terms[name] = terms.get(name, 0.0) + 1.0
    return terms


@dataclass(frozen=True)
class LatencyTable:
    """Times of a detector's parts, in one unit."""

    unit: str
    stem: float
    head: float
    constant: float
    """Part of the time of a stack that all stacks have."""
    terms: Mapping[str, float]
    made_of: Mapping[str, Any] = field(default_factory=dict)
    """Origin of the figures, as JSON types."""

    def stack(self, graph: Graph) -> float:
        """Return the time of one stack. A term that was in no graph costs nothing."""
        terms = stack_terms(graph).items()
        return self.constant + sum(count * self.terms.get(name, 0.0) for name, count in terms)

    def exits(self, graph: Graph, num_exits: int) -> tuple[float, ...]:
        """Return the time to every exit."""
        stack = self.stack(graph)
        return tuple(self.stem + depth * stack + self.head for depth in range(1, num_exits + 1))

    def to_dict(self) -> dict[str, Any]:
        """Return the table as JSON types."""
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the table in a file that holds ``to_dict``. Raises CommandError, and OSError."""
        try:
            data = json.loads(path.read_text())
            return cls(**data)
        except (TypeError, ValueError) as error:
            raise CommandError(f"{path} is no latency table: {error}") from error


def by_convolutions(
    levels: Sequence[int], unit: str, stem: float, head: float, finest: float
) -> LatencyTable:
    """Return the table in which a cell costs what its convolution does, and merging is free.

    A cell costs ``finest`` at the finest level, a quarter of that at the next, and so on.
    """
    terms = {
        f"P{level} {op}": finest / 4 ** (level - FINEST_LEVEL) for level in levels for op in OPS
    }
    return LatencyTable(unit, stem, head, 0.0, terms)


MADE_UP_MS = (5.3, 7.3, 2.3)
"""Times of stem, head and a cell at P3 that are about those of the repository's model."""


def made_up(levels: Sequence[int]) -> LatencyTable:
    """Return the table of a detector that there is not, for evaluators that train none."""
    stem, head, finest = MADE_UP_MS
    return by_convolutions(levels, "made-up ms", stem, head, finest)


def counted(config: DetectorConfig) -> LatencyTable:
    """Return the table of a detector's multiply-accumulates, which is exact."""
    from builder.modeling.cost import exit_costs  # noqa: PLC0415  brings torch along

    first, second = exit_costs(config)[:2]
    cells = sum(4.0 ** (FINEST_LEVEL - cell.level) for cell in config.pyramid.cells)
    stack = (second.macs - first.macs) / config.stacks_per_exit
    stem = first.macs - first.head_macs - stack
    return by_convolutions(
        config.levels, "MMAC", stem / 1e6, first.head_macs / 1e6, stack / cells / 1e6
    )


@dataclass(frozen=True, slots=True)
class MeasuredStack:
    """One graph, and the median times of the parts of a detector with it."""

    graph: Graph
    stem: float
    stack: float
    head: float


@dataclass(frozen=True, slots=True)
class FitQuality:
    """Quality of a fit: how well it foretells graphs that are left out of it in turn."""

    num_graphs: int
    error: float
    """Mean of the absolute error, as a share of what was measured."""
    kendall: float

    def __str__(self) -> str:
        return (
            f"each of {self.num_graphs} graphs is foretold from the others with an error of "
            f"{self.error:.1%} and a Kendall's tau of {self.kendall:.2f}"
        )

    @property
    def is_good(self) -> bool:
        """Whether a search may go by it."""
        return self.error <= MAX_ERROR and self.kendall >= MIN_KENDALL


def fit(measured: Sequence[MeasuredStack], unit: str, made_of: Mapping[str, Any]) -> LatencyTable:
    """Return the table nearest to what was measured.

    There are more terms than graphs can tell apart. So a stack first takes a constant and a time
    for the area of its cells; then each term is given what is left, in proportion to its area, and
    the more of it the more graphs say so.
    """
    names = sorted({name for each in measured for name in stack_terms(each.graph)})
    areas = np.array([4.0 ** (FINEST_LEVEL - int(name[1])) for name in names])
    is_cell = np.array([name.endswith(OPS) for name in names])
    counts = np.array(
        [[stack_terms(each.graph).get(name, 0.0) for name in names] for each in measured]
    )
    columns = np.column_stack([np.ones(len(measured)), counts @ (areas * is_cell), counts * areas])
    times = np.array([each.stack for each in measured])
    ridge = RIDGE * len(measured) * np.array([0.0, 0.0, *np.ones(len(names))])
    weights = np.linalg.lstsq(
        np.vstack([columns, np.diag(np.sqrt(ridge))]),
        np.concatenate([times, np.zeros(columns.shape[1])]),
        rcond=None,
    )[0]
    return LatencyTable(
        unit,
        float(np.median([each.stem for each in measured])),
        float(np.median([each.head for each in measured])),
        float(weights[0]),
        dict(zip(names, (areas * (weights[1] * is_cell + weights[2:])).tolist(), strict=True)),
        made_of,
    )


def quality(measured: Sequence[MeasuredStack]) -> FitQuality:
    """Return how well a fit to all graphs but one foretells that one."""
    foretold = [
        fit([*measured[:place], *measured[place + 1 :]], "", {}).stack(each.graph)
        for place, each in enumerate(measured)
    ]
    times = [each.stack for each in measured]
    errors = [abs(f / t - 1) for f, t in zip(foretold, times, strict=True)]
    return FitQuality(len(measured), float(np.mean(errors)), kendall(foretold, times))
