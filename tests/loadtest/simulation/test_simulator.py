"""The simulator: the executor that serves, in virtual time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.policies.named import parse_policy
from loadtest.simulation.simulator import (
    Outliers,
    ServiceTimes,
    SimulatedOutcome,
    SimulatedServer,
    Slowdown,
    SlowPeriods,
    Stalls,
    floor_of,
    simulate,
)
from serving.core import segment as segments
from serving.core.errors import ShedReason
from serving.core.ladder import Ladder
from serving.core.latency import LatencyModel
from serving.core.policy import Decision, Merge, Policy, Run, Snapshot, Wait
from serving.core.request import Answered, Request, Shed
from serving.core.scheduling.deadline_policy import DeadlinePolicy
from serving.core.segment import Segment
from tests.properties import examples
from tests.serving.core.scheduling.test_deadline_policy import request_lists
from tests.serving.upgrades import LARGE, LARGE_S, SMALL, SMALL_S, Upgrades, two_sizes
from tests.serving.world import (
    ACCURACY,
    HEAD_S,
    NUM_EXITS,
    OFFERS,
    STACK_S,
    STEM_S,
    Cost,
    FakeClock,
    FakeRunner,
    World,
    batching,
    cost_s,
    exact_profile,
    make_policy,
    unit_s,
)

EXACT = 0.0
"""Jitter of run times that are as profiled."""


def request(id: int, arrival_s: float = 0.0, budget_s: float = 1.0, max_depth: int = 5) -> Request:
    return Request(id, arrival_s, arrival_s + budget_s, 1, max_depth)


@dataclass(frozen=True)
class End:
    """How a request ended."""

    depth: int
    finished_s: float
    reason: ShedReason | None
    model: int = 0


Make = Callable[[FakeRunner], Policy]


Seen = list[tuple[Snapshot, Decision]]


def executed(
    requests: Sequence[Request], runner: FakeRunner, make: Make, max_waiting: int
) -> tuple[dict[int, End], Seen]:
    """By the real executor: how they ended, and all decisions."""
    world = World(runner, max_waiting, make(runner))
    ends = {}
    for id, result in world.play(requests).items():
        match result:
            case Answered():
                ends[id] = End(result.depth, result.finished_s, None, result.model)
            case Shed():
                ends[id] = End(0, result.finished_s, result.reason)
            case other:
                pytest.fail(f"unexpected end {other}")
    return ends, world.decisions


def simulated(
    requests: Sequence[Request], runner: FakeRunner, make: Make, max_waiting: int
) -> tuple[dict[int, End], Seen]:
    """By the simulator, over the profile that ``World`` has."""
    profile = exact_profile(runner.cost, range(1, runner.batch_sizes[-1] + 1), runner.exits)
    outcomes: list[SimulatedOutcome] = []
    decisions: Seen = []
    server = SimulatedServer(
        make(runner),
        LatencyModel(profile),
        ServiceTimes(profile, EXACT, np.random.default_rng(0)),
        outcomes.append,
        max_waiting=max_waiting,
        decided=lambda *seen: decisions.append(seen),
    )
    simulate(requests, server)
    assert len(outcomes) == len({outcome.request.id for outcome in outcomes})
    assert server.num_open == 0
    assert server.num_decisions == len(decisions)
    ends = {o.request.id: End(o.depth, o.finished_s, o.reason, o.model) for o in outcomes}
    return ends, decisions


def check_that_both_do_the_same(
    requests: Sequence[Request], runner: FakeRunner, make: Make, max_waiting: int
) -> Seen:
    """All decisions."""
    ends, decisions = executed(requests, runner, make, max_waiting)
    simulated_ends, simulated_decisions = simulated(requests, runner, make, max_waiting)
    # The simulator may look once more while a policy waits; that must not change what it does.
    acts = [(s, d) for s, d in decisions if not isinstance(d, Wait)]
    assert [(s, d) for s, d in simulated_decisions if not isinstance(d, Wait)] == acts
    assert simulated_ends.keys() == ends.keys()
    for id, end in ends.items():
        other = simulated_ends[id]
        assert replace(other, finished_s=end.finished_s) == end
        assert other.finished_s == pytest.approx(end.finished_s, abs=1e-9)
    return decisions


BATCHES = st.sampled_from([(1,), (1, 4), (1, 2, 4, 8)])
COSTS = st.sampled_from([cost_s, batching(0.8), batching(0.5)])
WAITING = st.sampled_from([2, 5, 64])


@given(
    requests=request_lists(max_size=40),
    offer=st.sampled_from(list(OFFERS.values())),
    cost=COSTS,
    sizes=BATCHES,
    max_waiting=WAITING,
    max_cohorts=st.sampled_from([1, 2, 8]),
)
@examples(200)
def test_it_is_the_executor_under_the_policy_that_serves(
    requests: list[Request],
    offer: dict[str, Any],
    cost: Cost,
    sizes: tuple[int, ...],
    max_waiting: int,
    max_cohorts: int,
) -> None:
    def make(runner: FakeRunner) -> Policy:
        return DeadlinePolicy(runner.segments, ACCURACY, runner.batch_sizes, max_cohorts)

    runner = FakeRunner(FakeClock(), cost, batch_sizes=sizes, **offer)
    check_that_both_do_the_same(requests, runner, make, max_waiting)


@pytest.mark.parametrize("seed", range(12))
def test_it_is_the_executor_where_cohorts_meet(seed: int) -> None:
    """A stream with time for depth, on a device that gains much by batching."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(0.013, 80)).tolist()
    budgets = rng.uniform(1.0, 8.0, 80) * unit_s(1)
    requests = [request(i, at, budgets[i]) for i, at in enumerate(arrivals)]
    runner = FakeRunner(FakeClock(), batching(0.8), batch_sizes=(1, 2, 4, 8), fused=False)
    decisions = check_that_both_do_the_same(requests, runner, make_policy, 64)
    kinds = Counter(type(decision) for _, decision in decisions)
    assert kinds[Merge] > 0
    assert kinds[Run] > 0
    assert any(snapshot.demand.rate_hz > 0 for snapshot, _ in decisions)


