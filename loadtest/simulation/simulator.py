"""One executor in virtual time: discrete events around the policy and latency model that serve.

    submit -> inbox -> waiting --Run--> busy until finish_s --> cohort, answered, ...

It drives the same ``EngineState`` as the executor that serves, but moves no pixels and reads no
clock: a run takes as long as ``ServiceTimes`` says. What happens is exact to the event, whenever
``advance`` is called, so that a balancer may look at many servers at one instant.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from serving.core.engine_state import EngineState
from serving.core.errors import ShedReason
from serving.core.fair_shares import refusal
from serving.core.ladder import PointId
from serving.core.latency import LatencyModel
from serving.core.latency_profile import LatencyProfile
from serving.core.policy import (
    Conclude,
    Decision,
    Policy,
    Run,
    ShedRequests,
    Snapshot,
    Wait,
)
from serving.core.request import Request
from serving.core.scheduling.path_costs import EPSILON_S
from serving.core.segment import IMAGE, Segment

MAX_WAITING = 64
"""Largest number of waiting requests, as the server's setting of that name is by default."""
_CHUNK = 4096
"""Number of random numbers that are drawn at once."""


@dataclass(frozen=True, slots=True)
class SimulatedOutcome:
    """How a simulated request ended, at the instant ``finished_s``."""

    request: Request
    finished_s: float
    depth: int
    """Depth of the exit that answered the request; 0 if none did."""
    reason: ShedReason | None
    """Reason for which the request was shed; None if it was not."""
    model: int = 0
    """Number of the model whose exit it was, where several are served as one."""
    earlier: tuple[PointId, ...] = ()
    """Points of the answers that it had in hand when it was run again, in their order."""
    superseded: bool = False
    """Whether a newer frame of its stream took its place while it waited."""

    @property
    def points(self) -> tuple[PointId, ...]:
        """Return the operating points that the answer is of, in the order of their runs."""
        if not self.depth:
            return ()
        return (*self.earlier, (self.model, self.depth))

    @property
    def in_time(self) -> bool:
        """Return whether the request was answered by its deadline."""
        return self.depth > 0 and self.finished_s <= self.request.deadline_s + EPSILON_S


@dataclass(frozen=True, slots=True)
class Slowdown:
    """A period in which every run that starts takes ``factor`` times as long."""

    start_s: float
    length_s: float
    factor: float


@dataclass(frozen=True, slots=True)
class SlowPeriods:
    """Periods, at random, in which every run that starts takes ``factor`` times as long.

    The times from the end of one to the start of the next, and their lengths, are exponential.
    """

    every_s: float
    """Mean seconds between two periods."""
    length_s: float
    """Mean seconds of a period."""
    factor: float


@dataclass(frozen=True, slots=True)
class Outliers:
    """Runs, at random, that take ``factor`` times as long: a share ``probability`` of all."""

    probability: float
    factor: float


@dataclass(frozen=True, slots=True)
class Stalls:
    """Instants, as a Poisson process, at which the machine stands still for ``length_s``.

    Nothing runs then, and nothing is decided. An instant during a stall makes it longer.
    """

    every_s: float
    """Mean seconds between two stalls."""
    length_s: float


