"""What proposes the tables to try.

Depends on ``builder.config``. Begin with ``base``, then ``evolution``.
"""

from __future__ import annotations

from collections.abc import Callable

from builder.search.searchers.base import Searcher
from builder.search.searchers.evolution import Evolution, EvolutionSettings
from builder.search.searchers.listed import Listed, distinct_graphs
from builder.search.searchers.random_sampling import RandomSampling
from builder.search.space import SearchSpace


def _controller(preset: str) -> Callable[[SearchSpace, int], Searcher]:
    def create(space: SearchSpace, seed: int) -> Searcher:
        from builder.search.searchers.controller import (  # noqa: PLC0415  brings torch along
            PRESETS,
            Controller,
        )

        return Controller(space, seed, PRESETS[preset])

    return create


SEARCHERS: dict[str, Callable[[SearchSpace, int], Searcher]] = {
    "random": RandomSampling,
    "evolution": Evolution,
    "screened-evolution": lambda space, seed: Evolution(
        space, seed, EvolutionSettings(screened=20)
    ),
    "controller-paper": _controller("paper"),
    "controller-small": _controller("small"),
    "exhaustive": lambda space, _: Listed(distinct_graphs(space)),
}
"""Name -> the searcher for a space and a seed."""