class MergesFirstAndThird:
    """Three cohorts, of which the second stays alone."""

    def decide(self, snapshot: Snapshot, latency: object) -> Decision:
        if snapshot.waiting:
            return Run(segments.STEM, snapshot.waiting[:1], None)
        if len(snapshot.cohorts) == 3:
            first, _, third = snapshot.cohorts
            return Merge((first.id, third.id))
        cohort = snapshot.cohorts[0]
        segment = segments.head(1) if cohort.depth else segments.stack(1)
        return Run(segment, cohort.requests, cohort.id)


def test_cohorts_are_in_the_executors_order() -> None:
    requests = [request(i) for i in range(3)]
    decisions = check_that_both_do_the_same(
        requests, FakeRunner(FakeClock()), lambda runner: MergesFirstAndThird(), 64
    )
    assert sum(isinstance(decision, Merge) for _, decision in decisions) == 1


@given(requests=request_lists(max_size=30), max_waiting=WAITING, sizes=BATCHES)
@examples(50)
def test_it_is_the_executor_of_several_models(
    requests: list[Request], max_waiting: int, sizes: tuple[int, ...]
) -> None:
    def make(runner: FakeRunner) -> Policy:
        others = [(0.6, 0.66, 0.7)]
        return DeadlinePolicy(runner.segments, ACCURACY, runner.batch_sizes, 4, others)

    def cost(segment: Segment, batch: int) -> float:
        return cost_s(segment, batch) * (1 + segment.model)

    runner = FakeRunner(FakeClock(), cost, batch_sizes=sizes, exits=(NUM_EXITS, 3))
    check_that_both_do_the_same(requests, runner, make, max_waiting)


