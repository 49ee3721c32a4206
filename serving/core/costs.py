"""What ways through a model there are, and what each is predicted to take during one decision."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import lru_cache

from serving.core import segment as segments
from serving.core.latency import TAIL_QUANTILE, Latency, Times
from serving.core.segment import Segment

BATCHING_GAIN = 0.95
"""A larger batch is formed only if it brings the time per request below this share of the smaller
one's; otherwise it would delay the first request for nothing."""
EPSILON_S = 1e-9
"""Two sums of the same times may differ by this much."""


class Paths:
    """The ways from the image to each exit that a runner's segments of one model make.

    ``units``: whether unit segments are among them; ``fused``: the exits of fused segments.
    """

    def __init__(self, available: Collection[Segment], num_exits: int, model: int = 0) -> None:
        """Raises ValueError unless ``available`` has every unit or every fused segment."""
        unit = {segment.of(model) for segment in segments.unit_segments(num_exits)}
        fused = {segment.of(model) for segment in segments.fused_segments(num_exits)}
        no_unit, no_fused = unit - set(available), fused - set(available)
        if no_unit and no_fused:
            lacking = (", ".join(sorted(segments.names(kind))) for kind in (no_unit, no_fused))
            raise ValueError(
                f"the runner lacks {' and '.join(lacking)}: it needs every unit segment or every "
                "fused one"
            )
        self.model = model
        self.num_exits = num_exits
        self.units = not no_unit
        self.fused = frozenset(segment.stop for segment in fused if segment in available)

    def to(self, depth: int, *, grows: bool = False) -> tuple[tuple[Segment, ...], ...]:
        """Each way to the boxes of exit ``depth``: unit segments first, and the fused one. With
        ``grows`` only what leaves features to go on with."""
        unit = (self._own(segments.unit_path(depth)),) if self.units else ()
        fused = (self._own((segments.fused_exit(depth),)),) if depth in self.fused else ()
        return unit if grows else unit + fused

    def _own(self, path: tuple[Segment, ...]) -> tuple[Segment, ...]:
        return tuple(segment.of(self.model) for segment in path) if self.model else path


def paths_of(available: Collection[Segment]) -> tuple[Paths, ...]:
    """The ways through each model that ``available`` has segments of, in their order. Raises
    ValueError as ``Paths`` does."""
    exits: dict[int, int] = {} if available else {0: 1}
    for segment in available:
        exits[segment.model] = max(exits.get(segment.model, 1), segment.stop)
    return tuple(Paths(available, exits[model], model) for model in sorted(exits))


NEVER: Times = (math.inf, math.inf)

_segment = lru_cache(maxsize=1024)(Segment)
"""Making one takes longer than looking its time up."""


def late_share(times: Times, limit_s: float) -> float:
    """How many of such runs take longer than ``limit_s``, which is no less than what they seldom
    exceed: beyond that, times are taken to fall off exponentially."""
    seldom_s, typical_s = times
    if seldom_s <= typical_s:
        return 0.0
    return (1.0 - TAIL_QUANTILE) * math.exp((seldom_s - limit_s) / (seldom_s - typical_s))


def _seldom(typical_s: float, variance: float) -> float:
    """What runs seldom exceed that typically take ``typical_s``. What exceeds the typical time is
    independent from run to run, so it adds up as a root of squares: ten runs are not all unlucky at
    once."""
    return typical_s + math.sqrt(variance)


class Row:
    """When runs end that are taken one after the other."""

    __slots__ = ("_typical_s", "_variance")

    def __init__(self, now_s: float) -> None:
        self._typical_s = now_s
        self._variance = 0.0

    def add(self, times: Times) -> float:
        """One more run; when it ends, seldom later."""
        seldom_s, typical_s = times
        self._typical_s += typical_s
        self._variance += (seldom_s - typical_s) ** 2
        return _seldom(self._typical_s, self._variance)


