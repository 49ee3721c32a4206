"""Depth by expected accuracy: what an exit is worth, times how likely it is to be in time.

ALERT (Wan et al., USENIX ATC 2020) takes one input at a time and does not look at the queue. How
long runs take, over what they typically take, is followed by a Kalman filter whose noise adapts;
its normal distribution gives the probability of being in time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from loadtest.baselines.exits import Exits
from serving.core import segment as segments
from serving.core.command_errors import InvalidArgument
from serving.core.errors import ShedReason
from serving.core.latency import Latency
from serving.core.policy import (
    Cohort,
    Conclude,
    Decision,
    Run,
    ShedRequests,
    Snapshot,
    Wait,
)
from serving.core.request import Request
from serving.core.scheduling.path_costs import EPSILON_S
from serving.core.segment import Segment

MEASUREMENT_NOISE = 0.001
MIN_PROCESS_NOISE = 0.001
"""The variance of a run's slowdown is taken to be at least this: 3 %. With 0.1, a third of every
budget would stay unused even on a steady machine. The constants here are ours, not the paper's."""
FORGETTING = 0.3
MAX_SLOWDOWN = 4.0
"""What a measurement is cut off at."""


class SlowdownFilter:
    """An adaptive Kalman filter for how long runs take, over what they typically take."""

    def __init__(self) -> None:
        self.mean, self.variance = 1.0, MIN_PROCESS_NOISE
        self._gain, self._process_noise = 0.5, MIN_PROCESS_NOISE

    def observe(self, slowdown: float) -> None:
        """One run."""
        error = min(slowdown, MAX_SLOWDOWN) - self.mean
        self._process_noise = max(
            MIN_PROCESS_NOISE,
            FORGETTING * self._process_noise + (1.0 - FORGETTING) * (self._gain * error) ** 2,
        )
        prior = (1.0 - self._gain) * self.variance + self._process_noise
        self._gain = prior / (prior + MEASUREMENT_NOISE)
        self.mean += self._gain * error
        self.variance = prior

    def in_time(self, typical_s: float, slack_s: float) -> float:
        """The probability that what typically takes ``typical_s`` ends within ``slack_s``."""
        sigmas = (slack_s / typical_s - self.mean) / math.sqrt(self.variance)
        return 0.5 * (1.0 + math.erf(sigmas / math.sqrt(2.0)))


class _Stopwatch:
    """Measures the policy's own runs. It is not told when one ended, but if somebody waits since
    it was under way, it ended just now."""

    def __init__(self) -> None:
        self._running: tuple[float, float] | None = None

    def start(self, now_s: float, typical_s: float) -> None:
        self._running = (now_s, typical_s)

    def slowdown(self, snapshot: Snapshot) -> float | None:
        """Of the run that ended, if that is known."""
        if self._running is None:
            return None
        started_s, typical_s = self._running
        self._running = None
        under_way_s = started_s + typical_s / 2.0
        busy = snapshot.cohorts or any(r.arrival_s < under_way_s for r in snapshot.waiting)
        return (snapshot.now_s - started_s) / typical_s if busy else None


class Alert:
    """The traditional form: one fused run to the exit with the largest expected accuracy, nothing
    being left if that is late."""

    def __init__(
        self,
        available: Collection[Segment],
        accuracy: Sequence[float],
        batch_sizes: Sequence[int],
    ) -> None:
        self._exits = Exits(available, accuracy, batch_sizes)
        self._filter = SlowdownFilter()
        self._stopwatch = _Stopwatch()

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """The next run."""
        slowdown = self._stopwatch.slowdown(snapshot)
        if slowdown is not None:
            self._filter.observe(slowdown)
        shed = self._exits.shed_doomed(snapshot, latency)
        if shed is not None:
            return shed
        if not snapshot.waiting:
            return Wait()
        head = snapshot.waiting[0]
        typical_s = {
            depth: self._exits.typical(latency, depth)
            for depth in range(head.min_depth, head.max_depth + 1)
        }
        slack_s = head.deadline_s - snapshot.now_s
        depth = max(
            typical_s,
            key=lambda d: self._exits.accuracy[d - 1] * self._filter.in_time(typical_s[d], slack_s),
        )
        self._stopwatch.start(snapshot.now_s, typical_s[depth])
        return self._exits.run(depth, (head,))


class StagedAlert:
    """The anytime form for a model that runs in stages: the exit with the largest expected accuracy
    is chosen anew at each boundary, so that a run that turns out slow ends at a shallower one.

    An anytime network has answered at each exit that it passes. Here an answer costs a head, which
    is run only where the request is to leave; the fallback is thus the shallowest exit from where
    it stands, and giving up depth is what keeps it in time. Streaming requests end with their first
    answer.
    """

    def __init__(
        self, available: Collection[Segment], accuracy: Sequence[float], batch_sizes: Sequence[int]
    ) -> None:
        """Raises ValueError unless ``available`` has every unit segment."""
        del batch_sizes  # one input at a time
        lacking = [s for s in segments.unit_segments(len(accuracy)) if s not in available]
        if lacking:
            names = ", ".join(segments.names(lacking))
            raise InvalidArgument(f"the runner lacks {names}, and staged ALERT runs unit segments")
        self._accuracy = tuple(accuracy)
        self._filter = SlowdownFilter()
        self._stopwatch = _Stopwatch()

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """The next segment."""
        slowdown = self._stopwatch.slowdown(snapshot)
        if slowdown is not None:
            self._filter.observe(slowdown)
        decision = self._decide(snapshot, latency)
        if isinstance(decision, Run):
            self._stopwatch.start(snapshot.now_s, latency.typical(decision.segment, 1))
        return decision

    def _decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        for cohort in snapshot.cohorts:
            return self._go_on(cohort, snapshot, latency)
        doomed = []
        for request in snapshot.waiting:
            typical_s = _typical(segments.unit_path(request.min_depth), latency)
            if snapshot.now_s + typical_s > request.deadline_s + EPSILON_S:
                doomed.append(request)
        if doomed:
            return ShedRequests(tuple(doomed), ShedReason.REJECTED_EXPIRED, 0.0)
        if not snapshot.waiting:
            return Wait()
        return Run(segments.STEM, snapshot.waiting[:1], None)

    def _go_on(self, cohort: Cohort, snapshot: Snapshot, latency: Latency) -> Decision:
        request = cohort.requests[0]
        if request.id in snapshot.answered:
            return Conclude(cohort.requests)
        depth = self._best(cohort.depth, request, snapshot.now_s, latency)
        leaves = depth == cohort.depth
        segment = segments.head(depth) if leaves else segments.stack(cohort.depth + 1)
        return Run(segment, cohort.requests, cohort.id)

    def _best(self, start: int, request: Request, now_s: float, latency: Latency) -> int:
        """The exit with the largest expected accuracy from depth ``start`` on."""
        slack_s = request.deadline_s - now_s
        best, best_value = max(start, request.min_depth), -math.inf
        stacks_s = 0.0
        for depth in range(start, request.max_depth + 1):
            if depth > start:
                stacks_s += latency.typical(segments.stack(depth), 1)
            if depth < max(1, request.min_depth):
                continue
            typical_s = stacks_s + latency.typical(segments.head(depth), 1)
            value = self._accuracy[depth - 1] * self._filter.in_time(typical_s, slack_s)
            if value > best_value:
                best, best_value = depth, value
        return best


def _typical(path: Iterable[Segment], latency: Latency) -> float:
    return sum(latency.typical(segment, 1) for segment in path)