@given(
    requests=request_lists(max_size=30, streaming=False),
    name=st.sampled_from(["fixed:1", "fixed:max", "nexus:2", "aimd:3", "accscale", "slackfit"]),
    cost=COSTS,
    sizes=BATCHES,
    max_waiting=WAITING,
)
@examples(150)
def test_it_is_the_executor_under_baselines(
    requests: list[Request], name: str, cost: Cost, sizes: tuple[int, ...], max_waiting: int
) -> None:
    def make(runner: FakeRunner) -> Policy:
        return parse_policy(name)(runner.segments, Ladder.of_exits(ACCURACY), runner.batch_sizes, 8)

    check_that_both_do_the_same(
        requests, FakeRunner(FakeClock(), cost, batch_sizes=sizes), make, max_waiting
    )


@given(
    requests=request_lists(max_size=30, streaming=False),
    name=st.sampled_from(
        ["fixed:96x96/3", "nexus:64x64/2", "accscale", "slackfit", "alert-staged", "edgeserving"]
    ),
    max_waiting=WAITING,
    sizes=BATCHES,
)
@examples(60)
def test_it_is_the_executor_under_baselines_of_several_sizes(
    requests: list[Request], name: str, max_waiting: int, sizes: tuple[int, ...]
) -> None:
    ladder = Ladder(("64x64", "96x96"), (ACCURACY, (0.6, 0.66, 0.7)))

    def make(runner: FakeRunner) -> Policy:
        return parse_policy(name)(runner.segments, ladder, runner.batch_sizes, 8)

    def cost(segment: Segment, batch: int) -> float:
        return cost_s(segment, batch) * (1 + segment.model)

    runner = FakeRunner(FakeClock(), cost, batch_sizes=sizes, exits=(NUM_EXITS, 3))
    check_that_both_do_the_same(requests, runner, make, max_waiting)


@given(requests=request_lists(max_size=20))
@examples(50)
def test_it_is_the_executor_under_a_baseline_in_stages(requests: list[Request]) -> None:
    def make(runner: FakeRunner) -> Policy:
        return parse_policy("alert-staged")(
            runner.segments, Ladder.of_exits(ACCURACY), runner.batch_sizes, 8
        )

    check_that_both_do_the_same(requests, FakeRunner(FakeClock()), make, 64)


@given(
    requests=request_lists(max_size=20),
    deepest=st.integers(1, 3),
    max_waiting=WAITING,
)
@examples(50)
def test_it_is_the_executor_with_answers_in_hand(
    requests: list[Request], deepest: int, max_waiting: int
) -> None:
    decisions = check_that_both_do_the_same(
        requests, two_sizes(), lambda runner: Upgrades(deepest), max_waiting
    )
    assert any(isinstance(d, Run) and d.hold for _, d in decisions)


# ---- run times ----------------------------------------------------------------------------------


def times(jitter: float = EXACT, seed: int = 0, **how: Any) -> ServiceTimes:
    return ServiceTimes(exact_profile(), jitter, np.random.default_rng(seed), **how)


@pytest.mark.parametrize("jitter", [0.0, 0.05, 0.5])
def test_run_times_have_the_profiled_median_and_never_less_than_the_floor(jitter: float) -> None:
    service = times(jitter)
    seconds = [service.seconds(segments.STEM, 1, 0.0) for _ in range(10_001)]
    assert service.floor == floor_of(jitter) == 1 / (1 + jitter * math.log(2))
    assert np.median(seconds) == pytest.approx(STEM_S, rel=0.02)
    assert min(seconds) >= service.floor * STEM_S * (1 - 1e-12)
    assert min(seconds) == pytest.approx(service.floor * STEM_S, rel=0.001)
    nineties = STEM_S * service.floor * (1 + jitter * math.log(10))
    assert np.quantile(seconds, 0.9) == pytest.approx(nineties, rel=0.02)


def test_run_times_follow_from_the_seed() -> None:
    draws = [
        [service.seconds(segments.stack(1), 1, 0.0) for _ in range(10)]
        for service in (times(0.3, 1), times(0.3, 1), times(0.3, 2))
    ]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


