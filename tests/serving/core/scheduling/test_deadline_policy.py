"""The policy's invariants, through the real executor in a world whose times are exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.simulation.simulator import (
    ServiceTimes,
    SimulatedOutcome,
    SimulatedServer,
    SlowPeriods,
    Stalls,
    simulate,
)
from serving.core import segment as segments
from serving.core.demand import NUM_BUDGETS, Demand
from serving.core.errors import ShedReason
from serving.core.latency import LatencyModel
from serving.core.policy import Cohort, Decision, Run, ShedRequests, Snapshot, Wait
from serving.core.request import Answered, Request, Shed
from serving.core.scheduling.deadline_policy import IDLE_SHARE, DeadlinePolicy
from tests.properties import examples
from tests.serving.world import (
    ACCURACY,
    HEAD_S,
    NUM_EXITS,
    OFFERS,
    STACK_S,
    FakeClock,
    FakeRunner,
    World,
    cost_s,
    depth_of,
    exact_profile,
    make_policy,
    unit_s,
)


def request(
    id: int, arrival_s=0.0, budget_s=1.0, min_depth=1, max_depth=NUM_EXITS, streaming=False
) -> Request:
    return Request(id, arrival_s, arrival_s + budget_s, min_depth, max_depth, streaming)


@st.composite
def request_lists(draw, max_size=25, streaming=True):
    """Arrivals from sparse to a flood, budgets from hopeless to generous, all depth bounds; with
    ``streaming``, some that grow."""
    gap_s = draw(st.sampled_from([0.0, 0.002, 0.01, 0.05]))
    requests, now_s = [], 0.0
    for id in range(draw(st.integers(1, max_size))):
        now_s += draw(st.floats(0, 2)) * gap_s
        least, most = sorted(draw(st.tuples(*[st.integers(1, NUM_EXITS)] * 2)))
        if draw(st.booleans()):
            least, most = 1, NUM_EXITS
        budget_s = draw(st.floats(0.5, 6)) * unit_s(least)
        streams = streaming and draw(st.booleans())
        requests.append(request(id, now_s, budget_s, least, most, streams))
    return requests


offers = st.sampled_from(list(OFFERS.values()))


@st.composite
def worlds(draw):
    batch_sizes = draw(st.sampled_from([(1,), (1, 4)]))
    return World(FakeRunner(FakeClock(), batch_sizes=batch_sizes, **draw(offers)))


@given(worlds(), request_lists())
@examples(150)
def test_nobody_admitted_is_late_evicted_or_out_of_bounds(world, requests):
    by_id = {r.id: r for r in requests}
    for id, result in world.play(requests).items():
        match result:
            case Answered(depth=depth, finished_s=finished_s):
                assert finished_s <= by_id[id].deadline_s + 1e-9
                assert by_id[id].min_depth <= depth <= by_id[id].max_depth
                assert result.detections.scores[0] == id
            case Shed(reason=reason):
                # With exact predictions a promise is never broken: nothing is evicted.
                assert reason in (ShedReason.REJECTED_OVERLOAD, ShedReason.REJECTED_EXPIRED)
            case other:
                pytest.fail(f"unexpected end {other}")


@given(request_lists(max_size=40), offers, st.sampled_from([(1,), (1, 4)]), st.integers(0, 99))
@examples(150)
def test_nothing_is_run_for_whom_it_is_too_late(requests, offer, sizes, seed):
    """However wrong predictions are: runs are erratic, and the machine stands still at times."""
    runner = FakeRunner(FakeClock(), batch_sizes=sizes, **offer)
    profile = exact_profile(runner.cost, sizes)
    service = ServiceTimes(
        *(profile, 0.5, np.random.default_rng(seed)),
        stalls=Stalls(0.2, 0.03),
        slow_periods=SlowPeriods(0.2, 0.1, 3.0),
    )
    outcomes: list[SimulatedOutcome] = []
    decisions: list[tuple[Snapshot, Decision]] = []
    server = SimulatedServer(
        make_policy(runner),
        LatencyModel(profile),
        service,
        outcomes.append,
        decided=lambda *both: decisions.append(both),
    )
    simulate(requests, server)
    assert sorted(o.request.id for o in outcomes) == [r.id for r in requests], "each ends once"
    for snapshot, decision in decisions:
        if isinstance(decision, Run):
            late = [r for r in decision.requests if r.deadline_s < snapshot.now_s - 1e-9]
            assert not late


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_alone_a_looser_budget_never_yields_a_shallower_exit(offer, streaming):
    depths = []
    for microseconds in range(1_000, 60_000, 100):
        world = World(FakeRunner(FakeClock(), **offer))
        result = world.play([request(0, budget_s=microseconds / 1e6, streaming=streaming)])[0]
        depths.append(depth_of(result))
    assert depths == sorted(depths)
    assert set(depths) == set(range(NUM_EXITS + 1)), "every exit is the best one for some budget"


@pytest.mark.parametrize("depth", range(1, NUM_EXITS + 1))
@pytest.mark.parametrize("fused", [True, False])
def test_alone_the_deepest_exit_that_fits_is_reached(depth, fused):
    needed_s = cost_s(segments.fused_exit(depth)) if fused else unit_s(depth)
    for budget_s, reached in ((needed_s + 1e-6, depth), (needed_s - 1e-6, depth - 1)):
        world = World(FakeRunner(FakeClock(), fused=fused))
        assert depth_of(world.play([request(0, budget_s=budget_s)])[0]) == reached


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("depth", range(1, NUM_EXITS + 1))
def test_alone_with_fused_segments_only_the_deepest_that_fits_is_reached(depth, streaming):
    needed_s = cost_s(segments.fused_exit(depth))
    for budget_s, reached in ((needed_s + 1e-6, depth), (needed_s - 1e-6, depth - 1)):
        world = World(FakeRunner(FakeClock(), units=False))
        result = world.play([request(0, budget_s=budget_s, streaming=streaming)])[0]
        assert depth_of(result) == reached
        assert len(world.answers[0]) == (reached > 0), "one exit, one answer"


def test_with_fused_segments_only_it_goes_as_deep_as_its_share_of_the_slack_allows():
    policy = make_policy(FakeRunner(FakeClock(), units=False, batch_sizes=(1,)))
    latency = LatencyModel(exact_profile())
    both_s = 2 * cost_s(segments.fused_exit(2)) + 1e-6
    first, behind = request(0, budget_s=both_s), request(1, budget_s=both_s)
    alone = policy.decide(Snapshot(0.0, (first,), ()), latency)
    assert alone == Run(segments.fused_exit(5), (first,), None)
    both = policy.decide(Snapshot(0.0, (first, behind), ()), latency)
    assert both == Run(segments.fused_exit(2), (first,), None)


def test_depth_is_shared_evenly_among_equals():
    world = World()
    ends = world.play([request(i, budget_s=0.060) for i in range(3)])
    depths = sorted(depth_of(end) for end in ends.values())
    assert depths[0] >= 1
    assert depths[-1] - depths[0] <= 1


def test_a_flood_is_answered_in_shallow_fused_batches():
    world = World()
    ends = world.play([request(i, budget_s=0.045) for i in range(12)])
    assert all(depth_of(end) == 1 for end in ends.values() if depth_of(end))
    assert ("exit_1", 4) in world.runner.log


def test_only_the_urgent_rows_of_a_cohort_leave():
    policy = make_policy(FakeRunner(FakeClock()))
    latency = LatencyModel(exact_profile())
    urgent, patient = request(0, budget_s=0.006), request(1, budget_s=0.030)
    cohort = Cohort(7, 2, (patient, urgent))
    decision = policy.decide(Snapshot(0.0, (), (cohort,)), latency)
    assert decision == Run(segments.head(2), (urgent,), 7)


def test_nothing_to_do():
    policy = make_policy(FakeRunner(FakeClock()))
    assert policy.decide(Snapshot(0.0, (), ()), LatencyModel(exact_profile())) == Wait()


def test_hopeless_requests_are_shed_before_any_work():
    policy = make_policy(FakeRunner(FakeClock()))
    late = request(0, budget_s=0.001)
    decision = policy.decide(Snapshot(0.0, (late,), ()), LatencyModel(exact_profile()))
    assert decision == ShedRequests((late,), ShedReason.REJECTED_EXPIRED, 0.0)


@pytest.mark.parametrize("busy_share", [0.0, IDLE_SHARE])
def test_whoever_has_an_idle_engine_for_itself_is_tried_while_there_is_time(busy_share):
    policy, latency = make_policy(FakeRunner(FakeClock())), LatencyModel(exact_profile())
    demand = Demand(20.0, 1.0, (0.001,) * NUM_BUDGETS, busy_share)
    is_tried = busy_share < IDLE_SHARE

    def shed(snapshot: Snapshot) -> tuple[Request, ...]:
        decision = policy.decide(snapshot, latency)
        return decision.requests if isinstance(decision, ShedRequests) else ()

    hopeless, other = request(0, budget_s=0.001), request(1)
    assert shed(Snapshot(0.0, (hopeless,), (), demand=demand)) == (() if is_tried else (hopeless,))
    cohort = Cohort(3, 0, (hopeless,))
    assert shed(Snapshot(0.0, (), (cohort,), demand=demand)) == (() if is_tried else (hopeless,))
    # Not when its deadline has passed, nor with somebody else there.
    assert shed(Snapshot(0.0011, (hopeless,), (), demand=demand)) == (hopeless,)
    assert shed(Snapshot(0.0, (hopeless, other), (), demand=demand)) == (hopeless,)
    assert shed(Snapshot(0.0, (other,), (cohort,), demand=demand)) == (hopeless,)


def test_the_number_of_cohorts_is_bounded():
    runner = FakeRunner(FakeClock(), fused=False, batch_sizes=(1,))
    policy = make_policy(runner, max_cohorts=2)
    cohorts = tuple(Cohort(i, 1, (request(i),)) for i in range(2))
    waiting = tuple(request(i) for i in range(2, 5))
    decision = policy.decide(Snapshot(0.0, waiting, cohorts), LatencyModel(exact_profile()))
    assert isinstance(decision, Run)
    assert decision.cohort is not None


def test_a_runner_with_neither_every_unit_nor_every_fused_segment_is_refused():
    with pytest.raises(ValueError, match="lacks head_1 and exit_1, exit_2: it needs"):
        DeadlinePolicy(
            set(segments.unit_segments(2)) - {segments.head(1)}, ACCURACY[:2], (1,), max_cohorts=4
        )


def test_nobody_goes_past_the_best_exit_or_stops_at_one_that_is_no_better():
    runner = FakeRunner(FakeClock())
    policy = DeadlinePolicy(runner.segments, (0.5, 0.4, 0.6, 0.55, 0.6), (1,), max_cohorts=4)
    latency = LatencyModel(exact_profile())

    def decide(depth, budget_s):
        cohort = Cohort(0, depth, (request(0, budget_s=budget_s),))
        return policy.decide(Snapshot(0.0, (), (cohort,)), latency)

    to_third_s = 2 * STACK_S + HEAD_S
    assert decide(1, to_third_s + 1e-6).segment == segments.stack(2)
    assert decide(1, to_third_s - 1e-6).segment == segments.head(1), "the second exit is worse"
    assert decide(3, 1.0).segment == segments.head(3), "no deeper one is better"


def test_depth_follows_the_budget_where_accuracy_was_not_measured():
    runner = FakeRunner(FakeClock())
    policy = DeadlinePolicy(runner.segments, (0.0,) * NUM_EXITS, (1,), max_cohorts=4)
    cohort = Cohort(0, 4, (request(0),))
    decision = policy.decide(Snapshot(0.0, (), (cohort,)), LatencyModel(exact_profile()))
    assert decision == Run(segments.stack(5), cohort.requests, 0)
