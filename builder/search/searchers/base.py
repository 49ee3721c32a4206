"""What every searcher is: asked for a batch of tables, then told what they are worth.

A searcher is a function of space, seed and what it was told, so it goes on from a journal by being
asked and told again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from builder.config.pyramid_graphs import Graph


class Searcher(Protocol):
    """Something that proposes tables in batches."""

    @property
    def batch_size(self) -> int:
        """Number of tables in a batch."""
        ...

    def ask(self) -> list[Graph]:
        """Return the next batch. It must have been told of the one before."""
        ...

    def tell(self, rewards: Sequence[float]) -> None:
        """Learn what the tables of the last batch are worth, in order."""
        ...