class ServiceTimes:
    """A model of how long runs take: the profile's median with one-sided jitter.

    With p50 the median at the next larger profiled batch size, on which runners pad, a run takes

        seconds = p50 / (1 + jitter * ln 2) * (1 + jitter * Exp(1))

    whose median is p50 and whose smallest value, ``floor`` times p50, bounds what any schedule can
    do. Slowdowns, slow periods, outliers and stalls lengthen it further. Each of these is drawn
    from a stream of its own, so that the machine is the same whatever runs on it.
    """

    def __init__(
        self,
        profile: LatencyProfile,
        jitter: float,
        rng: np.random.Generator,
        slowdowns: Sequence[Slowdown] = (),
        stalls: Stalls | None = None,
        slow_periods: SlowPeriods | None = None,
        outliers: Outliers | None = None,
    ) -> None:
        self.floor = floor_of(jitter)
        self._jitter = jitter
        self._rng = rng
        self._slowdowns = tuple(slowdowns)
        self._stalls, self._slow_periods, self._outliers = stalls, slow_periods, outliers
        self._stalls_rng, self._slow_rng, self._outliers_rng = rng.spawn(3)
        # Start of the next stall, and end of those before it.
        self._stall_s = self._stalls_rng.exponential(stalls.every_s) if stalls else math.inf
        self._stalled_until_s = 0.0
        self._slow_s = (0.0, 0.0)  # start and end of the latest slow period
        self._sizes: dict[Segment, list[int]] = {}
        self._p50_s: dict[tuple[Segment, int], float] = {}
        for (segment, size), quantiles in sorted(profile.table.items()):
            self._sizes.setdefault(segment, []).append(size)
            self._p50_s[segment, size] = quantiles.p50_s
        self._draws: list[float] = []

    def seconds(self, segment: Segment, batch: int, now_s: float) -> float:
        """Draw the seconds of one run that starts at ``now_s``, no earlier than those before it.

        Raises ValueError if no profiled batch is as large.
        """
        key = (segment, batch)
        p50_s = self._p50_s.get(key)
        if p50_s is None:
            p50_s = self._p50_s[key] = self._padded(segment, batch)
        if not self._draws:
            self._draws = self._rng.exponential(size=_CHUNK).tolist()
        seconds = p50_s * self.floor * (1.0 + self._jitter * self._draws.pop())
        for slow in self._slowdowns:
            if slow.start_s <= now_s < slow.start_s + slow.length_s:
                seconds *= slow.factor
        if self._slow_periods is not None and self._is_slow(self._slow_periods, now_s):
            seconds *= self._slow_periods.factor
        if self._outliers is not None and self._outliers_rng.random() < self._outliers.probability:
            seconds *= self._outliers.factor
        if self._stalls is not None:
            seconds += self.awake_s(now_s) - now_s
            while self._stall_s < now_s + seconds:
                seconds += self._stalls.length_s
                self._stall_s += self._stalls_rng.exponential(self._stalls.every_s)
        return seconds

    def awake_s(self, now_s: float) -> float:
        """Return ``now_s``, or the end of the stall that the machine is in then.

        That is as far as it is known: it may be in another one at that instant. ``now_s`` must be
        no earlier than the end of the latest run.
        """
        if self._stalls is not None:
            while self._stall_s <= now_s:
                start_s = max(self._stall_s, self._stalled_until_s)
                self._stalled_until_s = start_s + self._stalls.length_s
                self._stall_s += self._stalls_rng.exponential(self._stalls.every_s)
        return max(now_s, self._stalled_until_s)

    def _is_slow(self, periods: SlowPeriods, now_s: float) -> bool:
        """Return whether a slow period is on at ``now_s``, no earlier than when last asked."""
        start_s, end_s = self._slow_s
        while end_s <= now_s:
            start_s = end_s + self._slow_rng.exponential(periods.every_s)
            end_s = start_s + self._slow_rng.exponential(periods.length_s)
        self._slow_s = start_s, end_s
        return start_s <= now_s

    def _padded(self, segment: Segment, batch: int) -> float:
        larger = [size for size in self._sizes.get(segment, ()) if size >= batch]
        if not larger:
            raise ValueError(f"the profile has no batch of {batch} for {segment.name}")
        return self._p50_s[segment, larger[0]]


def floor_of(jitter: float) -> float:
    """Return the least that a run takes, as a share of its median."""
    return 1.0 / (1.0 + jitter * math.log(2.0))


