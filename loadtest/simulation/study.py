"""A study by simulation: every policy at every point, under the same arrivals and random numbers.

    point = profile x arrivals x load        a setting in which policies are compared
    run   = point x policy x seed            one simulation, in one process of a pool

All policies of a point and seed see the same requests at the same instants with the same budgets,
and the same random numbers for run times. A load of 1 is as many requests as the executors could
answer at the quickest operating point in full batches without a pause.

``hindsight`` in the place of a policy stands for the best fixed operating point of all, chosen for
each point of the study when all of its runs are known: it stands for as many runs as the profile
has operating points.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

from loadtest.baselines.stability import mean_stability
from loadtest.policies.named import FIXED, parse_policy
from loadtest.simulation.fleet import Fleet
from loadtest.simulation.oracle import operating_costs, upper_bound
from loadtest.simulation.profiles import ModelProfile, load_profile
from loadtest.simulation.simulator import (
    MAX_WAITING,
    Outliers,
    ServiceTimes,
    SimulatedOutcome,
    SimulatedServer,
    Slowdown,
    SlowPeriods,
    Stalls,
    floor_of,
)
from loadtest.workload.arrivals import Arrivals, parse_arrivals
from loadtest.workload.budgets import parse_budgets
from serving.core.command_errors import InvalidArgument
from serving.core.latency import LatencyModel
from serving.core.policy import Decision, Snapshot
from serving.core.request import Request

MAX_COHORTS = 4
"""Largest number of cohorts, as the server's setting of that name is by default."""
MAX_RUNS = 100_000
HINDSIGHT = "hindsight"
"""Name of the best fixed operating point in hindsight, in the place of a policy's."""
NUM_BINS = 120
"""Number of bins of a run's timeline."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions that all runs of a study have in common."""

    budgets: str
    num_requests: int
    """Expected number of requests in a run, whose length follows from the rate."""
    duration_s: float | None = None
    """Seconds of a run's arrivals, in place of ``num_requests``."""
    executors: int = 1
    balancer: str = "round-robin"
    jitter: float = 0.03
    slowdowns: tuple[Slowdown, ...] = ()
    stalls: Stalls | None = None
    slow_periods: SlowPeriods | None = None
    outliers: Outliers | None = None
    max_waiting: int = MAX_WAITING
    max_cohorts: int = MAX_COHORTS
    with_oracle: bool = True
    """Whether the bound that no schedule can exceed is computed for each run."""


@dataclass(frozen=True, slots=True)
class Point:
    """One setting in which policies are compared.

    ``profile`` and ``arrivals`` are as ``load_profile`` and ``parse_arrivals`` take them.
    """

    profile: str
    arrivals: str
    load: float

    def rate_hz(self, conditions: Conditions) -> float:
        """Return the mean rate of arrivals at all executors together."""
        return self.load * _profile(self.profile).capacity_hz * conditions.executors

    def duration_s(self, conditions: Conditions) -> float:
        """Return the seconds of the arrivals of one run."""
        return conditions.duration_s or conditions.num_requests / self.rate_hz(conditions)


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run in bins of equal length, by instant of arrival: ``NUM_BINS`` in a simulation."""

    arrived: tuple[int, ...]
    in_time: tuple[int, ...]
    depths: tuple[int, ...]
    """Sum of the exit depths of the answers in time, in each bin."""

    @classmethod
    def total(cls, timelines: Sequence[Timeline]) -> Timeline:
        """Add up some timelines of the same length."""
        columns = ([getattr(line, each.name) for line in timelines] for each in fields(cls))
        return cls(*(tuple(map(sum, zip(*column, strict=True))) for column in columns))


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of one simulation."""

    point: Point
    policy: str
    seed: int
    num_requests: int
    num_in_time: int
    num_late: int
    shed: dict[str, int]
    """Reason -> number of requests shed."""
    points: dict[str, int]
    """Operating point, or several joined by +, -> number of requests answered in time at it."""
    sum_ap: float
    """Sum of the AP of the answers in time."""
    duration_s: float
    bound_ap: float | None
    """Value that ``sum_ap`` cannot exceed, whatever the schedule; the same for all policies. None
    if it was not asked for."""
    stability: float
    """EdgeServing's stability score of all who are in a server, as a mean over time."""
    num_decisions: int
    cpu_s: float
    timeline: Timeline | None

    @property
    def attainment(self) -> float:
        """Return the share of all requests that was answered in time."""
        return self.num_in_time / max(1, self.num_requests)

    @property
    def mean_ap(self) -> float:
        """Return the mean AP of the answers in time; 0 if there are none."""
        return self.sum_ap / max(1, self.num_in_time)

    @property
    def in_time_accuracy(self) -> float:
        """Return the AP summed over the answers in time, over the number of all requests."""
        return self.sum_ap / max(1, self.num_requests)

    @property
    def goodput_hz(self) -> float:
        """Return the number of answers in time per second."""
        return self.num_in_time / self.duration_s

    @property
    def share_of_oracle(self) -> float | None:
        """Return ``sum_ap`` as a share of what no schedule can exceed, if that is known."""
        return self.sum_ap / self.bound_ap if self.bound_ap else None


