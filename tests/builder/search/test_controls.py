"""Controls: hand-made pyramids as tables."""

from __future__ import annotations

import pytest

from builder.config.pyramid_graphs import GRAPHS
from builder.search.canonical import canonical_key
from builder.search.controls import bifpn, controls, fpn, panet, reference

every_depth = pytest.mark.parametrize("coarsest", [5, 6, 7])


@pytest.mark.parametrize(("coarsest", "name"), [(5, "fpn_p5"), (6, "fpn_p6")])
def test_fpn_is_the_built_in_one(coarsest: int, name: str) -> None:
    levels = tuple(range(3, coarsest + 1))
    assert canonical_key(fpn(levels)) == canonical_key(GRAPHS[name])


@every_depth
def test_nothing_is_added_to_panet_and_bifpn(coarsest: int) -> None:
    """Each map is taken by a cell, as in the papers."""
    for make in (panet, bifpn):
        graph = make(range(3, coarsest + 1))
        assert not any(step.unused for step in graph.steps())


@every_depth
def test_bifpn_reads_every_input_on_the_way_up(coarsest: int) -> None:
    levels = range(3, coarsest + 1)
    graph = bifpn(levels)
    reads = [offset for cell in graph.cells for offset in cell.inputs if offset < len(levels)]
    between = range(1, len(levels) - 1)
    assert all(reads.count(offset) == 2 for offset in between)
    assert len(graph.cells) == len(panet(levels).cells) + len(between)


def test_the_published_graph_is_the_reference_where_there_is_one() -> None:
    assert reference((3, 4, 5, 6, 7)) == GRAPHS["nas_fpn"]
    assert reference((3, 4, 5, 6)) == GRAPHS["nas_fpn_p6"]
    assert reference((3, 4, 5)) == panet((3, 4, 5))
    assert list(controls((3, 4, 5, 6, 7))) == ["fpn", "panet", "bifpn", "nas_fpn"]
