"""How long the exits of a detector take, as a function of its pyramid's table.

    exit k  =  stem + k stacks + head
    stack   =  constant + convolution * area of its cells + pooling * area of the maps that its
               cells make coarser + attention * how many of its cells attend + entry * area of the
               inputs that a cell makes coarser + both_ways * area of those that another cell reads
               at their own level

Areas are in maps of the finest level: that of P4 is a quarter of that of P3. The last two are of
OpenVINO, which changes the layout of what goes from an input straight into a pooling, and changes
it back for others; a fit to a runtime that does not finds them to be nothing. Children are not
measured while a search runs: on a machine that is shared, the neighbours would be measured. The
terms are fitted to some graphs that were measured, or follow from counts of multiply-accumulates,
which are then the unit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from builder.config.detector import DetectorConfig
from builder.config.pyramid_graphs import FINEST_LEVEL, Graph
from builder.config.rules import MAPPING, NON_NEGATIVE, NUMBER, Rule, check
from builder.config.user_files import read_text
from builder.search.canonical import canonical_key
from builder.search.statistics import kendall
from serving.core.command_errors import CommandError, CommandFailed

MAX_ERROR, MIN_KENDALL = 0.10, 0.8
"""Bounds that a fitted table must keep to on graphs that it was not fitted to."""


class PoorFit(CommandFailed, ValueError):
    """A latency table that does not foretell what was measured."""


CONVOLUTION, POOLING, ATTENTION, ENTRY, BOTH_WAYS = TERMS = (
    "convolution",
    "pooling",
    "attention",
    "entry",
    "both_ways",
)
"""What tells the time of one stack from that of another. A cell per level and op, and a move per
pair of levels, would be some thirty terms, and foretell graphs worse that were not measured."""


def _area(level: int) -> float:
    """Return the area of a level's map, where that of the finest is 1."""
    return float(4.0 ** (FINEST_LEVEL - level))


def stack_terms(graph: Graph) -> dict[str, float]:
    """Return the terms of a stack: how much of each of ``TERMS`` there is in it."""
    terms = dict.fromkeys(TERMS, 0.0)
    pooled, plain = set(), set()
    for step in graph.steps():
        level = step.cell.level
        terms[CONVOLUTION] += _area(level)
        for offset in (step.coarse, step.fine, *step.unused):
            source = graph.map_levels[offset]
            if source < level:
                pooled.add(offset)
                terms[POOLING] += _area(source)
            elif source == level:
                plain.add(offset)
        terms[ATTENTION] += step.cell.op == "attention"
    inputs = {offset: _area(level) for offset, level in enumerate(graph.levels)}
    terms[ENTRY] = sum(inputs[offset] for offset in pooled & inputs.keys())
    terms[BOTH_WAYS] = sum(inputs[offset] for offset in pooled & plain & inputs.keys())
    return terms


@dataclass(frozen=True)
class LatencyTable:
    """Times of a detector's parts, in one unit.

    Making one raises ValueError for a field that cannot be.
    """

    unit: str
    stem: float
    head: float
    constant: float
    """Part of the time of a stack that all stacks have."""
    terms: Mapping[str, float]
    made_of: Mapping[str, Any] = field(default_factory=dict)
    """Origin of the figures, as JSON types."""

    def __post_init__(self) -> None:
        check(self, TABLE_RULES)

    def stack(self, graph: Graph) -> float:
        """Return the time of one stack."""
        terms = stack_terms(graph).items()
        # Tables of before there was a term have it not: there it is nothing.
        return self.constant + sum(count * self.terms.get(name, 0.0) for name, count in terms)

    def exits(self, graph: Graph, num_exits: int) -> tuple[float, ...]:
        """Return the time to every exit.

        Raises CommandError where a stack takes no time, less, or more than there is.
        """
        stack = self.stack(graph)
        found = tuple(self.stem + depth * stack + self.head for depth in range(1, num_exits + 1))
        if not stack > 0 or not all(map(math.isfinite, found)):
            raise CommandError(
                f"by the latency table, a stack of the graph {canonical_key(graph)} takes "
                f"{stack:g} {self.unit}: no exit can come after another"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the table as JSON types."""
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the table in a file that holds ``to_dict``. Raises CommandError, and OSError."""
        try:
            table = cls(**json.loads(read_text(path)))
        except (TypeError, ValueError, RecursionError) as error:
            raise CommandError(f"{path} is no latency table: {error}") from error
        if unknown := set(table.terms) - set(TERMS):
            raise CommandError(
                f"{path} is no latency table: terms {', '.join(sorted(unknown))}, "
                f"not {', '.join(TERMS)}"
            )
        return table


TABLE_RULES = {
    "unit": Rule(lambda unit: isinstance(unit, str), "a text"),
    "stem": NON_NEGATIVE,
    "head": NON_NEGATIVE,
    "constant": NUMBER,
    "terms": Rule(
        lambda terms: MAPPING.holds(terms) and all(map(NON_NEGATIVE.holds, terms.values())),
        "a mapping of numbers of at least 0",
    ),
    "made_of": MAPPING,
}


def by_convolutions(unit: str, stem: float, head: float, finest: float) -> LatencyTable:
    """Return the table in which a cell costs what its convolution does, and merging is free.

    A cell costs ``finest`` at the finest level, a quarter of that at the next, and so on.
    """
    return LatencyTable(unit, stem, head, 0.0, dict.fromkeys(TERMS, 0.0) | {CONVOLUTION: finest})


SYNTHETIC_MS = (5.3, 7.3, 2.3)
"""Times of stem, head and a cell at P3 that are about those of the repository's model."""


def synthetic_table() -> LatencyTable:
    """Return the table of a detector that there is not, for evaluators that train none."""
    stem, head, finest = SYNTHETIC_MS
    return by_convolutions("made-up ms", stem, head, finest)


def counted(config: DetectorConfig) -> LatencyTable:
    """Return the table of a detector's multiply-accumulates, which is exact.

    Raises CommandError for a detector with one exit.
    """
    from builder.modeling.cost import exit_costs  # noqa: PLC0415  brings torch along

    if config.num_exits == 1:
        raise CommandError(
            f"{config.name} has one exit, and what a stack costs shows between two: more stacks, "
            "--times-of another detector, or --latency"
        )
    first, second = exit_costs(config)[:2]
    cells = sum(_area(cell.level) for cell in config.pyramid.cells)
    stack = (second.macs - first.macs) / config.stacks_per_exit
    stem = first.macs - first.head_macs - stack
    return by_convolutions("MMAC", stem / 1e6, first.head_macs / 1e6, stack / cells / 1e6)


@dataclass(frozen=True, slots=True)
class MeasuredStack:
    """One graph, and the times of the parts of a detector with it."""

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
    """Return the table nearest to what was measured, by least squares.

    Nothing takes less than no time: a term that would be negative is nothing.
    """
    columns = {name: [stack_terms(each.graph)[name] for each in measured] for name in TERMS}
    names = list(TERMS)
    while True:
        rows = np.column_stack([np.ones(len(measured)), *(columns[name] for name in names)])
        weights = np.linalg.lstsq(rows, [each.stack for each in measured], rcond=None)[0]
        negative = [(w, name) for w, name in zip(weights[1:], names, strict=True) if w < 0]
        if not negative:
            break
        names.remove(min(negative)[1])
    terms = dict.fromkeys(TERMS, 0.0) | dict(zip(names, weights[1:].tolist(), strict=True))
    return LatencyTable(
        unit,
        float(np.median([each.stem for each in measured])),
        float(np.median([each.head for each in measured])),
        float(weights[0]),
        terms,
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
