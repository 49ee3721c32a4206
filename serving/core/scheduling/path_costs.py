"""Paths through a model's segments, and the seconds that each is predicted to take."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from serving.core import segment as segments
from serving.core.latency import TAIL_QUANTILE, Latency, Times
from serving.core.segment import Segment
from serving.core.useful_exits import UsefulExits

BATCHING_GAIN = 0.95
"""Share of a smaller batch's time per request below which a larger batch must bring it to pay off;
otherwise forming it would delay the first request for nothing."""
EPSILON_S = 1e-9
"""Seconds by which two sums of the same times may differ through rounding."""


class Paths:
    """The paths from the image to each exit that a runner's segments of one model make.

    ``units``: whether unit segments are among them; ``fused``: the exits of fused segments.
    """

    def __init__(self, available: Collection[Segment], num_exits: int, model: int = 0) -> None:
        """Find the paths through model number ``model`` in ``available``.

        Raises ValueError unless ``available`` has every unit segment or every fused one.
        """
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
        # Segments by depth, made once: naming a segment takes longer than looking its time up.
        depths = range(num_exits + 1)
        self.stem = segments.STEM.of(model)
        self.stacks = tuple(segments.stack(depth).of(model) for depth in depths)
        self.heads = tuple(segments.head(depth).of(model) for depth in depths)
        self.exits = tuple(segments.fused_exit(depth).of(model) for depth in depths)

    def to(self, depth: int, *, streams: bool = False) -> tuple[tuple[Segment, ...], ...]:
        """Return each path from the image to the boxes of exit ``depth``.

        The one through unit segments comes first, then the fused one. With ``streams``, only the
        path that leaves features to go on with.
        """
        unit_path = (self.stem, *self.stacks[1 : depth + 1], self.heads[depth])
        unit = (unit_path,) if self.units else ()
        fused = ((self.exits[depth],),) if depth in self.fused else ()
        return unit if streams else unit + fused


def paths_of(available: Collection[Segment]) -> tuple[Paths, ...]:
    """Return the paths through each model that ``available`` has segments of, in model order.

    Raises ValueError as ``Paths`` does.
    """
    exits: dict[int, int] = {} if available else {0: 1}
    for segment in available:
        exits[segment.model] = max(exits.get(segment.model, 1), segment.stop)
    return tuple(Paths(available, exits[model], model) for model in sorted(exits))


NEVER: Times = (math.inf, math.inf)
"""Times of a path that does not exist."""


def late_share(times: Times, limit_s: float) -> float:
    """Return the share of runs that take longer than ``limit_s`` seconds.

    The limit is no less than the tail time; beyond that, run times are taken to fall off
    exponentially.
    """
    tail_s, typical_s = times
    if tail_s <= typical_s:
        return 0.0
    return (1.0 - TAIL_QUANTILE) * math.exp((tail_s - limit_s) / (tail_s - typical_s))


def in_a_row(first: Times, then: Times) -> Times:
    """Return the tail and typical seconds of two runs, one after the other."""
    typical_s = first[1] + then[1]
    return _tail(typical_s, (first[0] - first[1]) ** 2 + (then[0] - then[1]) ** 2), typical_s


def _tail(typical_s: float, variance: float) -> float:
    """Return the tail seconds of runs that together typically take ``typical_s``.

    ``variance`` sums the squares of what each one's tail exceeds its typical time by. What exceeds
    the typical time is independent from run to run, so it adds up as a root of squares: ten runs
    are not all unlucky at once.
    """
    return typical_s + math.sqrt(variance)


class CompletionTime:
    """The predicted completion time of runs that are taken one after the other."""

    __slots__ = ("_typical_s", "_variance")

    def __init__(self, now_s: float) -> None:
        self._typical_s = now_s
        self._variance = 0.0

    def add(self, times: Times) -> float:
        """Append one more run, and return the instant that it seldom ends after."""
        tail_s, typical_s = times
        self._typical_s += typical_s
        self._variance += (tail_s - typical_s) ** 2
        return _tail(self._typical_s, self._variance)

    def after(self, times: Times) -> float:
        """Return the instant that one more run would seldom end after."""
        tail_s, typical_s = times
        return _tail(self._typical_s + typical_s, self._variance + (tail_s - typical_s) ** 2)


class Costs:
    """Predicted seconds of every run and path through one model, during one decision.

    Answers are remembered: segments are few, and questions many. A time without further words is a
    tail time, one that is seldom exceeded; ``typical_...`` is exceeded half of the time; ``Times``
    are both.
    """

    def __init__(self, latency: Latency, paths: Paths) -> None:
        self._times = latency.times
        self.late_odds = latency.late_odds
        """Function from the times of a run and a limit in seconds to the odds that it is late."""
        self.paths = paths
        self._sums: dict[int, tuple[list[float], list[float]]] = {}
        self._heads: dict[tuple[int, int], float] = {}
        self._fused: dict[tuple[int, int], Times] = {}
        self._units: dict[tuple[int, int], Times] = {}
        self._paths: dict[tuple[int, int, bool], Times] = {}
        self._between: dict[tuple[int, int, int], Times] = {}
        self._remaining: dict[tuple[int, int, int], Times] = {}
        self._paying: dict[int, tuple[int, ...]] = {}

    def _stacks(self, stop: int, batch: int) -> tuple[list[float], list[float]]:
        """Return the typical times and variances of stacks from depth 0 to each depth, summed up.

        They reach to ``stop`` at least: any sequence of stacks is a difference of two.
        """
        sums = self._sums.get(batch)
        if sums is None:
            sums = self._sums[batch] = ([0.0], [0.0])
        typical, variance = sums
        if stop >= len(typical):
            for segment in self.paths.stacks[len(typical) : stop + 1]:
                tail_s, median_s = self._times(segment, batch)
                typical.append(typical[-1] + median_s)
                variance.append(variance[-1] + (tail_s - median_s) ** 2)
        return sums

    def run(self, segment: Segment, batch: int) -> Times:
        """Return the tail and typical seconds of one run of ``segment``."""
        return self._times(segment, batch)

    def stem(self, batch: int) -> float:
        """Return the tail seconds from the images to depth 0."""
        return self._times(self.paths.stem, batch)[0]

    def stack(self, depth: int, batch: int) -> float:
        """Return the tail seconds from depth ``depth - 1`` to ``depth``."""
        return self._times(self.paths.stacks[depth], batch)[0]

    def stacks(self, start: int, stop: int, batch: int) -> Times:
        """Return the tail and typical seconds from depth ``start`` to ``stop``."""
        key = (start, stop, batch)
        times = self._between.get(key)
        if times is None:
            typical, variance = self._stacks(stop, batch)
            typical_s = typical[stop] - typical[start]
            squares = max(0.0, variance[stop] - variance[start])
            times = self._between[key] = _tail(typical_s, squares), typical_s
        return times

    def head(self, depth: int, batch: int) -> float:
        """Return the tail seconds from the features of ``depth`` to boxes; 0 for no rows."""
        if not batch:
            return 0.0
        key = (depth, batch)
        seconds = self._heads.get(key)
        if seconds is None:
            seconds = self._heads[key] = self._times(self.paths.heads[depth], batch)[0]
        return seconds

    def fused(self, depth: int, batch: int) -> Times:
        """Return the tail and typical seconds of one fused run from the images to exit ``depth``.

        They are infinite if there is no such segment.
        """
        key = (depth, batch)
        times = self._fused.get(key)
        if times is None:
            known = depth in self.paths.fused
            times = self._times(self.paths.exits[depth], batch) if known else NEVER
            self._fused[key] = times
        return times

    def remaining_path(self, start: int, depth: int, batch: int) -> Times:
        """Return the tail and typical seconds from depth ``start`` to the boxes of ``depth``."""
        key = (start, depth, batch)
        times = self._remaining.get(key)
        if times is None:
            tail_s, median_s = self._times(self.paths.heads[depth], batch)
            typical_s, squares = median_s, (tail_s - median_s) ** 2
            if start < depth:
                typical, variance = self._stacks(depth, batch)
                typical_s += typical[depth] - typical[start]
                squares += max(0.0, variance[depth] - variance[start])
            times = self._remaining[key] = _tail(typical_s, squares), typical_s
        return times

    def unit_path(self, depth: int, batch: int) -> Times:
        """Return the tail and typical seconds to the boxes of ``depth`` through unit segments.

        They are infinite if the runner has none.
        """
        key = (depth, batch)
        times = self._units.get(key)
        if times is None:
            times = self._units[key] = self._unit_path(depth, batch) if self.paths.units else NEVER
        return times

    def _unit_path(self, depth: int, batch: int) -> Times:
        """Add up the times of stem, stacks and head on the way to the boxes of ``depth``."""
        tail_s, median_s = self._times(self.paths.stem, batch)
        typical, variance = self._stacks(depth, batch)
        typical_s, squares = typical[depth] + median_s, variance[depth] + (tail_s - median_s) ** 2
        tail_s, median_s = self._times(self.paths.heads[depth], batch)
        typical_s, squares = typical_s + median_s, squares + (tail_s - median_s) ** 2
        return _tail(typical_s, squares), typical_s

    def path(self, depth: int, batch: int, *, streams: bool = False) -> Times:
        """Return the tail and typical seconds of the quickest path to the boxes of ``depth``.

        The path starts with the images. Quickest is what typically takes least; with ``streams``,
        only of what leaves features to go on with. Infinite if the model has no such exit or no
        such path.
        """
        key = (depth, batch, streams)
        times = self._paths.get(key)
        if times is None:
            times = NEVER
            if depth <= self.paths.num_exits:
                times = self.unit_path(depth, batch)
                if not streams and depth in self.paths.fused:
                    times = self._quicker(self.fused(depth, batch), times)
            self._paths[key] = times
        return times

    def fused_is_quickest(self, depth: int, batch: int) -> bool:
        """Return whether a fused run to ``depth`` typically takes no longer than unit segments.

        It does not if there is no such fused segment.
        """
        if depth not in self.paths.fused:
            return False
        fused = self.fused(depth, batch)
        return self._quicker(fused, self.unit_path(depth, batch)) is fused

    @staticmethod
    def _quicker(fused: Times, unit: Times) -> Times:
        """Return the times of the path that is typically quicker.

        Tail times are no guide here: less is known of what runs less.
        """
        return fused if fused[1] <= unit[1] else unit

    def deeper(
        self, start: int, depth: int, batch: int, num_streaming: int, num_owed: int
    ) -> float:
        """Return the seconds that going on from depth ``start`` to ``depth`` adds to a plan.

        They are those of the stacks for ``batch`` rows, of a head at each exit for the
        ``num_streaming`` of them, and the difference between the heads by which the ``num_owed``
        rows that are owed an answer leave.
        """
        heads_s = self.head(depth, num_owed) - self.head(start, num_owed)
        if num_streaming:
            heads_s += sum(self.head(k, num_streaming) for k in range(start + 1, depth + 1))
        return self.stacks(start, depth, batch)[0] + heads_s

    def split_heads(self, depth: int, num_streaming: int, num_plain: int, num_owed: int) -> float:
        """Return the seconds added to a plan by answering streaming rows now, plain ones later.

        The plan has one head at ``depth`` for all ``num_owed`` rows that are owed an answer.
        """
        heads_s = self.head(depth, num_streaming) + self.head(depth, num_plain)
        return heads_s - self.head(depth, num_owed)

    def paying_sizes(self, depth: int, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return the batch sizes that pay off on the way to exit ``depth``, smallest first.

        Of ``sizes``, also smallest first, those pay off that typically take clearly less time per
        request than the one before.
        """
        known = self._paying.get(depth)
        if known is None:
            paying = [1]
            for size in sizes[1:]:
                smaller_s = self.path(depth, paying[-1])[1] / paying[-1]
                if self.path(depth, size)[1] / size < BATCHING_GAIN * smaller_s:
                    paying.append(size)
            known = self._paying[depth] = tuple(paying)
        return known

    def typical_path(self, depth: int, *, streams: bool = False) -> float:
        """Return the seconds that one image typically takes to the boxes of ``depth``.

        That is by the quickest path; infinite if the model has no such exit or no such path.
        """
        return self.path(depth, 1, streams=streams)[1]


