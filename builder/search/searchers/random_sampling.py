"""Every encoding as likely as the others: what a searcher has to be better than."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from builder.config.pyramid_graphs import Graph
from builder.search.space import SearchSpace


class RandomSampling:
    """A searcher that learns nothing."""

    def __init__(self, space: SearchSpace, seed: int, batch_size: int = 10) -> None:
        self.batch_size = batch_size
        self._space, self._random = space, np.random.default_rng(seed)

    def ask(self) -> list[Graph]:
        """Return a batch of random tables."""
        return [
            self._space.decode(self._space.sample(self._random)) for _ in range(self.batch_size)
        ]

    def tell(self, rewards: Sequence[float]) -> None:
        """Ignore what the tables are worth."""
