"""Pyramids that were not searched for, as tables of any levels: what a searched one is to beat.

A node with three inputs is two cells here, so PANet and BiFPN have more cells than a table of the
same levels in a search space: compare at equal times, not only at equal width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from builder.config.pyramid_graphs import GRAPHS, Graph, Row


def _top_down(levels: Sequence[int]) -> tuple[list[Row], dict[int, int]]:
    """Return sums from the coarsest level to the finest, and offsets of the maps by level.

    The sum at the finest level is an output.
    """
    at = {level: offset for offset, level in enumerate(levels)}
    rows: list[Row] = []
    for level in reversed(levels[:-1]):
        rows.append((level, "sum", (at[level], at[level + 1]), level == levels[0]))
        at[level] = len(levels) + len(rows) - 1
    return rows, at


def panet(levels: Sequence[int]) -> Graph:
    """Return the pyramid that goes top-down, then bottom-up (Liu et al., PANet, 2018)."""
    rows, at = _top_down(levels)
    for level in levels[1:]:
        rows.append((level, "sum", (at[level], at[level - 1]), True))
        at[level] = len(levels) + len(rows) - 1
    return Graph.from_rows(rows)


def bifpn(levels: Sequence[int]) -> Graph:
    """Return PANet with each level's input added on the way up.

    This is BiFPN (Tan et al., EfficientDet, 2020) without its weights.
    """
    rows, at = _top_down(levels)
    for place, level in enumerate(levels[1:], start=1):
        if level != levels[-1]:
            rows.append((level, "sum", (place, at[level]), False))
            at[level] = len(levels) + len(rows) - 1
        rows.append((level, "sum", (at[level], at[level - 1]), True))
        at[level] = len(levels) + len(rows) - 1
    return Graph.from_rows(rows)


def fpn(levels: Sequence[int]) -> Graph:
    """Return the top-down pyramid (Lin et al., FPN, 2017).

    The coarsest level is refined from the one before.
    """
    rows, at = _top_down(levels)
    rows = [(level, op, pair, True) for level, op, pair, _ in rows]
    rows.append((levels[-1], "sum", (len(levels) - 1, at[levels[-2]]), True))
    return Graph.from_rows(rows)


HAND_MADE: dict[str, Callable[[Sequence[int]], Graph]] = {
    "fpn": fpn,
    "panet": panet,
    "bifpn": bifpn,
}


def controls(levels: Sequence[int]) -> dict[str, Graph]:
    """Return all controls of some levels by name: made by hand, or searched and published."""
    published = {
        name: graph
        for name, graph in GRAPHS.items()
        if name.startswith("nas_fpn") and graph.levels == tuple(levels)
    }
    return {name: make(levels) for name, make in HAND_MADE.items()} | published


def reference(levels: Sequence[int]) -> Graph:
    """Return what deadlines go by: the published graph of these levels, or else PANet."""
    found = controls(levels)
    return next((g for name, g in found.items() if name.startswith("nas_fpn")), found["panet"])
