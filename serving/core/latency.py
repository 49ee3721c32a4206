"""Latency of segments: a model of it that begins with a profile and follows the machine.

    seconds = base(segment, batch) * slowdown

``base`` comes from the profile until enough runs have been seen, then from a window of them;
``slowdown`` is what all recent runs have in common (another machine, a busy neighbour, a lower
clock). A profile taken elsewhere therefore stops mattering after a few runs.
"""

from __future__ import annotations

import bisect
import math
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from serving.core.latency_profile import LatencyProfile
from serving.core.quantiles import quantile_of_sorted
from serving.core.segment import Segment

TAIL_QUANTILE = 0.97
"""Quantile of run times that plans are made with, the tail; a path of several segments is safer
than each alone."""
BASE_WINDOW = 128
"""Number of recent runs of one (segment, batch) that its typical and tail times come from."""
SLOWDOWN_WINDOW = 15
"""Number of recent runs, of whatever segment, that the slowdown comes from."""
EXCESS_WINDOW = 256
"""Number of recent runs that show by how much runs exceed their typical times."""
MIN_HOLD_UP_S = 0.010
"""Seconds by which a run exceeds its typical time from which on something has held it up."""
MAX_HOLD_UPS = 12
"""Number of hold-ups that are told of, the longest of those in the window."""
MIN_TAIL_SAMPLES = 34
"""Number of values below which their ``TAIL_QUANTILE`` is the largest of them: one hiccup."""
MAX_OWN_EXCESS = 2.0
"""Multiple of what the latest runs of all segments seldom exceed their typical times by, beyond
which the tail of one (segment, batch) is its own only if it is frequent."""
OWN_QUANTILE = 0.94
"""Quantile of its runs that must lie beyond that as well for the tail to be frequent: twice as many
as exceed a tail. Two hold-ups in forty runs are not."""
MIN_BASE_SAMPLES = 6
"""Number of runs of a (segment, batch) from which on its profile entry is no longer consulted."""

Times = tuple[float, float]
"""Tail and typical seconds of a run: what it seldom exceeds, and what it exceeds half of the
time."""


class HoldUps(NamedTuple):
    """The times that something held up recent runs: a machine that stood still, a neighbour."""

    lengths_s: tuple[float, ...]
    """Seconds of each, shortest first."""
    run_s: float
    """Seconds that all recent runs took."""


NO_HOLD_UPS = HoldUps((), 0.0)


class Latency(Protocol):
    """A source of predicted seconds of one run of a segment at a batch size."""

    @abstractmethod
    def times(self, segment: Segment, batch: int) -> Times:
        """Return the tail and typical seconds: what a run seldom exceeds, and half of the time."""

    @property
    def slowdown(self) -> float:
        """Factor that all times have in common."""
        return 1.0

    def calm(self, segment: Segment, batch: int) -> Times:
        """Return the ``times`` on an engine without slowdown, those divided by it."""
        return self.times(segment, batch)

    def derived(self, model: int, batch: int) -> dict[Any, Any]:
        """Return where to keep what follows from a model's ``calm`` times at a batch size.

        When one of these changes there is an empty dictionary in its place.
        """
        return {}

    def late_odds(self, times: Times, limit_s: float) -> float:
        """Return the odds that a run with these ``times`` takes longer than ``limit_s`` seconds.

        They are counted in the runs that were seen; 0 where none are.
        """
        return 0.0

    @property
    def hold_ups(self) -> HoldUps:
        """The hold-ups that were seen lately."""
        return NO_HOLD_UPS

    def predict(self, segment: Segment, batch: int) -> float:
        """Return the seconds that a run seldom exceeds, the first of ``times``."""
        return self.times(segment, batch)[0]

    def typical(self, segment: Segment, batch: int) -> float:
        """Return the seconds that half of the runs do not exceed, the second of ``times``."""
        return self.times(segment, batch)[1]


def _weighted_median(pairs: Iterable[tuple[float, float]]) -> float:
    """Return the value at which half of the weight of all (value, weight) is reached."""
    ordered = sorted(pairs)
    left = sum(weight for _, weight in ordered) / 2
    for value, weight in ordered:
        left -= weight
        if left <= 0:
            return value
    raise ValueError("nothing has no median")


