"""A fleet that is scaled by one signal or another, in virtual time.

    requests --> balancer --> servers, each with the policy that serves
                                 |  every 15 s: what they export
                                 v
                              scaler: how many there should be; new ones are ready 30 s later

A scaler computes as a HorizontalPodAutoscaler of ``autoscaling/v2`` does, under the behaviour that
is in ``k8s/components``. Signals are what servers export, over the windows that are usual there.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.policies.named import deadline
from loadtest.simulation.fleet import PowerOfTwo
from loadtest.simulation.profiles import ModelProfile
from loadtest.simulation.simulator import ServiceTimes, SimulatedOutcome, SimulatedServer
from loadtest.workload.arrivals import parse_arrivals
from loadtest.workload.budgets import parse_budgets
from serving.core.latency import LatencyModel
from serving.core.request import Request

SYNC_S = 15.0
"""Seconds between two looks at the signal, as of KEDA and of the autoscaler."""
STARTUP_S = 30.0
"""Seconds from the wish for a pod until it is ready."""
WINDOW_SYNCS = 4
"""Number of looks over which rates and quantiles are taken: the last minute."""
TOLERANCE = 0.1
"""Largest relative deviation from the target that changes nothing; the autoscaler's default."""
MIN_SERVERS = 2
MAX_SERVERS = 20
UP_SHARE = 1.0
UP_PODS = 4
DOWN_WINDOW_S = 300.0
DOWN_SHARE = 0.1
DOWN_PERIOD_S = 60.0
MAX_COHORTS = 4
JITTER = 0.03


@dataclass(frozen=True, slots=True)
class FleetSample:
    """The state of a fleet at one look at it.

    All but ``servers`` and ``waiting`` is counted over the time since the look before.
    """

    time_s: float
    servers: int
    waiting: float
    """Mean number of requests per server that no segment has run for."""
    arrived: int
    latencies_s: tuple[float, ...]
    """Latencies in seconds of the requests that were answered."""
    in_time: int
    sum_ap: float
    """Sum of the AP of the answers in time."""
    shed: int


@dataclass(frozen=True, slots=True)
class Signals:
    """The signals that a scaler sees, computed from the last samples."""

    servers: int
    p99_s: float
    """The 99th percentile of the latency of answered requests in seconds; 0 if there are none."""
    waiting: float
    demand: float
    """Number of engines that full depth would keep busy, one request at a time: the demand."""
    shed: float
    """Share of all requests that was shed."""

    @classmethod
    def of(cls, samples: Sequence[FleetSample], full_depth_s: float) -> Signals:
        """Compute the signals from ``samples``, oldest first, which are ``SYNC_S`` apart."""
        latencies = [seconds for sample in samples for seconds in sample.latencies_s]
        arrived = sum(sample.arrived for sample in samples)
        return cls(
            servers=samples[-1].servers,
            p99_s=float(np.quantile(latencies, 0.99)) if latencies else 0.0,
            waiting=sum(sample.waiting for sample in samples) / len(samples),
            # As punctual_full_depth_demand_ratio, over the last 15 s.
            demand=samples[-1].arrived / SYNC_S * full_depth_s,
            shed=sum(sample.shed for sample in samples) / max(1, arrived),
        )


ScalingRule = Callable[[Signals], float]
"""A scaling rule: signals -> number of servers, before rounding, tolerance and bounds."""

MAX_SHED = 0.01


def demand_and_shed(target: float) -> ScalingRule:
    """Return the scaling rule that ships: by full-depth demand, and by what is shed.

    Full depth is to keep each server busy for ``target`` of its time; and where more than
    ``MAX_SHED`` is shed, there are to be servers enough for those requests as well.
    """

    def wanted(signals: Signals) -> float:
        for_shed = signals.servers / max(0.1, 1.0 - signals.shed)
        return max(signals.demand / target, for_shed if signals.shed > MAX_SHED else 0.0)

    return wanted


def latency(target_s: float) -> ScalingRule:
    """Return the rule that scales in proportion to the 99th percentile of latency."""
    return lambda signals: signals.servers * signals.p99_s / target_s


def queue(target: float) -> ScalingRule:
    """Return the rule that scales in proportion to the requests that wait at a server."""
    return lambda signals: signals.servers * signals.waiting / target


class Autoscaler:
    """An autoscaler that decides as a HorizontalPodAutoscaler with one metric does."""

    def __init__(self, wanted: ScalingRule) -> None:
        self._wanted = wanted
        self._proposals: deque[tuple[float, int]] = deque()
        self._removed: deque[tuple[float, int]] = deque()

    def decide(self, now_s: float, current: int, signals: Signals) -> int:
        """Return how many servers there are to be, of which ``current`` are or will be there."""
        wanted = self._wanted(signals)
        near = abs(wanted / current - 1.0) <= TOLERANCE
        proposal = current if near else math.ceil(wanted)
        proposal = min(MAX_SERVERS, max(MIN_SERVERS, proposal))
        self._proposals.append((now_s, proposal))
        while self._proposals[0][0] <= now_s - DOWN_WINDOW_S:
            self._proposals.popleft()
        if proposal > current:
            return min(proposal, current + max(UP_PODS, int(current * UP_SHARE)))
        return self._down(now_s, current, max(proposal for _, proposal in self._proposals))

    def _down(self, now_s: float, current: int, proposal: int) -> int:
        while self._removed and self._removed[0][0] <= now_s - DOWN_PERIOD_S:
            self._removed.popleft()
        before = current + sum(count for _, count in self._removed)
        decided = min(current, max(proposal, int(before * (1.0 - DOWN_SHARE))))
        if decided < current:
            self._removed.append((now_s, current - decided))
        return decided


