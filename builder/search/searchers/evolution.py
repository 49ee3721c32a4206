"""Regularized evolution (Real et al., 2018), and the same with its proposals screened by what
earlier children foretell of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from builder.config.pyramid_graphs import Graph
from builder.search.canonical import canonical_key
from builder.search.features import features
from builder.search.regression import Regression
from builder.search.space import Encoding, SearchSpace

MAX_TRIES = 10
"""Number of tries at a mutation that has not been proposed before."""


@dataclass(frozen=True, slots=True)
class EvolutionSettings:
    """Settings of evolution."""

    population: int = 50
    """Number that live: the youngest."""
    tournament: int = 10
    """Number that are drawn from those that live, the best of which is a parent."""
    batch_size: int = 10
    screened: int = 1
    """Number of proposals for each child, of which the one foretold to be best is taken."""
    min_examples: int = 50
    """Number of children before anything is foretold."""
    explored: float = 0.2
    """Share of children that are not screened."""


class Evolution:
    """A searcher that lets the best of some mutate.

    The child differs in one decision, and takes the place of the oldest.
    """

    def __init__(
        self, space: SearchSpace, seed: int, settings: EvolutionSettings | None = None
    ) -> None:
        self._settings = settings or EvolutionSettings()
        self.batch_size = self._settings.batch_size
        self._space, self._random = space, np.random.default_rng(seed)
        self._living: deque[tuple[Encoding, float]] = deque(maxlen=self._settings.population)
        self._asked: list[Encoding] = []
        self._seen: set[str] = set()
        self._features: list[np.ndarray] = []
        self._rewards: list[float] = []

    def ask(self) -> list[Graph]:
        """Return random tables until there are as many as live, then children."""
        regression = self._regression()
        self._asked, graphs = [], []
        for _ in range(self.batch_size):
            if len(self._rewards) < self._settings.population:
                encoding = self._space.sample(self._random)
            else:
                encoding = self._child(regression)
            graph = self._space.decode(encoding)
            self._seen.add(canonical_key(graph))
            self._asked.append(encoding)
            graphs.append(graph)
        return graphs

    def tell(self, rewards: Sequence[float]) -> None:
        """Let the batch live, and the oldest die."""
        for encoding, reward in zip(self._asked, rewards, strict=True):
            self._living.append((encoding, reward))
            self._rewards.append(reward)
            if self._settings.screened > 1:
                self._features.append(features(self._space.decode(encoding)))

    def _regression(self) -> Regression | None:
        settings = self._settings
        if settings.screened == 1 or len(self._rewards) < settings.min_examples:
            return None
        return Regression(np.array(self._features), np.array(self._rewards)[:, None])

    def _child(self, regression: Regression | None) -> Encoding:
        if regression is None or self._random.random() < self._settings.explored:
            return self._mutant()
        proposals = [self._mutant() for _ in range(self._settings.screened)]
        inputs = np.array([features(self._space.decode(each)) for each in proposals])
        return proposals[int(regression.predict(inputs)[:, 0].argmax())]

    def _mutant(self) -> Encoding:
        """Return a mutant of the best of a tournament, not proposed before if one is found."""
        drawn = self._random.integers(len(self._living), size=self._settings.tournament)
        parent, _ = max((self._living[place] for place in drawn), key=lambda entry: entry[1])
        for _ in range(MAX_TRIES):
            mutant = self._space.mutate(parent, self._random)
            if canonical_key(self._space.decode(mutant)) not in self._seen:
                break
        return mutant