class _Recent:
    """The latest values, of which quantiles are quick to look up."""

    __slots__ = ("_ordered", "_values")

    def __init__(self, maxlen: int, values: Iterable[float] = ()) -> None:
        self._values: deque[float] = deque(values, maxlen=maxlen)
        self._ordered = sorted(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float) -> None:
        """Add a value, in place of the oldest if there is no room."""
        if len(self._values) == self._values.maxlen:
            del self._ordered[bisect.bisect_left(self._ordered, self._values[0])]
        self._values.append(value)
        bisect.insort(self._ordered, value)

    def latest(self, count: int) -> list[float]:
        """Return the ``count`` values that were added last, oldest first."""
        return list(self._values)[-count:]

    def quantile(self, q: float) -> float:
        """Return the ``quantile`` of the values."""
        return quantile_of_sorted(self._ordered, q)

    def largest(self, count: int) -> list[float]:
        """Return the ``count`` largest values, smallest first."""
        return self._ordered[-count:]

    @property
    def largest_but_one(self) -> float:
        """The largest value but one; of one value that."""
        return self._ordered[-2:][0]

    def count_above(self, value: float) -> int:
        """Return how many of the values are above ``value``."""
        return len(self._ordered) - bisect.bisect_right(self._ordered, value)


class _Window:
    """The recent runs of one (segment, batch), each divided by the slowdown of its time."""

    __slots__ = ("base", "num_seen", "runs", "tail")

    def __init__(self, seed: Iterable[float]) -> None:
        self.runs = _Recent(BASE_WINDOW, seed)
        self.num_seen = 0
        self.base = self.tail = 0.0
        self._refresh()

    def add(self, value: float) -> None:
        """Add a run, and drop what the profile had put there once there are enough."""
        if self.num_seen == MIN_BASE_SAMPLES:  # drop what the profile had put there
            self.runs = _Recent(BASE_WINDOW, self.runs.latest(self.num_seen))
        self.num_seen += 1
        self.runs.add(value)
        self._refresh()

    def _refresh(self) -> None:
        """Look the typical and the tail time up again."""
        if len(self.runs):
            self.base = self.runs.quantile(0.5)
            self.tail = self.runs.quantile(TAIL_QUANTILE)