class SimulatedServer:
    """One executor in virtual time.

    Requests are submitted in order of arrival; ``ended`` is told of each once.
    """

    def __init__(
        self,
        policy: Policy,
        latency: LatencyModel,
        service: ServiceTimes,
        ended: Callable[[SimulatedOutcome], None],
        *,
        max_waiting: int = MAX_WAITING,
        decided: Callable[[Snapshot, Decision], None] | None = None,
    ) -> None:
        self.now_s = 0.0
        self.num_decisions = 0
        self._policy = policy
        self._latency = latency
        self._service = service
        self._ended = ended
        self._max_waiting = max_waiting
        self._decided = decided
        self._state = EngineState(max_waiting)
        self._inbox: deque[Request] = deque()
        self._answers: dict[int, SimulatedOutcome] = {}
        self._num_open = 0
        self._running: Run | None = None
        self._started_s = self._finish_s = 0.0

    @property
    def num_open(self) -> int:
        """Return the number of requests that have been submitted and not ended."""
        return self._num_open

    @property
    def num_waiting(self) -> int:
        """Return the number of open requests that no segment has run for.

        It is as of the latest ``advance``.
        """
        return len(self._inbox) + self._state.num_waiting

    def submit(self, request: Request) -> None:
        """Let a request arrive at ``request.arrival_s``, no earlier than those before it.

        ``advance`` to that instant first for the bound on waiting requests to be exact.
        """
        reason = refusal(
            self._num_waiting_of, request.principal, self.num_waiting, self._max_waiting
        )
        if reason is not None and not self._is_awaited(request):
            self._ended(SimulatedOutcome(request, request.arrival_s, 0, reason))
            return
        self._inbox.append(request)
        self._num_open += 1

    def _is_awaited(self, request: Request) -> bool:
        """Return whether an older frame of its stream waits, whose place it takes."""
        if not request.stream:
            return False
        arrived = any(each.stream_key == request.stream_key for each in self._inbox)
        return arrived or self._state.is_awaited(request)

    def _num_waiting_of(self, principal: str) -> int:
        arrived = sum(request.principal == principal for request in self._inbox)
        return arrived + self._state.num_waiting_of(principal)

    def next_event_s(self) -> float:
        """Return when the server next does something without being told, infinite if never."""
        if self._running is not None:
            return self._finish_s
        busy = self._inbox or not self._state.is_empty
        return self._service.awake_s(self.now_s) if busy else math.inf

    def advance(self, until_s: float) -> None:
        """Advance the clock to ``until_s``, past all events before it and runs that end at it."""
        while True:
            if self._running is not None:
                if self._finish_s > until_s:
                    return
                self.now_s = self._finish_s
                self._finish(self._running)
            self._take_in()
            if self.now_s >= until_s:
                return
            if self._state.is_empty:
                if not self._inbox or self._inbox[0].arrival_s > until_s:
                    self.now_s = until_s if until_s < math.inf else self.now_s
                    return
                self.now_s = self._inbox[0].arrival_s
                continue
            awake_s = self._service.awake_s(self.now_s)
            if awake_s > until_s:
                return
            if awake_s > self.now_s:
                self.now_s = awake_s
                continue
            wake_s = self._act()
            if wake_s is not None:
                arrival_s = self._inbox[0].arrival_s if self._inbox else math.inf
                self.now_s = min(wake_s, arrival_s, self._state.next_expiry_s, until_s)
                if self.now_s == math.inf:
                    raise RuntimeError("the policy waits for ever with requests in its hands")

    # -- one turn ---------------------------------------------------------------------------------

    def _take_in(self) -> None:
        arrived = []
        while self._inbox and self._inbox[0].arrival_s <= self.now_s:
            request = self._inbox.popleft()
            arrived.append((request, request.arrival_s))
        if arrived:
            arrivals = self._state.add(arrived)
            for request in arrivals.superseded:
                self._end(SimulatedOutcome(request, self.now_s, 0, None, superseded=True))
            self._conclude(arrivals.concluded)
        self._conclude(self._state.expire(self.now_s))

    def _act(self) -> float | None:
        """Decide and begin to do it; return the instant until which to wait, if any."""
        snapshot = self._state.snapshot(self.now_s)
        decision = self._policy.decide(snapshot, self._latency)
        self.num_decisions += 1
        if self._decided is not None:
            self._decided(snapshot, decision)
        self._state.apply(decision)
        match decision:
            case Run():
                self._running, self._started_s = decision, self.now_s
                self._finish_s = self.now_s + self._service.seconds(
                    decision.segment, len(decision.requests), self.now_s
                )
            case ShedRequests():
                for request in decision.requests:
                    self._end(SimulatedOutcome(request, self.now_s, 0, decision.reason))
            case Conclude():
                self._conclude(decision.requests)
            case Wait():
                return decision.until_s
        return None

    def _finish(self, run: Run) -> None:
        self._running = None
        completion = self._state.complete(run, self.now_s)
        for request in (*completion.staying, *completion.held):
            answer = self._answer(request, run.segment)
            if answer.in_time or request.id not in self._answers:
                self._answers[request.id] = answer
        for request in completion.left:
            self._end(self._answer(request, run.segment))
        self._conclude(completion.too_late)
        self._state.charge(run.requests, self.now_s - self._started_s)
        self._latency.observe(run.segment, len(run.requests), self.now_s - self._started_s)

    # -- bookkeeping ------------------------------------------------------------------------------

    def _answer(self, request: Request, segment: Segment) -> SimulatedOutcome:
        """Return what a request is answered by ``segment``, which has just run."""
        before = self._answers.get(request.id)
        earlier = before.points if before is not None and segment.start == IMAGE else ()
        return SimulatedOutcome(request, self.now_s, segment.stop, None, segment.model, earlier)

    def _conclude(self, requests: Iterable[Request]) -> None:
        """End requests with the answers that they have in hand."""
        for request in requests:
            self._end(SimulatedOutcome(request, self.now_s, 0, None))

    def _end(self, outcome: SimulatedOutcome) -> None:
        """End a request with this outcome, or with an earlier answer if only that was in time."""
        answer = self._answers.pop(outcome.request.id, None)
        if answer is not None and not outcome.in_time:
            outcome = answer
        self._num_open -= 1
        self._ended(outcome)


def simulate(requests: Sequence[Request], server: SimulatedServer) -> None:
    """Simulate ``requests``, which are in order of arrival, until the last has ended."""
    for request in requests:
        server.advance(request.arrival_s)
        server.submit(request)
    server.advance(math.inf)
