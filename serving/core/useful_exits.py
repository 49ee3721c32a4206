"""Useful exits: those of one model that depth is worth going to, by their accuracy.

An exit is useful if it is more accurate than every shallower one. Nobody goes deeper for the sake
of one that is not; features may pass it on the way to a better one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Chain = tuple[tuple[int, float], ...]
"""Depths of exits and their accuracies, shallowest first."""
UNMEASURED_GAIN = 1e-6
"""Accuracy that each exit is taken to add where accuracies were not measured, so that depth still
follows the budget."""


class UsefulExits:
    """The accuracies (AP, in 0..1) of exits 1 .. N of a model, as reasons to go deeper."""

    def __init__(self, accuracy: Sequence[float]) -> None:
        """Find the useful exits among those with these accuracies, shallowest first.

        Equal accuracies are no measurement: each exit then counts as a little better than the one
        before.
        """
        values = list(accuracy)
        if min(values) == max(values):
            values = [value + UNMEASURED_GAIN * (depth + 1) for depth, value in enumerate(values)]
        self._ap = (0.0, *values)
        self.num_exits = len(values)
        """Number of exits; depths are 1 .. ``num_exits``."""
        useful = [d for d in range(1, len(self._ap)) if self._ap[d] > max(self._ap[:d], default=0)]
        self._next = [
            [
                self._steepest(depth, [target for target in useful if depth < target <= limit])
                for limit in range(len(self._ap))
            ]
            for depth in range(len(self._ap))
        ]

        chain = [1]
        while target := self._next[chain[-1]][self.num_exits]:
            chain.append(target)
        self.chain: Chain = tuple((depth, self._ap[depth]) for depth in chain)
        """Depth and accuracy of exit 1, and of those worth going on to, one after the other."""

    def _steepest(self, depth: int, useful: Sequence[int]) -> int:
        """Return the one of ``useful`` whose accuracy rises most per stack from ``depth``.

        0 if none of them is more accurate.
        """
        better = [target for target in useful if self._ap[target] > self._ap[depth]]
        return max(
            better, key=lambda target: self.gain(depth, target) / (target - depth), default=0
        )

    def ap(self, depth: int) -> float:
        """Return the accuracy of exit ``depth``; 0 before the first."""
        return self._ap[depth]

    def next(self, depth: int, max_depth: int) -> int:
        """Return the exit worth going on to from ``depth``, up to ``max_depth``; 0 for none."""
        return self._next[depth][max_depth if max_depth < self.num_exits else self.num_exits]

    def gain(self, depth: int, target: int) -> float:
        """Return the accuracy that exit ``target`` adds to that of exit ``depth``.

        It is infinite if there is no answer yet, at depth 0.
        """
        return self._ap[target] - self._ap[depth] if depth else math.inf
