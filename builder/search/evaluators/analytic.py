"""A made-up accuracy, smooth and known and at hand in no time: to try searchers with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from builder.config.pyramid_graphs import Graph
from builder.search.evaluators.base import Evaluation, Job
from builder.search.features import hops

DECAY = 0.75
"""Share of an input's influence that a cell leaves."""

BASE, GAIN = 0.30, 0.25
"""AP of a pyramid without merit, and what merit adds at most."""


@dataclass(frozen=True, slots=True)
class AnalyticEvaluator:
    """An evaluator that makes AP up.

    It grows with how near every input is to every output, with a use of attention on some cells,
    and with reuse; and it has noise of the size that training has.
    """

    num_exits: int = 3
    noise: float = 0.008
    """Standard deviation between seeds; on BCCD that of trainings is .004 to .010."""

    @property
    def is_light(self) -> bool:
        """Whether it is: always."""
        return True

    def describe(self) -> dict[str, Any]:
        """Return the constants."""
        return {"name": "analytic", "num_exits": self.num_exits, "noise": self.noise}

    def knows(self, _: Graph) -> bool:
        """Return that it has something to say of any graph."""
        return True

    def truth(self, graph: Graph) -> tuple[float, ...]:
        """Return AP by exit, without noise."""
        one = DECAY ** hops(graph)
        levels = len(graph.levels)
        # An output matters the more the finer it is, and its own level's input the most.
        weights = np.linspace(1.0, 0.6, levels)[:, None] * (1.0 + np.eye(levels))
        weights /= weights.sum()
        extra = 0.15 * _attention(graph) + 0.15 * _reuse(graph)
        aps, reached = [], np.eye(levels)
        for depth in range(1, self.num_exits + 1):
            # The strongest way from each input through one more stack.
            reached = (one[:, :, None] * reached[None]).max(axis=1) / DECAY
            near = float((weights * np.minimum(1.0, reached)).sum())
            merit = 0.7 * near + extra
            aps.append(BASE + GAIN * merit * (1.0 - 0.3 * 0.5**depth))
        return tuple(aps)

    def evaluate(self, job: Job) -> Evaluation:
        """Return AP by exit, with the noise of the seed."""
        digest = hashlib.sha256(f"{job.key}/{job.seed}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        # Most of what luck does, it does to all exits.
        shared, own = 0.8, 0.6
        noise = self.noise * (shared * random.normal() + own * random.normal(size=self.num_exits))
        return Evaluation(tuple((np.array(self.truth(job.graph)) + noise).tolist()))

    def forget(self, index: int) -> None:
        """Do nothing: nothing was kept."""


def _attention(graph: Graph) -> float:
    """Return how well attention is used: best on cells that merge two levels, and there alone."""
    right = sum(
        (step.cell.op == "attention")
        == (graph.map_levels[step.coarse] != graph.map_levels[step.fine])
        for step in graph.steps()
    )
    return right / len(graph.cells)


def _reuse(graph: Graph) -> float:
    """Return the share of a pyramid's own maps, but for the last, that a later cell takes."""
    taken = {offset for cell in graph.cells for offset in cell.inputs}
    first, last = len(graph.levels), len(graph.map_levels) - 1
    return sum(offset in taken for offset in range(first, last)) / max(1, last - first)
