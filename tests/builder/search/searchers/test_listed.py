"""Lists of tables."""

from __future__ import annotations

from builder.search.searchers.listed import random_graphs, spread
from builder.search.space import SPACES


def test_a_spread_has_the_best_and_some_of_all_others() -> None:
    ranked = random_graphs(SPACES["nas-fpn"], 0, 30)
    found = [ranked.index(graph) for graph in spread(ranked, 10)]
    assert found[:5] == [0, 1, 2, 3, 4]
    assert found[5:] == [5, 11, 17, 23, 29]
    assert spread(ranked, 30) == spread(ranked, 99) == ranked
