"""Tables that are known beforehand: controls, finalists, some random ones, all of a small space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from builder.config.pyramid_graphs import Graph
from builder.search.canonical import canonical_key
from builder.search.space import MAX_ENUMERATED, NotInSpace, SearchSpace


class Listed:
    """A searcher that is a list of tables, from its beginning again where it ends."""

    def __init__(self, graphs: Sequence[Graph], batch_size: int = 10) -> None:
        self.batch_size = batch_size
        self._graphs, self._next = tuple(graphs), 0

    def ask(self) -> list[Graph]:
        """Return the next tables."""
        places = range(self._next, self._next + self.batch_size)
        self._next += self.batch_size
        return [self._graphs[place % len(self._graphs)] for place in places]

    def tell(self, rewards: Sequence[float]) -> None:
        """Ignore what the tables are worth."""


def distinct_graphs(space: SearchSpace) -> list[Graph]:
    """Return one table of each network in a small space, in a fixed order.

    Raises NotInSpace for a large space.
    """
    graphs: dict[str, Graph] = {}
    for encoding in space.enumerate():
        graph = space.decode(encoding)
        graphs.setdefault(canonical_key(graph), graph)
    return list(graphs.values())


def random_graphs(space: SearchSpace, seed: int, count: int) -> list[Graph]:
    """Return random tables of different networks. Raises NotInSpace where there are not so many."""
    random = np.random.default_rng(seed)
    graphs: dict[str, Graph] = {}
    if space.size <= MAX_ENUMERATED and count > len(distinct_graphs(space)):
        raise NotInSpace(f"{space.name} does not have {count} different graphs")
    while len(graphs) < count:
        graph = space.decode(space.sample(random))
        graphs.setdefault(canonical_key(graph), graph)
    return list(graphs.values())


def spread(ranked: Sequence[Graph], count: int) -> list[Graph]:
    """Return some of ranked tables: the best, as half of them, and the rest evenly from the others.

    They are all of them where there are no more. That one order is another shows in tables that
    differ, and whether it holds among the best in many of those.
    """
    if count >= len(ranked):
        return list(ranked)
    best = (count + 1) // 2
    places = np.linspace(best, len(ranked) - 1, count - best).round().astype(int)
    return [*ranked[:best], *(ranked[place] for place in places)]