@pytest.mark.parametrize(("batch", "padded"), [(1, 1), (2, 4), (3, 4), (4, 4), (5, 8), (8, 8)])
def test_a_batch_takes_as_long_as_the_next_larger_profiled_one(batch: int, padded: int) -> None:
    service = ServiceTimes(exact_profile(sizes=(8, 1, 4)), EXACT, np.random.default_rng(0))
    for _ in range(2):
        assert service.seconds(segments.head(2), batch, 0.0) == cost_s(segments.head(2), padded)


@pytest.mark.parametrize(
    ("segment", "batch"), [(segments.STEM, 5), (segments.head(NUM_EXITS + 1), 1)]
)
def test_what_was_not_profiled_is_an_error_that_names_it(segment: Segment, batch: int) -> None:
    with pytest.raises(ValueError, match=f"no batch of {batch} for {segment.name}"):
        times().seconds(segment, batch, 0.0)


@pytest.mark.parametrize(
    ("now_s", "factor"), [(0.0, 1), (0.999, 1), (1.0, 3), (1.5, 6), (1.999, 6), (2.0, 2), (3.0, 1)]
)
def test_a_slowdown_is_of_runs_that_start_in_it(now_s: float, factor: float) -> None:
    service = times(slowdowns=(Slowdown(1.0, 1.0, 3.0), Slowdown(1.5, 1.0, 2.0)))
    assert service.seconds(segments.STEM, 1, now_s) == pytest.approx(factor * STEM_S)


def test_stalls_lengthen_the_runs_that_they_fall_into() -> None:
    """A Poisson process of instants: as many as the time that runs took is long."""
    service = times(stalls=Stalls(every_s=0.1, length_s=0.05))
    now_s = stalled = 0.0
    num_runs = 20_000
    for _ in range(num_runs):
        seconds = service.seconds(segments.STEM, 1, now_s)
        extra = (seconds - STEM_S) / 0.05
        assert extra == pytest.approx(round(extra), abs=1e-9), "whole stalls only"
        stalled += extra
        now_s += seconds
    # While it stands still, further instants add further stalls.
    assert stalled == pytest.approx(now_s / 0.1, rel=0.02)


def test_whoever_starts_while_the_machine_stands_still_waits_for_it() -> None:
    """Runs of 4 ms, a second apart, on a machine that stands still for a tenth of the time."""
    service = times(seed=1, stalls=Stalls(every_s=0.1, length_s=0.01))
    seconds = [service.seconds(segments.STEM, 1, float(i)) for i in range(5000)]
    met = float(np.mean([s > STEM_S + 1e-9 for s in seconds]))
    assert met == pytest.approx(1 - 0.9 * math.exp(-0.04), rel=0.15)


def test_the_machine_is_the_same_whatever_runs_on_it() -> None:
    """Its stalls and slow periods come at the same instants, however many runs there are."""

    def seconds(runs_between: int) -> list[float]:
        slow = SlowPeriods(2.0, 1.0, 5.0)
        service, found = times(stalls=Stalls(0.1, 0.01), slow_periods=slow), []
        for i in range(200):
            found.append(service.seconds(segments.STEM, 1, float(i)))
            for k in range(runs_between):
                service.seconds(segments.STEM, 1, i + 0.1 * (k + 1))
        return found

    assert seconds(0) == seconds(5)
    assert len(set(seconds(0))) > 2


class Stalling(ServiceTimes):
    """Exact times on a machine that stands still for half a second from 1 s on."""

    def __init__(self) -> None:
        super().__init__(exact_profile(), EXACT, np.random.default_rng(0))

    def awake_s(self, now_s: float) -> float:
        return 1.5 if 1.0 <= now_s < 1.5 else now_s


