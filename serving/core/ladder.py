"""Ladder: the operating points that one executor can answer at, by name and by accuracy.

An operating point is an exit at an input size, such as ``300x300/1``. Points of one size share
features; from a point to one of another size there is no way but a fresh run from the image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

PointId = tuple[int, int]
"""An operating point: the number of its size among those served, and the depth of its exit."""

SIZE = re.compile(r"(?:[^/+]+@)?[1-9][0-9]*x[1-9][0-9]*")
"""Name of an input size, width by height; of one of several models, after its name."""


@dataclass(frozen=True)
class Ladder:
    """Operating points: the exits of each input size, with their accuracies (AP, in 0..1).

    Raises ValueError unless each size has a name and exits of its own, and what is merged are exits
    of two different sizes.
    """

    sizes: tuple[str, ...]
    """Names of the input sizes, in the order of their numbers."""
    accuracies: tuple[tuple[float, ...], ...]
    """AP of exits 1 .. N of each size."""
    merged: Mapping[PointId, Mapping[PointId, float]] = field(default_factory=dict)
    """First point -> later point -> AP of the later one's answer once the first one's is merged
    in; where it was not measured, nothing is merged."""

    def __post_init__(self) -> None:
        if not self.sizes or len(self.sizes) != len(self.accuracies) or not all(self.accuracies):
            raise ValueError("each input size needs exits with their accuracies")
        for size in self.sizes:
            if self.sizes.count(size) > 1:
                raise ValueError(f"two input sizes are called {size}")
        known = set(self.points)
        for first, thens in self.merged.items():
            for then in thens:
                if not {first, then} <= known or first[0] == then[0]:
                    raise ValueError("only exits of two different input sizes can be merged")

    @classmethod
    def of_exits(cls, accuracy: Sequence[float]) -> Ladder:
        """Return the ladder of exits 1 .. N with these accuracies, all of one input size."""
        return cls(("input",), (tuple(accuracy),))

    @property
    def num_exits(self) -> int:
        """Number of exits of the size that has most."""
        return max(map(len, self.accuracies))

    @cached_property
    def points(self) -> tuple[PointId, ...]:
        """Operating points, by size, then depth."""
        return tuple(
            (number, depth)
            for number, accuracy in enumerate(self.accuracies)
            for depth in range(1, len(accuracy) + 1)
        )

    def label(self, point: PointId) -> str:
        """Return the name of an operating point, such as ``300x300/1``."""
        number, depth = point
        return f"{self.sizes[number]}/{depth}"

    def find(self, label: str) -> PointId:
        """Return the operating point called ``label``. Raises ValueError, naming all of them."""
        for point in self.points:
            if self.label(point) == label:
                return point
        raise ValueError(
            f"there is no operating point {label!r}; there are "
            f"{', '.join(map(self.label, self.points))}"
        )

    def height(self, point: PointId, max_depth: int) -> float:
        """Return the place of ``point`` among the points allowed, over their number.

        It is 1 for the last. They are those up to ``max_depth`` of each size, of which it must be
        one.
        """
        allowed = [each for each in self.points if each[1] <= max_depth]
        return (allowed.index(point) + 1) / len(allowed)

    def ap(self, point: PointId) -> float:
        """Return the AP of the answers of one operating point."""
        number, depth = point
        return self.accuracies[number][depth - 1]

    def merged_ap(self, first: PointId, then: PointId) -> float:
        """Return the AP of the answer of a request that ran at ``first`` and later at ``then``.

        It is that of both answers merged where that was measured, else that of the better one.
        """
        known = self.merged.get(first, {}).get(then)
        return max(self.ap(first), self.ap(then)) if known is None else known

    def answer_ap(self, points: Sequence[PointId]) -> float:
        """Return the AP of the answer of a request that ran at these points, one after the other.

        That of the best pair of them, or of the best one; 0 for none.
        """
        alone = max(map(self.ap, points), default=0.0)
        pairs = (self.merged_ap(first, then) for first, then in combinations(points, 2))
        return max(alone, *pairs) if len(points) > 1 else alone

    def answer_label(self, points: Sequence[PointId]) -> str:
        """Return the names of the points that an answer is of, joined by +."""
        return "+".join(map(self.label, points))

    def gains(self) -> Iterable[tuple[PointId, PointId, float]]:
        """Yield each pair that is better merged than either alone, with its AP."""
        for first, thens in self.merged.items():
            for then, ap in thens.items():
                if ap > max(self.ap(first), self.ap(then)):
                    yield first, then, ap
