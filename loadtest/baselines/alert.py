"""Policies that choose the point by expected accuracy: an exit's AP times its chance to be in time.

ALERT (Wan et al., USENIX ATC 2020) takes one input at a time and does not look at the queue. A
Kalman filter whose noise adapts follows how long runs take, over what they typically take; its
normal distribution gives the probability of being in time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from loadtest.baselines.exits import FusedExits
from serving.core import segment as segments
from serving.core.command_errors import InvalidArgument
from serving.core.errors import ShedReason
from serving.core.ladder import Ladder, PointId
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
"""Smallest variance that is assumed of a run's slowdown: a standard deviation of 3 %. With 0.1, a
third of every budget would stay unused even on a steady machine. The constants here are ours, not
the paper's."""
FORGETTING = 0.3
MAX_SLOWDOWN = 4.0
"""Largest slowdown that the filter takes in; longer runs are cut off to it."""


class SlowdownFilter:
    """An adaptive Kalman filter for how long runs take, over what they typically take."""

    def __init__(self) -> None:
        self.mean, self.variance = 1.0, MIN_PROCESS_NOISE
        self._gain, self._process_noise = 0.5, MIN_PROCESS_NOISE

    def observe(self, slowdown: float) -> None:
        """Update the estimate with the slowdown of one run."""
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
        """Return the probability that a run of typically ``typical_s`` ends within ``slack_s``."""
        sigmas = (slack_s / typical_s - self.mean) / math.sqrt(self.variance)
        return 0.5 * (1.0 + math.erf(sigmas / math.sqrt(2.0)))


class _Stopwatch:
    """A stopwatch for the policy's own runs.

    The policy is not told when a run ended, but if a request waits since the run was under way, the
    run ended just now.
    """

    def __init__(self) -> None:
        self._running: tuple[float, float] | None = None

    def start(self, now_s: float, typical_s: float) -> None:
        self._running = (now_s, typical_s)

    def slowdown(self, snapshot: Snapshot) -> float | None:
        """Return the slowdown of the run that has just ended; None if that is not known."""
        if self._running is None:
            return None
        started_s, typical_s = self._running
        self._running = None
        under_way_s = started_s + typical_s / 2.0
        busy = snapshot.cohorts or any(r.arrival_s < under_way_s for r in snapshot.waiting)
        return (snapshot.now_s - started_s) / typical_s if busy else None


class Alert:
    """ALERT's traditional form: one fused run to the exit with the largest expected accuracy.

    An answer that comes late is worth nothing, since there is no earlier one.
    """

    def __init__(
        self,
        available: Collection[Segment],
        ladder: Ladder,
        batch_sizes: Sequence[int],
    ) -> None:
        self._exits = FusedExits(available, ladder, batch_sizes)
        self._filter = SlowdownFilter()
        self._stopwatch = _Stopwatch()

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """Return the next decision: a single request's run, a shedding, or a wait."""
        slowdown = self._stopwatch.slowdown(snapshot)
        if slowdown is not None:
            self._filter.observe(slowdown)
        before = self._exits.before_running(snapshot, latency)
        if before is not None:
            return before
        head = snapshot.waiting[0]
        typical_s = {
            point: self._exits.typical(latency, point) for point in self._exits.accepted(head)
        }
        slack_s = head.deadline_s - snapshot.now_s
        point = max(
            typical_s,
            key=lambda p: self._exits.ap[p] * self._filter.in_time(typical_s[p], slack_s),
        )
        self._stopwatch.start(snapshot.now_s, typical_s[point])
        return self._exits.run(point, (head,))


class StagedAlert:
    """ALERT's anytime form: the exit is chosen anew at each boundary of a model in stages.

    The choice is the exit with the largest expected accuracy, so that a run that turns out slow
    ends at a shallower one.

    An anytime network has answered at each exit that it passes. Here an answer costs a head, which
    is run only where the request is to leave; the fallback is thus the shallowest exit from where
    the request stands, and giving up depth is what keeps it in time. Streaming requests end with
    their first answer. A request starts at the input size of the
    best exit, and stays at it.
    """

    def __init__(
        self, available: Collection[Segment], ladder: Ladder, batch_sizes: Sequence[int]
    ) -> None:
        """Take the operating points and the runner's segments.

        Raises ValueError unless ``available`` has every unit segment.
        """
        del batch_sizes  # one input at a time
        lacking = [
            segment.of(number)
            for number, accuracy in enumerate(ladder.accuracies)
            for segment in segments.unit_segments(len(accuracy))
            if segment.of(number) not in available
        ]
        if lacking:
            names = ", ".join(segments.names(lacking))
            raise InvalidArgument(f"the runner lacks {names}, and staged ALERT runs unit segments")
        self._ladder = ladder
        self._filter = SlowdownFilter()
        self._stopwatch = _Stopwatch()

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """Return the next decision: a unit segment for the request in work, or for the next one."""
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
            least_s = min(
                _typical(segments.unit_path(request.min_depth), number, latency)
                for number, accuracy in enumerate(self._ladder.accuracies)
                if request.min_depth <= len(accuracy)
            )
            if snapshot.now_s + least_s > request.deadline_s + EPSILON_S:
                doomed.append(request)
        if doomed:
            return ShedRequests(tuple(doomed), ShedReason.REJECTED_EXPIRED, 0.0)
        if not snapshot.waiting:
            return Wait()
        head = snapshot.waiting[0]
        number, _ = max(
            (
                self._best((number, 0), head, snapshot.now_s, latency, with_stem=True)
                for number, accuracy in enumerate(self._ladder.accuracies)
                if head.min_depth <= len(accuracy)
            ),
            key=lambda found: found[1],
        )[0]
        return Run(segments.STEM.of(number), (head,), None)

    def _go_on(self, cohort: Cohort, snapshot: Snapshot, latency: Latency) -> Decision:
        request = cohort.requests[0]
        if request.id in snapshot.answered:
            return Conclude(cohort.requests)
        place = (cohort.model, cohort.depth)
        (_, depth), _ = self._best(place, request, snapshot.now_s, latency)
        leaves = depth == cohort.depth
        segment = segments.head(depth) if leaves else segments.stack(cohort.depth + 1)
        return Run(segment.of(cohort.model), cohort.requests, cohort.id)

    def _best(
        self,
        place: PointId,
        request: Request,
        now_s: float,
        latency: Latency,
        *,
        with_stem: bool = False,
    ) -> tuple[PointId, float]:
        """Return the point with the largest expected accuracy from ``place`` on, and that value.

        It is of the same input size. With ``with_stem``, the way to ``place`` is still to go.
        """
        number, start = place
        slack_s = request.deadline_s - now_s
        best, best_value = max(start, request.min_depth), -math.inf
        before_s = latency.typical(segments.STEM.of(number), 1) if with_stem else 0.0
        accuracy = self._ladder.accuracies[number]
        for depth in range(start, min(request.max_depth, len(accuracy)) + 1):
            if depth > start:
                before_s += latency.typical(segments.stack(depth).of(number), 1)
            if depth < max(1, request.min_depth):
                continue
            typical_s = before_s + latency.typical(segments.head(depth).of(number), 1)
            value = accuracy[depth - 1] * self._filter.in_time(typical_s, slack_s)
            if value > best_value:
                best, best_value = depth, value
        return (number, best), best_value


def _typical(path: Iterable[Segment], number: int, latency: Latency) -> float:
    return sum(latency.typical(segment.of(number), 1) for segment in path)