def test_nothing_is_decided_while_the_machine_stands_still() -> None:
    """Who comes first then is less urgent than who comes later, and goes after it."""
    profile, outcomes, seen_s = exact_profile(), list[SimulatedOutcome](), list[float]()
    server = SimulatedServer(
        make_policy(FakeRunner(FakeClock())),
        LatencyModel(profile),
        Stalling(),
        outcomes.append,
        decided=lambda snapshot, _: seen_s.append(snapshot.now_s),
    )
    for asked in (request(0, 1.1, budget_s=2.0), request(1, 1.2, budget_s=0.5)):
        server.advance(asked.arrival_s)
        server.submit(asked)
    assert server.next_event_s() == 1.5
    server.advance(1.4)
    assert seen_s == []
    server.advance(math.inf)
    assert min(seen_s) == 1.5
    assert [outcome.request.id for outcome in outcomes] == [1, 0]


def test_slow_periods_come_at_random_and_are_as_long_as_they_say() -> None:
    """A third of the time, in periods of a second on average."""
    service = times(slow_periods=SlowPeriods(every_s=2.0, length_s=1.0, factor=5.0))
    runs = [service.seconds(segments.STEM, 1, i * 0.01) / STEM_S for i in range(300_000)]
    slow = [ratio > 2 for ratio in runs]
    assert {round(ratio, 9) for ratio in runs} == {1.0, 5.0}
    assert np.mean(slow) == pytest.approx(1 / 3, rel=0.1)
    num_periods = sum(now and not before for before, now in pairwise(slow))
    assert num_periods == pytest.approx(3000 / 3.0, rel=0.1)


def test_outliers_are_a_share_of_all_runs() -> None:
    service = times(outliers=Outliers(0.1, 20.0))
    runs = [service.seconds(segments.STEM, 1, 0.0) / STEM_S for _ in range(10_000)]
    assert {round(ratio, 9) for ratio in runs} == {1.0, 20.0}
    assert np.mean([ratio > 2 for ratio in runs]) == pytest.approx(0.1, rel=0.1)


# ---- one server ---------------------------------------------------------------------------------


def server_of(
    policy: Policy | None = None, **how: Any
) -> tuple[SimulatedServer, list[SimulatedOutcome]]:
    outcomes: list[SimulatedOutcome] = []
    policy = policy or make_policy(FakeRunner(FakeClock(), fused=False))
    return SimulatedServer(
        policy, LatencyModel(exact_profile()), times(), outcomes.append, **how
    ), outcomes


LONE_S = STEM_S + NUM_EXITS * STACK_S + HEAD_S


def test_a_lone_request_takes_what_its_segments_take() -> None:
    server, outcomes = server_of()
    simulate([request(0, 2.0)], server)
    assert [(o.request.id, o.depth, o.reason) for o in outcomes] == [(0, NUM_EXITS, None)]
    assert outcomes[0].finished_s == pytest.approx(2.0 + LONE_S)
    assert outcomes[0].in_time
    assert server.num_decisions == 2 + NUM_EXITS


@pytest.mark.parametrize(
    ("depth", "finished_s", "in_time"),
    [(1, 0.9, True), (1, 1.0 + 1e-10, True), (1, 1.0 + 1e-8, False), (0, 0.9, False)],
)
def test_in_time_is_answered_by_the_deadline(depth: int, finished_s: float, in_time: bool) -> None:
    outcome = SimulatedOutcome(request(0), finished_s, depth, None)
    assert outcome.in_time == in_time
    assert outcome.points == (((0, depth),) if depth else ())


def test_the_queue_is_bounded() -> None:
    server, outcomes = server_of(max_waiting=3)
    for id in range(5):
        server.submit(request(id, 1.0))
    assert [(o.request.id, o.depth, o.finished_s, o.reason) for o in outcomes] == [
        (id, 0, 1.0, ShedReason.REJECTED_SATURATED) for id in (3, 4)
    ]
    assert server.num_open == 3
    server.advance(math.inf)
    assert Counter(o.request.id for o in outcomes) == Counter(range(5))
    assert server.num_open == 0


