"""What ways through a model there are, and what each is predicted to take during one decision."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import cached_property, lru_cache

from serving.core import segment as segments
from serving.core.policy import Latency
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


_segment = lru_cache(maxsize=1024)(Segment)
"""Making one takes longer than looking its time up."""


class Costs:
    """Predicted seconds during one decision. Remembers what it was asked: segments are few, and
    questions many."""

    def __init__(self, latency: Latency, paths: Paths) -> None:
        self._latency = latency
        self.paths = paths
        self._known: dict[tuple[int, int, bool, int], float] = {}
        self._paths: dict[tuple[int, int, bool], float] = {}
        self._paying: dict[int, tuple[int, ...]] = {}
        self._typical: dict[tuple[Segment, int], float] = {}

    def _predict(self, start: int, stop: int, head: bool, batch: int) -> float:
        key = (start, stop, head, batch)
        seconds = self._known.get(key)
        if seconds is None:
            segment = _segment(start, stop, head, self.paths.model)
            seconds = self._known[key] = self._latency.predict(segment, batch)
        return seconds

    def stem(self, batch: int) -> float:
        """The image to depth 0."""
        return self._predict(segments.IMAGE, 0, False, batch)

    def stack(self, depth: int, batch: int) -> float:
        """Depth ``depth - 1`` to ``depth``."""
        return self._predict(depth - 1, depth, False, batch)

    def stacks(self, start: int, stop: int, batch: int) -> float:
        """Depth ``start`` to ``stop``."""
        return self._in_a_row([self.stack(depth, batch) for depth in range(start + 1, stop + 1)])

    def _in_a_row(self, seconds: Sequence[float]) -> float:
        """What several runs seldom exceed together. What exceeds the typical time is independent
        from run to run, so it adds up as a root of squares."""
        total_s = sum(seconds)
        if len(seconds) < 2:
            return total_s
        calm = self.calm
        return calm * total_s + (1.0 - calm) * math.sqrt(sum(s * s for s in seconds))

    def head(self, depth: int, batch: int) -> float:
        """Depth ``depth`` to boxes; 0 for no rows."""
        return self._predict(depth, depth, True, batch) if batch else 0.0

    def fused(self, depth: int, batch: int) -> float:
        """The image to the boxes of ``depth`` in one run; infinite if there is no such segment."""
        if depth not in self.paths.fused:
            return math.inf
        return self._predict(segments.IMAGE, depth, True, batch)

    def way_out(self, start: int, depth: int, batch: int) -> float:
        """Features of depth ``start`` to the boxes of ``depth``."""
        runs = [self.stack(k, batch) for k in range(start + 1, depth + 1)]
        return self._in_a_row([*runs, self.head(depth, batch)])

    def unit_path(self, depth: int, batch: int) -> float:
        """The image to the boxes of ``depth`` through unit segments; infinite without them."""
        if not self.paths.units:
            return math.inf
        stacks = [self.stack(k, batch) for k in range(1, depth + 1)]
        return self._in_a_row([self.stem(batch), *stacks, self.head(depth, batch)])

    def path(self, depth: int, batch: int, *, grows: bool = False) -> float:
        """The image to the boxes of ``depth``, by the way that is typically quickest; with
        ``grows`` one that leaves features to go on with. Infinite if the model has no such exit."""
        key = (depth, batch, grows)
        seconds = self._paths.get(key)
        if seconds is None:
            seconds = math.inf
            if depth <= self.paths.num_exits:
                fused = not grows and self.fused_is_quickest(depth, batch)
                seconds = self.fused(depth, batch) if fused else self.unit_path(depth, batch)
            self._paths[key] = seconds
        return seconds

    def fused_is_quickest(self, depth: int, batch: int) -> bool:
        """Whether there is a fused segment to exit ``depth``, and it typically takes no longer than
        unit segments. What each seldom exceeds is no guide: less is known of what runs less."""
        if depth not in self.paths.fused:
            return False
        if not self.paths.units:
            return True
        unit, fused = self.paths.to(depth)
        return self.typical(fused, batch) <= self.typical(unit, batch)

    def deeper(self, start: int, depth: int, batch: int, num_growing: int, num_owed: int) -> float:
        """What it adds to a plan that features go from ``start`` on to ``depth``: stacks for
        ``batch`` rows, heads for those of them that grow, and the difference between the heads that
        those leave by to whom an answer is owed."""
        heads_s = sum(self.head(k, num_growing) for k in range(start + 1, depth + 1))
        heads_s += self.head(depth, num_owed) - self.head(start, num_owed)
        return self.stacks(start, depth, batch) + heads_s

    def apart(self, depth: int, num_growing: int, num_plain: int, num_owed: int) -> float:
        """What it adds to a plan that the growing rows are answered now, the others later, and
        not all those to whom an answer is owed at once."""
        heads_s = self.head(depth, num_growing) + self.head(depth, num_plain)
        return heads_s - self.head(depth, num_owed)

    def paying_sizes(self, depth: int, sizes: Sequence[int]) -> tuple[int, ...]:
        """Of ``sizes``, smallest first: those of which each takes clearly less time per request to
        exit ``depth`` than the one before."""
        known = self._paying.get(depth)
        if known is None:
            paying = [1]
            for size in sizes[1:]:
                smaller_s = self.path(depth, paying[-1]) / paying[-1]
                if self.path(depth, size) / size < BATCHING_GAIN * smaller_s:
                    paying.append(size)
            known = self._paying[depth] = tuple(paying)
        return known

    def typical(self, path: Sequence[Segment], batch: int = 1) -> float:
        """What ``path`` takes half of the time."""
        return sum([self._typical_of(segment, batch) for segment in path])

    def _typical_of(self, segment: Segment, batch: int) -> float:
        seconds = self._typical.get((segment, batch))
        if seconds is None:
            seconds = self._typical[segment, batch] = self._latency.typical(segment, batch)
        return seconds

    def typical_path(self, depth: int, *, grows: bool = False) -> float:
        """What one image takes half of the time to the boxes of ``depth``, the quickest way;
        infinite if the model has no such exit or no such way."""
        if depth > self.paths.num_exits:
            return math.inf
        return min(map(self.typical, self.paths.to(depth, grows=grows)), default=math.inf)

    @cached_property
    def calm(self) -> float:
        """What the segments to the first exit typically take, as a share of what they seldom
        exceed."""
        path = self.paths.to(1)[0]
        seldom_s = sum(self._predict(part.start, part.stop, part.head, 1) for part in path)
        return self.typical(path) / seldom_s
