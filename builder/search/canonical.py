"""When two tables are the same network: a key that does not depend on how a table is written.

Two tables compute the same, with the weights of their cells exchanged, if one becomes the other by
putting rows that do not need each other in another order, by exchanging the inputs of a sum, or by
writing as an input of a sum what the other adds because nothing else uses it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from builder.config.pyramid_graphs import Graph, Step

KEY_LENGTH = 16
"""Length of a key in hexadecimal digits."""
NUM_REMEMBERED = 4096
"""Number of tables whose keys are remembered: searchers come back to those they like."""


@lru_cache(NUM_REMEMBERED)
def canonical_key(graph: Graph) -> str:
    """Return the key of a table: equal ones are the same network.

    Cells are told apart by colours, which begin with what a cell is and take in those of what it
    reads and of what reads it, as often as there are cells; the key is of the table with its rows
    in the order of their colours. (Cells that no colour tells apart could be written in two orders:
    then two keys may stand for one network, but never one key for two.)
    """
    text = _text(graph, canonical_order(graph))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def _sources(step: Step, colours: Sequence[str]) -> str:
    """Return what a cell merges, as a text in which order matters only if it does to it."""
    unused = [colours[offset] for offset in step.unused]
    if step.cell.op == "sum":
        merged = sorted([colours[step.coarse], colours[step.fine], *unused])
        return f"sum({','.join(merged)})"
    gated = f"{colours[step.coarse]}>{colours[step.fine]}"
    return f"{step.cell.op}({gated};{','.join(sorted(unused))})"


def canonical_order(graph: Graph) -> list[int]:
    """Return the offsets of the cells by their colours.

    Of tables with equal keys, those at the same place are the same cell.
    """
    steps, inputs = graph.steps(), len(graph.levels)
    colours = [f"P{level}" for level in graph.levels]
    colours += [f"{step.cell.level}{step.cell.is_output}" for step in steps]
    for _ in steps:
        readers: list[list[str]] = [[] for _ in colours]
        for offset, step in enumerate(steps, start=inputs):
            for source in (step.coarse, step.fine, *step.unused):
                is_gate = step.cell.op != "sum" and source == step.coarse
                readers[source].append(f"{colours[offset]}{is_gate}")
        colours = [
            *colours[:inputs],
            *(
                _digest(f"{colours[offset]}={_sources(step, colours)}>{sorted(readers[offset])}")
                for offset, step in enumerate(steps, start=inputs)
            ),
        ]
    return sorted(range(inputs, len(colours)), key=lambda offset: colours[offset])


def _text(graph: Graph, order: Sequence[int]) -> str:
    inputs = len(graph.levels)
    names = [f"P{level}" for level in graph.levels] + [""] * len(order)
    for place, offset in enumerate(order):
        names[offset] = f"#{place}"
    steps = graph.steps()
    rows = []
    for offset in order:
        step = steps[offset - inputs]
        rows.append(f"{step.cell.level}{step.cell.is_output}={_sources(step, names)}")
    return f"{graph.levels}|{'|'.join(rows)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