def test_who_is_in_the_first_run_still_takes_up_room_in_the_queue() -> None:
    server, outcomes = server_of(max_waiting=1)
    server.submit(request(0, 0.0))
    server.advance(STEM_S / 2)
    server.submit(request(1, STEM_S / 2))
    server.advance(STEM_S)
    server.submit(request(2, STEM_S))
    server.advance(math.inf)
    assert [o.request.id for o in outcomes if o.depth == 0] == [1]


def test_what_happens_does_not_depend_on_how_often_it_is_looked_at() -> None:
    rng = np.random.default_rng(3)
    arrivals = np.cumsum(rng.exponential(0.012, 60)).tolist()
    requests = [request(i, at, rng.uniform(0.02, 0.1)) for i, at in enumerate(arrivals)]
    seldom, expected = server_of()
    simulate(requests, seldom)
    often, outcomes = server_of()
    before_s = 0.0
    for r in requests:
        for instant_s in np.arange(before_s, r.arrival_s, 0.0011).tolist():
            often.advance(instant_s)
        often.advance(r.arrival_s)
        often.submit(r)
        before_s = r.arrival_s
    often.advance(math.inf)
    assert outcomes == expected


def test_how_many_are_open_at_an_instant() -> None:
    server, _ = server_of()
    server.submit(request(0, 0.0))
    server.submit(request(1, LONE_S, budget_s=0.005))  # too little for anything
    seen = []
    for instant_s in (0.0, LONE_S - 1e-6, LONE_S + 1e-6, 1.0):
        server.advance(instant_s)
        seen.append(server.num_open)
    assert seen == [2, 2, 0, 0]


def test_when_something_happens_next() -> None:
    server, _ = server_of()
    assert server.next_event_s() == math.inf
    server.advance(1.0)
    assert (server.now_s, server.next_event_s()) == (1.0, math.inf)
    server.submit(request(0, 1.0))
    assert server.next_event_s() == 1.0, "it is yet to be decided about"
    server.advance(1.0 + STEM_S / 2)
    assert server.next_event_s() == pytest.approx(1.0 + STEM_S), "the end of the run"
    server.advance(math.inf)
    assert server.next_event_s() == math.inf
    assert server.now_s == pytest.approx(1.0 + LONE_S)


class Patient:
    """Exit 1 for whoever waits, at an instant or when there are three."""

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s
        self.looked_at: list[float] = []

    def decide(self, snapshot: Snapshot, latency: object) -> Decision:
        self.looked_at.append(snapshot.now_s)
        if snapshot.now_s < self.until_s and len(snapshot.waiting) < 3:
            return Wait(self.until_s)
        return Run(segments.fused_exit(1), snapshot.waiting, None)


def test_a_policy_may_wait_until_an_instant() -> None:
    policy = Patient(0.5)
    server, outcomes = server_of(policy)
    simulate([request(0, 0.1), request(1, 0.2)], server)
    run_s = cost_s(segments.fused_exit(1), 2)
    assert [o.finished_s for o in outcomes] == pytest.approx([0.5 + run_s] * 2)


@pytest.mark.parametrize("ahead", [False, True])
def test_an_arrival_ends_the_waiting(ahead: bool) -> None:
    """Also where all are known beforehand."""
    policy = Patient(0.5)
    server, outcomes = server_of(policy)
    requests = [request(i, 0.1 * (i + 1)) for i in range(3)]
    if ahead:
        for r in requests:
            server.submit(r)
        server.advance(math.inf)
    else:
        simulate(requests, server)
    run_s = cost_s(segments.fused_exit(1), 3)
    assert [o.finished_s for o in outcomes] == pytest.approx([0.3 + run_s] * 3)
    if ahead:
        assert policy.looked_at == pytest.approx([0.1, 0.2, 0.3])


def test_a_policy_that_waits_for_ever_is_an_error() -> None:
    server, _ = server_of(Patient(math.inf))
    server.submit(request(0))
    server.advance(1.0)
    assert server.num_open == 1, "somebody may still arrive"
    with pytest.raises(RuntimeError, match="waits for ever"):
        server.advance(math.inf)


