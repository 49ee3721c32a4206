"""The times to each exit, as an executor publishes them for other threads.

Only the loop's thread may read the latency model. What admission asks for is computed there now and
then, and read from here by anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from serving.core.latency import LatencyModel
from serving.core.ports import Clock
from serving.core.scheduling.path_costs import Costs
from serving.core.scheduling.paths import Paths
from serving.core.windowed_minimum import WindowedMinimum

PUBLISH_EVERY_S = 0.05
"""Seconds that the predictions which admission goes by may be old; making them takes some
microseconds."""
IDLE_PERIOD_S = 30.0
"""Seconds that the least typical times are kept for, once to twice over: an idle engine would take
those. Under overload everything around it slows it down, and not all segments alike."""
SLOW_RATIO = 1.2
"""Ratio of what the quickest exit is predicted to take to the least that it was lately, above which
an engine seems slow."""

_NUM_REMEMBERED = 16
"""Number of questions how soon an exit is reached whose answers are remembered. Admission asks the
same several times for each request, and predictions change some twenty times a second."""

_ExitSeconds = tuple[tuple[float, ...], ...]
"""Seconds to each exit of each model."""


class ExitTimes:
    """The times to each exit of each model on one engine.

    ``typical_s`` and ``tail_s`` are for any thread, the rest for the loop's.
    """

    def __init__(self, latency: LatencyModel, models: Sequence[Paths], clock: Clock) -> None:
        self._latency = latency
        self._models = models
        self._clock = clock
        self._published_s = now_s = clock()
        self._typical_s, self._tail_s = self._predict()
        self._idle_s = [
            WindowedMinimum(IDLE_PERIOD_S, now_s, seconds) for seconds in self._typical_s
        ]

    def typical_s(self, depth: int, model: int | None = None) -> float:
        """Return the seconds that an idle engine typically takes from an image to exit ``depth``.

        The exit is that of ``model``, or of whichever is there first.
        """
        if model is not None:
            return self._typical_s[model][depth - 1]
        return _soonest(self._typical_s, depth)

    def tail_s(self, depth: int, model: int | None = None) -> float:
        """Return the seconds that the engine, as it is now, seldom exceeds to exit ``depth``."""
        if model is not None:
            return self._tail_s[model][depth - 1]
        return _soonest(self._tail_s, depth)

    @property
    def seems_slow(self) -> bool:
        """Whether the quickest exit is predicted to take longer than an idle engine takes."""
        now_s = Costs(self._latency, self._models[0]).typical_path(1)
        return now_s > SLOW_RATIO * self._typical_s[0][0]

    def publish(self) -> None:
        """Predict all times again."""
        self._published_s = now_s = self._clock()
        typical_s, self._tail_s = self._predict()
        for minimum, seconds in zip(self._idle_s, typical_s, strict=True):
            minimum.add(now_s, seconds)
        self._typical_s = tuple(minimum.values for minimum in self._idle_s)

    def publish_if_old(self, now_s: float) -> None:
        """Predict all times again if they are too old at ``now_s``."""
        if now_s - self._published_s > PUBLISH_EVERY_S:
            self.publish()

    def _predict(self) -> tuple[_ExitSeconds, _ExitSeconds]:
        """Return the seconds to each exit of each model, by the quickest path.

        First the typical ones on an engine no slower than usual, then the tail ones on the engine
        as it is.
        """
        slowdown = max(1.0, self._latency.slowdown)
        typical_s, tail_s = [], []
        for paths in self._models:
            costs = Costs(self._latency, paths)
            times = [costs.path(depth, 1) for depth in range(1, paths.num_exits + 1)]
            tail_s.append(tuple(tail for tail, _ in times))
            typical_s.append(tuple(typical / slowdown for _, typical in times))
        return tuple(typical_s), tuple(tail_s)


@lru_cache(_NUM_REMEMBERED)
def _soonest(exits_s: _ExitSeconds, depth: int) -> float:
    """Return the seconds to exit ``depth`` of whichever model that has one is there first."""
    return min(seconds[depth - 1] for seconds in exits_s if len(seconds) >= depth)