class Costs:
    """Predicted seconds during one decision. Remembers what it was asked: segments are few, and
    questions many.

    What is called a time without further words is one that is seldom exceeded; ``typical_...`` is
    exceeded half of the time.
    """

    def __init__(self, latency: Latency, paths: Paths) -> None:
        self._latency = latency
        self.paths = paths
        self._known: dict[tuple[int, int, bool, int], Times] = {}
        self._sums: dict[int, tuple[list[float], list[float]]] = {}
        self._paths: dict[tuple[int, int, bool], Times] = {}
        self._paying: dict[int, tuple[int, ...]] = {}

    def _times(self, start: int, stop: int, head: bool, batch: int) -> Times:
        key = (start, stop, head, batch)
        times = self._known.get(key)
        if times is None:
            segment = _segment(start, stop, head, self.paths.model)
            times = self._known[key] = self._latency.times(segment, batch)
        return times

    def _row(self, start: int, stop: int, batch: int, *others: Times) -> Times:
        """Stacks from depth ``start`` to ``stop``, and what else is run before and after them."""
        typical, variance = self._sums.get(batch) or self._sums.setdefault(batch, ([0.0], [0.0]))
        if stop >= len(typical):
            self._add_up(typical, variance, stop, batch)
        typical_s = typical[stop] - typical[start]
        squares = max(0.0, variance[stop] - variance[start])
        for seldom_s, half_s in others:
            typical_s += half_s
            squares += (seldom_s - half_s) ** 2
        return _seldom(typical_s, squares), typical_s

    def _add_up(self, typical: list[float], variance: list[float], stop: int, batch: int) -> None:
        """Go on to ``stop`` with typical times and variances of stacks from depth 0 to each depth:
        any sequence of stacks is a difference of two."""
        for depth in range(len(typical) - 1, stop):
            seldom_s, half_s = self._times(depth, depth + 1, False, batch)
            typical.append(typical[-1] + half_s)
            variance.append(variance[-1] + (seldom_s - half_s) ** 2)

    def stem(self, batch: int) -> float:
        """The image to depth 0."""
        return self._times(segments.IMAGE, 0, False, batch)[0]

    def stack(self, depth: int, batch: int) -> float:
        """Depth ``depth - 1`` to ``depth``."""
        return self._times(depth - 1, depth, False, batch)[0]

    def stacks(self, start: int, stop: int, batch: int) -> float:
        """Depth ``start`` to ``stop``."""
        return self._row(start, stop, batch)[0]

    def typical_stacks(self, start: int, stop: int, batch: int) -> float:
        """Depth ``start`` to ``stop``."""
        return self._row(start, stop, batch)[1]

    def head(self, depth: int, batch: int) -> float:
        """Depth ``depth`` to boxes; 0 for no rows."""
        return self._times(depth, depth, True, batch)[0] if batch else 0.0

    def fused(self, depth: int, batch: int) -> Times:
        """The image to the boxes of ``depth`` in one run; infinite if there is no such segment."""
        if depth not in self.paths.fused:
            return NEVER
        return self._times(segments.IMAGE, depth, True, batch)

    def way_out(self, start: int, depth: int, batch: int) -> Times:
        """Features of depth ``start`` to the boxes of ``depth``."""
        return self._row(start, depth, batch, self._times(depth, depth, True, batch))

    def unit_path(self, depth: int, batch: int) -> Times:
        """The image to the boxes of ``depth`` through unit segments; infinite without them."""
        if not self.paths.units:
            return NEVER
        stem = self._times(segments.IMAGE, 0, False, batch)
        return self._row(0, depth, batch, stem, self._times(depth, depth, True, batch))

    def path(self, depth: int, batch: int, *, grows: bool = False) -> Times:
        """The image to the boxes of ``depth``, by the way that is typically quickest; with
        ``grows`` one that leaves features to go on with. Infinite if the model has no such exit or
        no such way."""
        key = (depth, batch, grows)
        times = self._paths.get(key)
        if times is None:
            times = NEVER
            if depth <= self.paths.num_exits:
                fused = not grows and self.fused_is_quickest(depth, batch)
                times = self.fused(depth, batch) if fused else self.unit_path(depth, batch)
            self._paths[key] = times
        return times

    def fused_is_quickest(self, depth: int, batch: int) -> bool:
        """Whether there is a fused segment to exit ``depth``, and it typically takes no longer than
        unit segments. What each seldom exceeds is no guide: less is known of what runs less."""
        if depth not in self.paths.fused:
            return False
        return self.fused(depth, batch)[1] <= self.unit_path(depth, batch)[1]

    def deeper(self, start: int, depth: int, batch: int, num_growing: int, num_owed: int) -> float:
        """What it adds to a plan that features go from ``start`` on to ``depth``: stacks for
        ``batch`` rows, heads for those of them that grow, and the difference between the heads that
        those leave by to whom an answer is owed."""
        heads_s = self.head(depth, num_owed) - self.head(start, num_owed)
        if num_growing:
            heads_s += sum(self.head(k, num_growing) for k in range(start + 1, depth + 1))
        return self.stacks(start, depth, batch) + heads_s

    def apart(self, depth: int, num_growing: int, num_plain: int, num_owed: int) -> float:
        """What it adds to a plan that the growing rows are answered now, the others later, and
        not all those to whom an answer is owed at once."""
        heads_s = self.head(depth, num_growing) + self.head(depth, num_plain)
        return heads_s - self.head(depth, num_owed)

    def paying_sizes(self, depth: int, sizes: Sequence[int]) -> tuple[int, ...]:
        """Of ``sizes``, smallest first: those of which each typically takes clearly less time per
        request to exit ``depth`` than the one before."""
        known = self._paying.get(depth)
        if known is None:
            paying = [1]
            for size in sizes[1:]:
                smaller_s = self.path(depth, paying[-1])[1] / paying[-1]
                if self.path(depth, size)[1] / size < BATCHING_GAIN * smaller_s:
                    paying.append(size)
            known = self._paying[depth] = tuple(paying)
        return known

    def typical_path(self, depth: int, *, grows: bool = False) -> float:
        """What one image takes half of the time to the boxes of ``depth``, the quickest way;
        infinite if the model has no such exit or no such way."""
        return self.path(depth, 1, grows=grows)[1]