@pytest.mark.parametrize("late", range(2, NUM_EXITS + 1))
def test_a_growing_request_ends_with_its_deepest_answer_in_time(late: int) -> None:
    """It is answered at every exit, of which one turns out late, which nobody could foresee."""
    asked = replace(request(0, budget_s=0.1), streaming=True)
    server, outcomes = server_of()
    late_s = unit_s(late) + (late - 1) * HEAD_S
    slow = Slowdown(late_s - HEAD_S - 1e-6, 1.0, 50.0)
    server = SimulatedServer(
        make_policy(FakeRunner(FakeClock())),
        LatencyModel(exact_profile()),
        times(slowdowns=(slow,)),
        outcomes.append,
    )
    simulate([asked], server)
    assert [(o.depth, o.in_time) for o in outcomes] == [(late - 1, True)]


def test_the_latency_model_learns_from_what_runs_took() -> None:
    latency = LatencyModel(exact_profile())
    server = SimulatedServer(
        make_policy(FakeRunner(FakeClock())),
        latency,
        times(slowdowns=(Slowdown(0.0, 1e9, 3.0),)),
        lambda outcome: None,
    )
    simulate([request(i, float(i)) for i in range(10)], server)
    assert latency.slowdown == pytest.approx(3.0)
    assert latency.typical(segments.STEM, 1) == pytest.approx(3 * STEM_S)


# ---- an answer in hand --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget_s", "points", "finished_s"),
    [
        (1.0, (SMALL, LARGE), SMALL_S + LARGE_S),
        (SMALL_S + LARGE_S - 1e-6, (SMALL,), SMALL_S),  # the larger size comes too late
    ],
)
def test_an_outcome_says_which_points_it_was_answered_at(
    budget_s: float, points: tuple[tuple[int, int], ...], finished_s: float
) -> None:
    runner = two_sizes()
    outcomes: list[SimulatedOutcome] = []
    profile = exact_profile(runner.cost, exits=runner.exits)
    service = ServiceTimes(profile, EXACT, np.random.default_rng(0))
    server = SimulatedServer(Upgrades(), LatencyModel(profile), service, outcomes.append)
    simulate([request(0, 0.0, budget_s)], server)
    ((o),) = outcomes
    assert (o.points, o.in_time) == (points, True)
    assert o.finished_s == pytest.approx(finished_s)


def test_a_stall_leaves_the_answer_in_hand() -> None:
    """The run of the larger size stands still until long after the deadline."""
    runner = two_sizes()
    outcomes: list[SimulatedOutcome] = []
    profile = exact_profile(runner.cost, exits=runner.exits)
    slow = Slowdown(SMALL_S / 2, 1.0, 100.0)
    service = ServiceTimes(profile, EXACT, np.random.default_rng(0), (slow,))
    server = SimulatedServer(Upgrades(), LatencyModel(profile), service, outcomes.append)
    simulate([request(0, 0.0, 0.2), request(1, 0.1, 0.2)], server)
    assert [(o.request.id, o.model, o.depth, o.in_time) for o in outcomes] == [
        (0, *SMALL, True),
        (1, *SMALL, False),
    ]


def test_who_is_held_while_nothing_happens_ends_at_its_deadline() -> None:
    class Waits(Upgrades):
        def decide(self, snapshot: Snapshot, latency: object) -> Decision:
            return super().decide(snapshot, latency) if snapshot.waiting else Wait()

    runner = two_sizes()
    outcomes: list[SimulatedOutcome] = []
    profile = exact_profile(runner.cost, exits=runner.exits)
    service = ServiceTimes(profile, EXACT, np.random.default_rng(0))
    server = SimulatedServer(Waits(), LatencyModel(profile), service, outcomes.append)
    simulate([request(0, 0.0, 0.2), request(1, 0.1, 0.2)], server)
    assert [(o.request.id, o.model, o.depth, o.in_time) for o in outcomes] == [
        (0, *SMALL, True),
        (1, *SMALL, True),
    ]
    assert server.now_s == pytest.approx(0.3)
