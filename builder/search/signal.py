"""How much of what a child is worth is its graph's, and how much is luck.

Graphs that were trained with several seeds tell. Where most of the variance is luck, a search
learns what luck does, and should not be begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from builder.search.journal import OK, Child
from builder.search.statistics import BootstrapInterval, agreement, consistency

MIN_GRAPHS = 8
"""Fewest graphs with several seeds that tell anything."""
ENOUGH = 0.5
"""Share of the variance that is to be the graphs' before one searches."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Shares of the variance of one figure, over graphs that have all seeds in common."""

    figure: str
    num_graphs: int
    num_seeds: int
    mean: float
    deviation_of_graphs: float
    """Standard deviation of what the graphs themselves are worth."""
    deviation_of_seeds: float
    """Standard deviation of the same graph with other seeds, without what a seed does to all."""
    share: BootstrapInterval
    """Share of the variance that is between graphs, ICC(1)."""
    share_of_one_seed: BootstrapInterval
    """The same among graphs that are trained with one seed, as in a search: ICC(C,1)."""


def signals(children: Sequence[Child]) -> list[Signal]:
    """Return what is known of the reward, of the mean AP and of the AP of every exit.

    It is nothing if too few graphs were evaluated with the same seeds, two at least.
    """
    table = _by_graph(children)
    if not table:
        return []
    rewards = np.array([[child.reward for child in row] for row in table])
    aps = np.array([[child.aps for child in row] for row in table])
    figures = {
        "reward": rewards,
        "mean AP of the exits": aps.mean(axis=-1),
        **{f"AP of exit {k + 1}": aps[..., k] for k in range(aps.shape[-1])},
    }
    return [_signal(name, values) for name, values in figures.items()]


def _by_graph(children: Sequence[Child]) -> list[list[Child]]:
    """Return the children of each graph in the order of seeds.

    They are those of the first seeds, of so many that as many children as possible count.
    """
    found: dict[str, dict[int, Child]] = {}
    for child in children:
        if child.status == OK and child.training_seed is not None:
            found.setdefault(child.key, {})[child.training_seed] = child
    seeds = sorted({seed for of_graph in found.values() for seed in of_graph})
    tables = [
        [
            [of_graph[seed] for seed in seeds[:count]]
            for of_graph in found.values()
            if of_graph.keys() >= set(seeds[:count])
        ]
        for count in range(2, len(seeds) + 1)
    ]
    enough = [table for table in tables if len(table) >= MIN_GRAPHS]
    return max(enough, key=lambda table: sum(map(len, table)), default=[])


def _signal(name: str, values: NDArray[np.float64]) -> Signal:
    num_graphs, num_seeds = values.shape
    rest = values - values.mean(axis=1, keepdims=True)
    rest = rest - rest.mean(axis=0)
    of_seeds = float((rest**2).sum()) / ((num_graphs - 1) * (num_seeds - 1))
    of_graphs = float(values.mean(axis=1).var(ddof=1)) - of_seeds / num_seeds
    return Signal(
        name,
        num_graphs,
        num_seeds,
        float(values.mean()),
        float(np.sqrt(max(0.0, of_graphs))),
        float(np.sqrt(of_seeds)),
        agreement(values),
        consistency(values),
    )
