"""Tables that are known beforehand: controls, finalists, or all of a small space."""

from __future__ import annotations

from collections.abc import Sequence

from builder.config.pyramid_graphs import Graph
from builder.search.canonical import canonical_key
from builder.search.space import SearchSpace


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