def quickest(models: Sequence[Costs], depth: int, streams: bool) -> Costs:
    """Return the costs of the model through which one image is soonest at exit ``depth``.

    Soonest is what typically takes least.
    """
    if len(models) == 1:
        return models[0]
    return min(models, key=lambda costs: costs.typical_path(depth, streams=streams))


DENSITY_GAIN = 1.1
"""Factor by which a slower answer must be worth more per second than the quickest one for the
latter to be passed over."""


def densest(
    models: Sequence[Costs],
    useful_exits: Sequence[UsefulExits],
    soonest: Costs,
    depth: int,
    streams: bool,
) -> Costs:
    """Return the costs of the model whose exit ``depth`` gives most accuracy per second.

    That is ``soonest``, the quickest, unless another gives more by ``DENSITY_GAIN``: then fewer
    answers of that one are worth more, in all, than those that the quickest has time for.
    """
    if len(models) == 1:
        return soonest
    useful = useful_exits[soonest.paths.model]
    most = DENSITY_GAIN * useful.ap(depth) / soonest.typical_path(depth, streams=streams)
    found = soonest
    for costs, useful in zip(models, useful_exits, strict=True):
        if depth <= useful.num_exits:
            density = useful.ap(depth) / costs.typical_path(depth, streams=streams)
            if density > most:
                most, found = density, costs
    return found
