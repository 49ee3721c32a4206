"""A table as numbers, for what is to foretell the worth of one from that of others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builder.config.pyramid_graphs import FINEST_LEVEL, OPS, Graph

INFLUENCE = 0.75
"""Share of a map's influence that a cell on its way to an output leaves."""
MAX_READS = 3
"""Bound on the times a map counts as read."""


def hops(graph: Graph) -> NDArray[np.float64]:
    """Return at [m, l] the cells on the shortest path from input l to output m.

    It is infinite where there is none.
    """
    inputs = len(graph.levels)
    lengths = np.full((inputs + len(graph.cells), inputs), np.inf)
    lengths[:inputs][np.diag_indices(inputs)] = 0
    for offset, step in enumerate(graph.steps(), start=inputs):
        sources = [step.coarse, step.fine, *step.unused]
        lengths[offset] = lengths[sources].min(axis=0) + 1
    return lengths[list(graph.outputs)]


def features(graph: Graph) -> NDArray[np.float64]:
    """Return what a graph is described by for a regression, the same for tables of one network.

    They are (features,), as many for all graphs of the same levels: cells by level and op, and by
    how far apart the levels are that they merge; edges by their two levels; unused maps by level;
    how often maps are read; influence of every input on every output; and cost.
    """
    levels = {level: place for place, level in enumerate(graph.levels)}
    cells = np.zeros((len(levels), len(OPS)))
    gaps = np.zeros((len(levels), len(OPS)))
    edges = np.zeros((len(levels), len(levels)))
    unused = np.zeros(len(levels))
    reads = np.zeros(len(graph.map_levels), dtype=np.int64)
    for step in graph.steps():
        to, op = levels[step.cell.level], OPS.index(step.cell.op)
        cells[to, op] += 1
        gaps[graph.map_levels[step.coarse] - graph.map_levels[step.fine], op] += 1
        unused[to] += len(step.unused)
        for source in (step.coarse, step.fine):
            edges[levels[graph.map_levels[source]], to] += 1
            reads[source] += 1
    own = np.minimum(reads[len(levels) :], MAX_READS)
    cost = sum(4.0 ** (FINEST_LEVEL - cell.level) for cell in graph.cells)
    return np.concatenate(
        [
            cells.ravel(),
            gaps.ravel(),
            edges.ravel(),
            unused,
            np.bincount(own, minlength=MAX_READS + 1),
            (INFLUENCE ** hops(graph)).ravel(),
            [cost],
        ]
    )