def draw_requests(point: Point, conditions: Conditions, seed: int) -> list[Request]:
    """Draw the requests of one run, in order of arrival: the same for every policy."""
    arrivals_rng, budgets_rng = _generators(seed)[:2]
    profile = _profile(point.profile)
    offsets = _arrivals(point.arrivals).offsets_s(
        point.rate_hz(conditions), point.duration_s(conditions), arrivals_rng
    )
    budgets = parse_budgets(conditions.budgets).sample_s(
        len(offsets), profile.full_depth_s, budgets_rng
    )
    depth = profile.ladder.num_exits
    return [
        Request(id, arrival_s, arrival_s + budget_s, 1, depth)
        for id, (arrival_s, budget_s) in enumerate(
            zip(offsets.tolist(), budgets.tolist(), strict=True)
        )
    ]


def run_policy(
    point: Point,
    policy: str,
    conditions: Conditions,
    seed: int,
    decided: Callable[[Snapshot, Decision], None] | None = None,
) -> RunResult:
    """Simulate one run; ``decided`` is told of each decision.

    Raises RuntimeError if a request was lost.
    """
    profile, factory = _profile(point.profile), parse_policy(policy)
    requests = draw_requests(point, conditions, seed)
    outcomes: list[SimulatedOutcome] = []
    _, _, balancer_rng, service_rng = _generators(seed)
    service_rngs = service_rng.spawn(conditions.executors)

    def make_server(number: int, ended: Callable[[SimulatedOutcome], None]) -> SimulatedServer:
        service = ServiceTimes(
            profile.latency,
            conditions.jitter,
            service_rngs[number],
            conditions.slowdowns,
            conditions.stalls,
            conditions.slow_periods,
            conditions.outliers,
        )
        return SimulatedServer(
            factory(profile.segments, profile.ladder, profile.batch_sizes, conditions.max_cohorts),
            LatencyModel(profile.latency),
            service,
            ended,
            max_waiting=conditions.max_waiting,
            decided=decided,
        )

    fleet = Fleet(
        conditions.executors, conditions.balancer, make_server, outcomes.append, balancer_rng
    )
    started_s = time.process_time()
    fleet.simulate(requests)
    cpu_s = time.process_time() - started_s
    if len(outcomes) != len(requests) or len({o.request.id for o in outcomes}) != len(requests):
        raise RuntimeError(f"{len(requests)} requests, but {len(outcomes)} outcomes")
    return _measure(point, policy, conditions, seed, outcomes, fleet.num_decisions, cpu_s)


def _measure(
    point: Point,
    policy: str,
    conditions: Conditions,
    seed: int,
    outcomes: Sequence[SimulatedOutcome],
    num_decisions: int,
    cpu_s: float,
) -> RunResult:
    ladder = _profile(point.profile).ladder
    answers = [outcome.points for outcome in outcomes if outcome.in_time]
    points = Counter(answers)
    worth = {each: ladder.answer_ap(each) for each in points}
    duration_s = point.duration_s(conditions)
    timeline = None
    if _arrivals(point.arrivals).follows_schedule:
        timeline = _timeline(outcomes, duration_s)
    return RunResult(
        point=point,
        policy=policy,
        seed=seed,
        num_requests=len(outcomes),
        num_in_time=len(answers),
        num_late=sum(outcome.depth > 0 for outcome in outcomes) - len(answers),
        shed=dict(Counter(str(o.reason) for o in outcomes if o.reason is not None)),
        points={ladder.answer_label(each): points[each] for each in sorted(points)},
        sum_ap=sum(worth[each] for each in answers),
        duration_s=duration_s,
        bound_ap=_bound(point, conditions, seed),
        stability=mean_stability(map(_stay_s, outcomes), duration_s),
        num_decisions=num_decisions,
        cpu_s=cpu_s,
        timeline=timeline,
    )


