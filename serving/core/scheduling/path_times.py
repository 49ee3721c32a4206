"""Times of paths through a model's segments, kept from decision to decision.

Paths are added up from the times of their segments *without slowdown*. Such a time changes only
when a run of its segment shows something new, while the slowdown, a factor that all have in common,
changes with nearly every run. So what was added up once lasts for several decisions, and a time of
today is a product (see ``path_costs``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from serving.core.latency import Latency, Times
from serving.core.scheduling.depth_price import CostAndAp
from serving.core.scheduling.paths import Paths
from serving.core.useful_exits import Chain

NEVER: Times = (math.inf, math.inf)
"""Times of a path that does not exist."""


def tail(typical_s: float, variance: float) -> float:
    """Return the tail seconds of runs that together typically take ``typical_s``.

    ``variance`` sums the squares of what each one's tail exceeds its typical time by. What exceeds
    the typical time is independent from run to run, so it adds up as a root of squares: ten runs
    are not all unlucky at once.
    """
    return typical_s + math.sqrt(variance)


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Memo(dict[_Key, _Value]):
    """The values of a function by its argument, each found when it is first looked up.

    A dictionary, since to look up what it has takes no call.
    """

    __slots__ = ("_find",)

    def __init__(self, find: Callable[[_Key], _Value]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, key: _Key) -> _Value:
        value = self[key] = self._find(key)
        return value


class PathTimes:
    """Tail and typical seconds of every run and path through one model at one batch size.

    They are those of an engine without slowdown.
    """

    __slots__ = (
        *("_batch", "_calm", "_paths", "_squares", "_typical_s"),
        *("curve", "fused", "head", "path", "remaining", "slowest", "stack", "stacks", "unit"),
    )

    def __init__(self, latency: Latency, paths: Paths, batch: int) -> None:
        self._calm, self._paths, self._batch = latency.calm, paths, batch
        # Of the stacks from depth 0 to each depth: any sequence is a difference of two.
        self._typical_s, self._squares = [0.0], [0.0]
        self.stack = Memo(self._stack)
        """Depth -> times from ``depth - 1`` to it."""
        self.stacks = Memo(self._between)
        """Depths, from and to -> times from one to the other."""
        self.head = Memo(self._head)
        """Depth -> times from its features to boxes."""
        self.remaining = Memo(self._remaining)
        """Depths, from and to -> times from one to the boxes of the other."""
        self.unit = Memo(self._unit)
        """Exit -> times of the path through unit segments; infinite if the runner has none."""
        self.fused = Memo(self._fused)
        """Exit -> times of one fused run; infinite if there is none."""
        self.path = Memo(self._quickest)
        """Exit -> times of the path that typically takes least. Tail times are no guide here: less
        is known of what runs less."""
        self.slowest = Memo(self._slowest)
        """Whether features must be left -> typical seconds to the exit that takes longest."""
        self.curve = Memo(self._curve)
        """Exits with their accuracies -> typical seconds of each, by a fused run if there is one,
        with its accuracy."""

    @property
    def stem(self) -> Times:
        """Times from the images to depth 0."""
        return self._calm(self._paths.stem, self._batch)

    def _stack(self, depth: int) -> Times:
        return self._calm(self._paths.stacks[depth], self._batch)

    def _head(self, depth: int) -> Times:
        return self._calm(self._paths.heads[depth], self._batch)

    def _fused(self, depth: int) -> Times:
        if depth not in self._paths.fused:
            return NEVER
        return self._calm(self._paths.exits[depth], self._batch)

    def _sum_up(self, depth: int) -> None:
        """Sum the stacks up to ``depth`` at least."""
        typical_s, squares = self._typical_s, self._squares
        while len(typical_s) <= depth:
            tail_s, median_s = self.stack[len(typical_s)]
            typical_s.append(typical_s[-1] + median_s)
            squares.append(squares[-1] + (tail_s - median_s) ** 2)

    def _between(self, depths: tuple[int, int]) -> Times:
        start, stop = depths
        self._sum_up(stop)
        typical_s = self._typical_s[stop] - self._typical_s[start]
        return tail(typical_s, max(0.0, self._squares[stop] - self._squares[start])), typical_s

    def _remaining(self, depths: tuple[int, int]) -> Times:
        start, depth = depths
        tail_s, typical_s = times = self.head[depth]
        if start >= depth:
            return times
        self._sum_up(depth)
        squares = (tail_s - typical_s) ** 2
        typical_s += self._typical_s[depth] - self._typical_s[start]
        squares += max(0.0, self._squares[depth] - self._squares[start])
        return tail(typical_s, squares), typical_s

    def _unit(self, depth: int) -> Times:
        if not self._paths.units:
            return NEVER
        self._sum_up(depth)
        typical_s, squares = self._typical_s[depth], self._squares[depth]
        for tail_s, median_s in (self.stem, self.head[depth]):
            typical_s += median_s
            squares += (tail_s - median_s) ** 2
        return tail(typical_s, squares), typical_s

    def _quickest(self, depth: int) -> Times:
        unit, fused = self.unit[depth], self.fused[depth]
        return fused if fused[1] <= unit[1] else unit

    def _slowest(self, streams: bool) -> float:
        table = self.unit if streams else self.path
        return max([table[depth][1] for depth in range(1, self._paths.num_exits + 1)])

    def _curve(self, chain: Chain) -> list[CostAndAp]:
        fused, unit, has = self.fused, self.unit, self._paths.fused
        return [((fused if depth in has else unit)[depth][1], ap) for depth, ap in chain]