class LatencyModel(Latency):
    """A model that predicts run times in seconds and learns from each run.

    Not thread-safe: one executor owns it.
    """

    def __init__(self, profile: LatencyProfile | None) -> None:
        self._windows: dict[Segment, dict[int, _Window]] = {}
        self._ratios: deque[tuple[float, float]] = deque(maxlen=SLOWDOWN_WINDOW)
        self._excess = _Recent(EXCESS_WINDOW)
        self._excess_s = _Recent(EXCESS_WINDOW)
        self._recent_s: deque[float] = deque(maxlen=EXCESS_WINDOW)
        self._hold_ups = NO_HOLD_UPS
        self._slowdown = 1.0
        self._excess_tails = (0.0, 0.0)
        # Times without the slowdown, so that a run changes little of them, and what follows.
        self._known: dict[Segment, dict[int, Times]] = {}
        self._derived: dict[tuple[int, int], dict[Any, Any]] = {}
        if profile is not None:
            for (segment, batch), quantiles in profile.table.items():
                self._windows.setdefault(segment, {})[batch] = _Window(quantiles.spread())

    @property
    def slowdown(self) -> float:
        """Slowdown of recent runs: what they took, over what their windows led one to expect.

        It is a median in which a run counts by the time expected, since the shortest are mostly
        overhead.
        """
        return self._slowdown

    def observe(self, segment: Segment, batch: int, seconds: float) -> None:
        """Learn from one run of ``batch`` images that took ``seconds``."""
        windows = self._windows.setdefault(segment, {})
        window = windows.get(batch)
        if window is None:
            # The first run at this size: no ratio, since there is nothing to compare it with.
            windows[batch] = window = _Window(())
        else:
            self._ratios.append((seconds / window.base, window.base))
            self._slowdown = _weighted_median(self._ratios)
        value = seconds / self._slowdown
        known = self._known.get(segment, {}).get(batch)
        window.add(value)
        if known is None or known != self._lookup(segment, batch):
            self._known.pop(segment, None)
            # Sizes that were not run are as one that was.
            for model, size in [*self._derived]:
                if model == segment.model and (size == batch or size not in windows):
                    del self._derived[model, size]
        if window.num_seen > MIN_BASE_SAMPLES:
            self._excess.add(value / window.base)
            self._excess_s.add(value - window.base)
            self._recent_s.append(seconds)
            lengths_s = [s for s in self._excess_s.largest(MAX_HOLD_UPS) if s > MIN_HOLD_UP_S]
            self._hold_ups = NO_HOLD_UPS
            if lengths_s:
                self._hold_ups = HoldUps(tuple(lengths_s), math.fsum(self._recent_s))
            tails = self._excess.quantile(TAIL_QUANTILE), self._excess_s.quantile(TAIL_QUANTILE)
            if tails != self._excess_tails or len(self._excess) == MIN_TAIL_SAMPLES:
                self._excess_tails = tails
                self._known.clear()
                self._derived.clear()

    def derived(self, model: int, batch: int) -> dict[Any, Any]:
        """Return where to keep what follows from a model's ``calm`` times at a batch size.

        When one of these changes there is an empty dictionary in its place.
        """
        return self._derived.setdefault((model, batch), {})

    @property
    def hold_ups(self) -> HoldUps:
        """The hold-ups of the latest ``EXCESS_WINDOW`` runs."""
        return self._hold_ups

    def times(self, segment: Segment, batch: int) -> Times:
        """Return the tail and the typical seconds of a run.

        A run exceeds the tail with a probability of 1 - ``TAIL_QUANTILE``, and the typical time
        half of the time. Raises KeyError for a segment that was neither profiled nor run.
        """
        tail_s, typical_s = self.calm(segment, batch)
        return tail_s * self._slowdown, typical_s * self._slowdown

    def calm(self, segment: Segment, batch: int) -> Times:
        """Return the ``times`` on an engine without slowdown. Raises KeyError as they do."""
        try:
            return self._known[segment][batch]
        except KeyError:
            times = self._lookup(segment, batch)
            self._known.setdefault(segment, {})[batch] = times
            return times

    def late_odds(self, times: Times, limit_s: float) -> float:
        """Return the odds that a run with these ``times`` takes longer than ``limit_s`` seconds.

        Run times have heavy tails: now and then a machine stands still, and no quantile near the
        median tells of that. So the odds are counted, over the latest runs of all segments: ``k``
        of ``n`` exceeded their typical times by as much as this one may, by the factor or by the
        seconds, whichever is rarer, since short runs exceed theirs by a larger share, and long ones
        by more time. By Laplace's rule of succession the odds are ``(k + 1) / (n + 2)``: what was
        not seen in ``n`` runs may still come. While few runs are known, it is as if
        ``MIN_TAIL_SAMPLES`` had been.
        """
        typical_s = times[1]
        if not 0.0 < typical_s < math.inf:
            return 0.0
        excess_s = (limit_s - typical_s) / self._slowdown
        above = min(
            self._excess.count_above(limit_s / typical_s), self._excess_s.count_above(excess_s)
        )
        return (above + 1.0) / (max(len(self._excess), MIN_TAIL_SAMPLES) + 2.0)

    def _lookup(self, segment: Segment, batch: int) -> Times:
        """Return the tail and the typical seconds of a run on an engine without slowdown."""
        windows = self._windows.get(segment)
        if not windows:
            raise KeyError(f"segment {segment.name} was neither profiled nor run")
        window = windows.get(batch)
        if window is not None:
            return self._tail(window), window.base
        # Between two known sizes: as the larger one, which most runners pad to. Above the largest:
        # in proportion, which is pessimistic.
        sizes = sorted(windows)
        position = bisect.bisect(sizes, batch)
        if position < len(sizes):
            return self._lookup(segment, sizes[position])
        tail_s, typical_s = self._lookup(segment, sizes[-1])
        return tail_s * batch / sizes[-1], typical_s * batch / sizes[-1]

    def _tail(self, window: _Window) -> float:
        """Return the seconds that runs of a window seldom exceed.

        Of few runs, or of a profile, it would be the largest one, and stay it while there are few:
        one hiccup while the engine warmed up. By how much the latest runs of all segments have
        exceeded their typical times is a better guess, which old hiccups leave as others run. For
        the same reason it bounds what more runs tell, unless many of them were as slow: a batch
        that was held up twice would look too slow to be run, and nothing would show that it is not.
        """
        times, seconds = self._excess_tails
        if len(self._excess) < MIN_TAIL_SAMPLES:
            known = MIN_BASE_SAMPLES < window.num_seen < MIN_TAIL_SAMPLES
            return window.runs.largest_but_one if known else window.tail
        if window.num_seen >= MIN_TAIL_SAMPLES:
            excess_s = MAX_OWN_EXCESS * max(seconds, window.base * (times - 1.0))
            is_own = window.runs.quantile(OWN_QUANTILE) > window.base + excess_s
            return window.tail if is_own else min(window.tail, window.base + excess_s)
        # Short runs exceed theirs by a larger share, long ones by more time.
        return min(window.base + seconds, window.base * times)