def _stay_s(outcome: SimulatedOutcome) -> tuple[float, float]:
    """Return a request's budget and the seconds from its arrival to its end."""
    arrival_s = outcome.request.arrival_s
    return outcome.request.deadline_s - arrival_s, outcome.finished_s - arrival_s


def _timeline(outcomes: Sequence[SimulatedOutcome], duration_s: float) -> Timeline:
    arrived, in_time, depths = ([0] * NUM_BINS for _ in range(3))
    for outcome in outcomes:
        place = min(NUM_BINS - 1, int(outcome.request.arrival_s / duration_s * NUM_BINS))
        arrived[place] += 1
        if outcome.in_time:
            in_time[place] += 1
            depths[place] += outcome.depth
    return Timeline(tuple(arrived), tuple(in_time), tuple(depths))


@lru_cache(maxsize=64)
def _bound(point: Point, conditions: Conditions, seed: int) -> float | None:
    if not conditions.with_oracle:
        return None
    profile = _profile(point.profile)
    requests = draw_requests(point, conditions, seed)
    costs = operating_costs(
        profile.latency,
        profile.segments,
        profile.ladder,
        profile.batch_sizes,
        floor_of(conditions.jitter),
        conditions.executors,
    )
    arrivals = [request.arrival_s for request in requests]
    return upper_bound(arrivals, [request.deadline_s for request in requests], None, costs)


@lru_cache(maxsize=64)
def _arrivals(name: str) -> Arrivals:
    return parse_arrivals(name)


@lru_cache(maxsize=64)
def _profile(name: str) -> ModelProfile:
    return load_profile(name)


def _generators(seed: int) -> list[np.random.Generator]:
    """Return independent streams of arrivals, budgets, balancer and run times."""
    return np.random.default_rng(seed).spawn(4)


def fixed_policies(profile: str) -> tuple[str, ...]:
    """Return the name of the policy of each operating point, of the profile called ``profile``."""
    ladder = _profile(profile).ladder
    return tuple(f"{FIXED}:{ladder.label(point)}" for point in ladder.points)


def policies_at(point: Point, policies: Sequence[str]) -> tuple[str, ...]:
    """Return the policies that are simulated at a point: fixed ones in the place of hindsight."""
    found: list[str] = []
    for policy in policies:
        found += fixed_policies(point.profile) if policy == HINDSIGHT else (policy,)
    return tuple(dict.fromkeys(found))


# -- many runs ------------------------------------------------------------------------------------


def study(
    points: Sequence[Point],
    policies: Sequence[str],
    conditions: Conditions,
    num_seeds: int,
    jobs: int,
) -> Iterator[RunResult]:
    """Simulate every policy at every point, in ``jobs`` processes, and yield results in no order.

    Seeds are 0 .. ``num_seeds`` - 1. Raises ValueError for more than ``MAX_RUNS``.
    """
    num_runs = num_seeds * sum(len(policies_at(point, policies)) for point in points)
    if num_runs > MAX_RUNS:
        raise InvalidArgument(f"{num_runs:,} simulations are more than {MAX_RUNS:,}")
    tasks = [(point, policies, conditions, seed) for seed in range(num_seeds) for point in points]
    if jobs == 1:
        for task in tasks:
            yield from _run_all(*task)
        return
    # Fresh processes: a fork would take along whatever threads and locks this one has.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = [pool.submit(_run_all, *task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield from future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _run_all(
    point: Point, policies: Sequence[str], conditions: Conditions, seed: int
) -> list[RunResult]:
    """Simulate all policies at one point, so that their bound is found once."""
    return [run_policy(point, policy, conditions, seed) for policy in policies_at(point, policies)]
