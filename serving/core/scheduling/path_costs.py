"""Predicted seconds of every run and path through a model, during one decision.

They are those of ``path_times``, times the slowdown of the engine as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from serving.core.latency import TAIL_QUANTILE, Latency, Times
from serving.core.scheduling.depth_price import CostAndAp
from serving.core.scheduling.path_times import NEVER, Memo, PathTimes, tail
from serving.core.scheduling.paths import Paths
from serving.core.segment import Segment
from serving.core.useful_exits import Chain, UsefulExits

BATCHING_GAIN = 0.95
"""Share of a smaller batch's time per request below which a larger batch must bring it to pay off;
otherwise forming it would delay the first request for nothing."""
EPSILON_S = 1e-9
"""Seconds by which two sums of the same times may differ through rounding."""


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
    return tail(typical_s, (first[0] - first[1]) ** 2 + (then[0] - then[1]) ** 2), typical_s


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
        return tail(self._typical_s, self._variance)

    def after(self, times: Times) -> float:
        """Return the instant that one more run would seldom end after."""
        tail_s, typical_s = times
        return tail(self._typical_s + typical_s, self._variance + (tail_s - typical_s) ** 2)


class Costs:
    """Predicted seconds of every run and path through one model, during one decision.

    A time without further words is a tail time, one that is seldom exceeded; ``typical_...`` is
    exceeded half of the time; ``Times`` are both.
    """

    __slots__ = ("_calm", "_latency", "_paying", "_slowdown", "hold_ups", "late_odds", "paths")

    def __init__(self, latency: Latency, paths: Paths) -> None:
        self._latency = latency
        self._slowdown = latency.slowdown
        self._calm = Memo(self._find)
        """Batch size -> times without slowdown."""
        self._paying: dict[int, tuple[int, ...]] = {}
        self.paths = paths
        self.hold_ups = latency.hold_ups
        self.late_odds = latency.late_odds
        """Function from the times of a run and a limit in seconds to the odds that it is late."""

    def _find(self, batch: int) -> PathTimes:
        kept, paths = self._latency.derived(self.paths.model, batch), self.paths
        calm: PathTimes | None = kept.get(paths)
        if calm is None:
            calm = kept[paths] = PathTimes(self._latency, paths, batch)
        return calm

    def run(self, segment: Segment, batch: int) -> Times:
        """Return the tail and typical seconds of one run of ``segment``."""
        return self._latency.times(segment, batch)

    def stem(self, batch: int) -> float:
        """Return the tail seconds from the images to depth 0."""
        return self._calm[batch].stem[0] * self._slowdown

    def stack(self, depth: int, batch: int) -> float:
        """Return the tail seconds from depth ``depth - 1`` to ``depth``."""
        return self._calm[batch].stack[depth][0] * self._slowdown

    def stacks(self, start: int, stop: int, batch: int) -> Times:
        """Return the tail and typical seconds from depth ``start`` to ``stop``."""
        tail_s, typical_s = self._calm[batch].stacks[start, stop]
        return tail_s * self._slowdown, typical_s * self._slowdown

    def head(self, depth: int, batch: int) -> float:
        """Return the tail seconds from the features of ``depth`` to boxes; 0 for no rows."""
        return self._calm[batch].head[depth][0] * self._slowdown if batch else 0.0

    def fused(self, depth: int, batch: int) -> Times:
        """Return the tail and typical seconds of one fused run from the images to exit ``depth``.

        They are infinite if there is no such segment.
        """
        tail_s, typical_s = self._calm[batch].fused[depth]
        return tail_s * self._slowdown, typical_s * self._slowdown

    def remaining_path(self, start: int, depth: int, batch: int) -> Times:
        """Return the tail and typical seconds from depth ``start`` to the boxes of ``depth``."""
        tail_s, typical_s = self._calm[batch].remaining[start, depth]
        return tail_s * self._slowdown, typical_s * self._slowdown

    def unit_path(self, depth: int, batch: int) -> Times:
        """Return the tail and typical seconds to the boxes of ``depth`` through unit segments.

        They are infinite if the runner has none.
        """
        tail_s, typical_s = self._calm[batch].unit[depth]
        return tail_s * self._slowdown, typical_s * self._slowdown

    def path(self, depth: int, batch: int, *, streams: bool = False) -> Times:
        """Return the tail and typical seconds of the quickest path to the boxes of ``depth``.

        The path starts with the images. Quickest is what typically takes least; with ``streams``,
        only of what leaves features to go on with. Infinite if the model has no such exit or no
        such path.
        """
        if depth > self.paths.num_exits:
            return NEVER
        calm = self._calm[batch]
        tail_s, typical_s = calm.unit[depth] if streams else calm.path[depth]
        return tail_s * self._slowdown, typical_s * self._slowdown

    def slowest_s(self, *, streams: bool) -> float:
        """Return the seconds of the ``typical_path`` to the exit that takes longest."""
        return self._calm[1].slowest[streams] * self._slowdown

    def curve(self, chain: Chain, factor: float) -> list[CostAndAp]:
        """Return the typical seconds of one image to each exit of ``chain``, with its accuracy.

        They are those of the fused run, where there is one, times ``factor``.
        """
        factor *= self._slowdown
        return [(factor * seconds, ap) for seconds, ap in self._calm[1].curve[chain]]

    def fused_is_quickest(self, depth: int, batch: int) -> bool:
        """Return whether a fused run to ``depth`` typically takes no longer than unit segments.

        It does not if there is no such fused segment.
        """
        if depth not in self.paths.fused:
            return False
        calm = self._calm[batch]
        return calm.path[depth] is calm.fused[depth]

    def deeper(
        self, start: int, depth: int, batch: int, num_streaming: int, num_owed: int
    ) -> float:
        """Return the seconds that going on from depth ``start`` to ``depth`` adds to a plan.

        They are those of the stacks for ``batch`` rows, of a head at each exit for the
        ``num_streaming`` of them, and the difference between the heads by which the ``num_owed``
        rows that are owed an answer leave.
        """
        if start == depth:
            return 0.0
        heads_s = self.head(depth, num_owed) - self.head(start, num_owed)
        if num_streaming:
            heads_s += sum(self.head(k, num_streaming) for k in range(start + 1, depth + 1))
        return self.stacks(start, depth, batch)[0] + heads_s

    def split_heads(self, depth: int, num_streaming: int, num_plain: int, num_owed: int) -> float:
        """Return the seconds added to a plan by answering streaming rows now, plain ones later.

        The plan has one head at ``depth`` for all ``num_owed`` rows that are owed an answer.
        """
        if not num_streaming and num_plain == num_owed:
            return 0.0
        heads_s = self.head(depth, num_streaming) + self.head(depth, num_plain)
        return heads_s - self.head(depth, num_owed)

    def paying_sizes(self, depth: int, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return the batch sizes that pay off on the way to exit ``depth``, smallest first.

        Of ``sizes``, also smallest first, those pay off that typically take clearly less time per
        request than the one before.
        """
        known = self._paying.get(depth)
        if known is None:
            paying, smaller_s = [1], self._calm[1].path[depth][1]
            for size in sizes[1:]:
                each_s = self._calm[size].path[depth][1] / size
                if each_s < BATCHING_GAIN * smaller_s:
                    paying.append(size)
                    smaller_s = each_s
            known = self._paying[depth] = tuple(paying)
        return known

    def typical_path(self, depth: int, *, streams: bool = False) -> float:
        """Return the seconds that one image typically takes to the boxes of ``depth``.

        That is by the quickest path; infinite if the model has no such exit or no such path.
        """
        if depth > self.paths.num_exits:
            return math.inf
        calm = self._calm[1]
        return (calm.unit if streams else calm.path)[depth][1] * self._slowdown


def quickest(models: Sequence[Costs], depth: int, streams: bool) -> Costs:
    """Return the costs of the model through which one image is soonest at exit ``depth``.

    Soonest is what typically takes least.
    """
    found, *others = models
    if others:
        least_s = found.typical_path(depth, streams=streams)
        for costs in others:
            seconds = costs.typical_path(depth, streams=streams)
            if seconds < least_s:
                found, least_s = costs, seconds
    return found


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
        if costs is not soonest and depth <= useful.num_exits:
            density = useful.ap(depth) / costs.typical_path(depth, streams=streams)
            if density > most:
                most, found = density, costs
    return found
