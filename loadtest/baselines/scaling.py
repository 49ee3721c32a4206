"""Coarse accuracy scaling: one point for all requests, chosen every second by demand."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from loadtest.baselines.batching import Batcher
from loadtest.baselines.exits import FusedExits
from loadtest.baselines.fixed import serve_at
from serving.core.ladder import Ladder, PointId
from serving.core.latency import Latency
from serving.core.policy import Decision, Snapshot
from serving.core.segment import Segment

WINDOW_S = 1.0
FIRST_WINDOW_S = 0.1
"""Seconds of the first window, which is short: the point used until its end was chosen blindly."""
SMOOTHING = 0.5
"""Weight of the latest window in the demand, an exponentially weighted mean."""
HEADROOM = 0.6
"""Share of a point's throughput that demand may take: queues grow without bound at 1. Of 0.6, 0.7,
0.8 and 0.9 it is the one that serves best in simulation."""


class AccuracyScaling:
    """A policy that uses the most accurate point whose sustained throughput meets the demand.

    Demand is an exponentially weighted mean of arrivals per window. Until the first window has
    passed, the most accurate point is used.

    Proteus (Ahmad et al., ASPLOS 2024) solves a linear program for many devices once in a while;
    for one device this choice is all that is left of it.
    """

    def __init__(
        self,
        available: Collection[Segment],
        ladder: Ladder,
        batch_sizes: Sequence[int],
        batcher: Batcher,
    ) -> None:
        self._exits = FusedExits(available, ladder, batch_sizes)
        self._batcher = batcher
        self._point = self._best(ladder.points)
        self._demand_hz: float | None = None
        self._num_arrived = 0
        self._newest_id = -1
        self._window_s = FIRST_WINDOW_S
        self._window_end_s: float | None = None

    @property
    def point(self) -> PointId:
        """Return the operating point in use."""
        return self._point

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """Return the next decision at the point of this window."""
        if self._window_end_s is None:
            self._window_end_s = snapshot.now_s + self._window_s
        if snapshot.now_s >= self._window_end_s:
            self._close_windows(snapshot.now_s, self._window_end_s)
            self._point = self._choose(latency)
        arrived = [r.id for r in snapshot.waiting if r.id > self._newest_id]
        if arrived:
            self._num_arrived += len(arrived)
            self._newest_id = max(arrived)
        return serve_at(self._point, snapshot, latency, self._exits, self._batcher)

    def _close_windows(self, now_s: float, end_s: float) -> None:
        """Update the demand by the window that ended at ``end_s`` and the empty ones since then."""
        rate_hz = self._num_arrived / self._window_s
        if self._demand_hz is None:
            self._demand_hz = rate_hz
        else:
            self._demand_hz += SMOOTHING * (rate_hz - self._demand_hz)
        num_empty = math.floor((now_s - end_s) / WINDOW_S)
        self._demand_hz *= (1.0 - SMOOTHING) ** num_empty
        self._num_arrived = 0
        self._window_s = WINDOW_S
        self._window_end_s = end_s + (num_empty + 1) * WINDOW_S

    def _choose(self, latency: Latency) -> PointId:
        throughput_hz = {
            point: max(
                size / self._exits.typical(latency, point, size) for size in self._exits.batch_sizes
            )
            for point in self._exits.points
        }
        demand_hz = self._demand_hz or 0.0
        enough = [point for point, hz in throughput_hz.items() if HEADROOM * hz >= demand_hz]
        return self._best(enough) if enough else max(throughput_hz, key=throughput_hz.__getitem__)

    def _best(self, points: Sequence[PointId]) -> PointId:
        """Return the most accurate of these points; of equals the first in the ladder."""
        return max(points, key=lambda point: (self._exits.ap[point], -self._exits.place[point]))
