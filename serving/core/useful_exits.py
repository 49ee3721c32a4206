"""What depth is worth: the exits of one model by their accuracy.

An exit is on the ladder if it is more accurate than every shallower one. Nobody goes deeper for
the sake of one that is not; features may pass it on the way to a better one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MIN_GAIN = 1e-6
"""What each exit is taken to add where accuracies were not measured, so that depth still follows
the budget."""


class UsefulExits:
    """The accuracies (AP, in 0..1) of exits 1 .. N, as reasons to go deeper."""

    def __init__(self, accuracy: Sequence[float]) -> None:
        """Equal accuracies are no measurement: each exit then counts as a little better than the
        one before."""
        values = list(accuracy)
        if min(values) == max(values):
            values = [value + MIN_GAIN * (depth + 1) for depth, value in enumerate(values)]
        self._ap = (0.0, *values)
        self.num_exits = len(values)
        """Depths are 1 .. ``num_exits``."""
        useful = [d for d in range(1, len(self._ap)) if self._ap[d] > max(self._ap[:d], default=0)]
        self._next = [
            [
                self._steepest(depth, [target for target in useful if depth < target <= limit])
                for limit in range(len(self._ap))
            ]
            for depth in range(len(self._ap))
        ]

    def _steepest(self, depth: int, useful: Sequence[int]) -> int:
        """Of ``rungs`` the one whose accuracy rises most per stack from ``depth``; 0 for none."""
        better = [target for target in useful if self._ap[target] > self._ap[depth]]
        return max(
            better, key=lambda target: self.gain(depth, target) / (target - depth), default=0
        )

    def ap(self, depth: int) -> float:
        """The accuracy of exit ``depth``; 0 before the first."""
        return self._ap[depth]

    def next(self, depth: int, max_depth: int) -> int:
        """The exit that is worth going on to from ``depth``, up to ``max_depth``; 0 for none."""
        return self._next[depth][max_depth if max_depth < self.num_exits else self.num_exits]

    def gain(self, depth: int, target: int) -> float:
        """What exit ``target`` adds to exit ``depth``; everything, if there is none yet."""
        return self._ap[target] - self._ap[depth] if depth else math.inf