@dataclass(frozen=True, slots=True)
class Flood:
    """Poisson arrivals with an overload in the middle.

    There are ``demand`` engines' worth of full depth and, for ``length_s`` from ``start_s`` on,
    ``factor`` times as many.
    """

    demand: float
    duration_s: float
    start_s: float
    length_s: float
    factor: float

    def requests(
        self, profile: ModelProfile, budgets: str, rng: np.random.Generator
    ) -> list[Request]:
        """Draw the requests, in order of arrival. Raises ValueError."""
        shape = parse_arrivals(f"burst:{self.start_s}:{self.length_s}:{self.factor}")
        rate_hz = self.demand / profile.full_depth_s
        arrivals_s = shape.offsets_s(rate_hz, self.duration_s, rng)
        budgets_s = parse_budgets(budgets).sample_s(len(arrivals_s), profile.full_depth_s, rng)
        depth = profile.ladder.num_exits
        pairs = zip(arrivals_s.tolist(), budgets_s.tolist(), strict=True)
        return [
            Request(id, arrival_s, arrival_s + budget_s, 1, depth)
            for id, (arrival_s, budget_s) in enumerate(pairs)
        ]


def simulate(
    profile: ModelProfile,
    requests: Sequence[Request],
    duration_s: float,
    num_servers: int,
    autoscaler: Autoscaler | None,
    rng: np.random.Generator,
) -> list[FleetSample]:
    """Simulate ``requests``, in order of arrival, at a fleet, and return a sample every ``SYNC_S``.

    The fleet begins with ``num_servers`` and is scaled by ``autoscaler``; None: not at all.
    """
    outcomes: list[SimulatedOutcome] = []
    service_rng, balancer_rng = rng.spawn(2)

    def start(now_s: float) -> SimulatedServer:
        server = SimulatedServer(
            deadline(profile.segments, profile.ladder, profile.batch_sizes, MAX_COHORTS),
            LatencyModel(profile.latency),
            ServiceTimes(profile.latency, JITTER, service_rng.spawn(1)[0]),
            outcomes.append,
        )
        server.advance(now_s)
        return server

    active = [start(0.0) for _ in range(num_servers)]
    leaving: list[SimulatedServer] = []
    starting: deque[float] = deque()  # when each will be ready
    balancer = PowerOfTwo(active, balancer_rng)
    samples: list[FleetSample] = []
    arrivals = deque(requests)
    for sync in range(1, int(duration_s / SYNC_S) + 1):
        now_s = sync * SYNC_S
        arrived = 0
        while arrivals and arrivals[0].arrival_s < now_s:
            request = arrivals.popleft()
            while starting and starting[0] <= request.arrival_s:
                active.append(start(starting.popleft()))
            active[balancer.choose(request.arrival_s)].submit(request)
            arrived += 1
        for server in (*active, *leaving):
            server.advance(now_s)
        samples.append(_sample(profile, now_s, active, arrived, outcomes))
        outcomes.clear()
        if autoscaler is None:
            continue
        signals = Signals.of(samples[-WINDOW_SYNCS:], profile.full_depth_s)
        current = len(active) + len(starting)
        decided = autoscaler.decide(now_s, current, signals)
        starting.extend([now_s + STARTUP_S] * (decided - current))
        for _ in range(current - decided):
            if starting:
                starting.pop()
            else:
                leaving.append(active.pop())  # it answers the requests that it has
    return samples


def _sample(
    profile: ModelProfile,
    now_s: float,
    active: Sequence[SimulatedServer],
    arrived: int,
    outcomes: Sequence[SimulatedOutcome],
) -> FleetSample:
    in_time = [outcome for outcome in outcomes if outcome.in_time]
    answered = [outcome for outcome in outcomes if outcome.depth > 0]
    return FleetSample(
        time_s=now_s,
        servers=len(active),
        waiting=sum(server.num_waiting for server in active) / len(active),
        arrived=arrived,
        latencies_s=tuple(o.finished_s - o.request.arrival_s for o in answered),
        in_time=len(in_time),
        sum_ap=sum(profile.ladder.answer_ap(outcome.points) for outcome in in_time),
        shed=sum(outcome.reason is not None for outcome in outcomes),
    )


SHIPPED = "full-depth demand and shed"


def scalers(budget_s: float, target: float) -> Mapping[str, ScalingRule | None]:
    """Return the scaling rules that are compared for requests of budget ``budget_s``, by name.

    They are none at all, the usual signals with the targets that objectives suggest, and the rule
    that ships with its ``target``.
    """
    return {
        "not scaled": None,
        "p99 latency, to stay within the budget": latency(budget_s),
        "waiting requests, 10 a server": queue(10.0),
        SHIPPED: demand_and_shed(target),
    }
