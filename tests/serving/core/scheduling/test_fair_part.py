"""Several principals on one engine: whatever one of them sends, the others get their share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core import segment as segments
from serving.core.demand import NUM_BUDGETS, Demand
from serving.core.errors import ShedReason
from serving.core.latency import LatencyModel
from serving.core.policy import Cohort, Run, ShedRequests, Snapshot
from serving.core.request import Answered, Request, Shed, Superseded
from serving.core.scheduling.edf_plan import EdfPlan
from serving.core.scheduling.fair_part import TurnOrder, fair_part
from serving.core.scheduling.path_costs import Costs
from serving.core.scheduling.paths import paths_of
from serving.core.scheduling.ways_in import WaysIn
from serving.core.useful_exits import UsefulExits
from tests.properties import examples
from tests.serving.world import (
    ACCURACY,
    NUM_EXITS,
    OFFERS,
    FakeClock,
    FakeRunner,
    World,
    cost_s,
    exact_profile,
    make_policy,
    unit_s,
)

FULL_S = unit_s(NUM_EXITS)
FIRST_S = unit_s(1)

LATENCY = LatencyModel(exact_profile())
RUNNER = FakeRunner(FakeClock())
MODELS = [Costs(LATENCY, paths) for paths in paths_of(RUNNER.segments)]
WAYS_IN = WaysIn(0.0, MODELS, RUNNER.batch_sizes, [UsefulExits(ACCURACY)])


def plan(snapshot: Snapshot) -> EdfPlan:
    return EdfPlan(snapshot, WAYS_IN, frozenset())


def waiting(id: int, principal: str, deadline_s: float, share: float = 1.0) -> Request:
    return Request(id, 0.0, deadline_s, 1, NUM_EXITS, principal=principal, share=share)


def flood(
    principal: str,
    count: int,
    gap_s: float,
    budget_s: float,
    min_depth: int = 1,
    streaming: bool = False,
    first_id: int = 1000,
    share: float = 1.0,
) -> list[Request]:
    return [
        Request(
            first_id + number,
            number * gap_s,
            number * gap_s + budget_s,
            min_depth,
            NUM_EXITS,
            streaming,
            principal,
            share,
        )
        for number in range(count)
    ]


# ---- the line -----------------------------------------------------------------------------------


def test_who_is_furthest_behind_is_in_the_part_whatever_the_deadlines_say():
    greedy = [waiting(i, "greedy", 0.02 + 1e-4 * i) for i in range(6)]
    modest = waiting(10, "modest", 0.025)
    snapshot = Snapshot(0.0, (*greedy, modest), (), virtual_s={"greedy": 1.0, "modest": 0.5})
    assert plan(snapshot).slack_s < 0.0
    part = fair_part(snapshot, plan(snapshot), plan)
    assert modest in part.snapshot.waiting
    assert part.plan.slack_s >= 0.0
    assert len(part.snapshot.waiting) > 1, "what is left is given to who comes after"
    assert part.snapshot.waiting[0] is greedy[0], "by deadline within a principal"


def test_turns_go_by_share():
    """Of two who always wait, the one with three times the share has three in four."""
    double = [waiting(i, "double", 0.1, 3.0) for i in range(20)]
    single = [waiting(20 + i, "single", 0.1) for i in range(20)]
    snapshot = Snapshot(0.0, (*double, *single), (), virtual_s={"double": 0.0, "single": 0.0})
    part = fair_part(snapshot, plan(snapshot), plan)
    count = sum(request.principal == "double" for request in part.snapshot.waiting)
    assert count / len(part.snapshot.waiting) == pytest.approx(0.75, abs=0.1)


def test_cohorts_of_who_is_ahead_are_put_off_and_keep_their_place():
    cohort = Cohort(7, 1, tuple(replace(waiting(i, "greedy", 0.03), min_depth=5) for i in range(4)))
    modest = waiting(10, "modest", FIRST_S * 1.2)
    snapshot = Snapshot(0.0, (modest,), (cohort,), virtual_s={"greedy": 0.1, "modest": 0.1})
    assert plan(snapshot).slack_s < 0.0
    part = fair_part(snapshot, plan(snapshot), plan)
    assert part.snapshot.waiting == (modest,)
    assert part.parked == (cohort,)
    assert (part.snapshot.cohorts, part.snapshot.num_parked) == ((), 1)


def test_one_is_served_even_if_nobody_can_be_in_time():
    late = waiting(0, "one", 1e-3)
    snapshot = Snapshot(0.0, (late, waiting(1, "two", 2e-3)), (), virtual_s={"one": 0, "two": 1})
    part = fair_part(snapshot, plan(snapshot), plan)
    assert part.snapshot.waiting == (late,)


def test_where_those_put_off_take_up_all_room_one_cohort_goes():
    cohorts = tuple(
        Cohort(k, 1, (replace(waiting(k, "greedy", 0.021 + 1e-3 * k), min_depth=5),))
        for k in range(2)
    )
    modest = waiting(10, "modest", FIRST_S * 1.2)
    snapshot = Snapshot(0.0, (modest,), cohorts, virtual_s={"greedy": 9.0, "modest": 0.0})
    decision = make_policy(RUNNER, max_cohorts=2).decide(snapshot, LATENCY)
    assert isinstance(decision, ShedRequests)
    assert decision.reason is ShedReason.EVICTED_SHARE
    assert decision.requests == cohorts[-1].requests
    decision = make_policy(RUNNER, max_cohorts=3).decide(snapshot, LATENCY)
    assert isinstance(decision, Run)
    assert decision.requests == (modest,)


# ---- streams ------------------------------------------------------------------------------------


def frame(id: int, stream: str, deadline_s: float, principal: str = "") -> Request:
    return Request(id, 0.0, deadline_s, 1, NUM_EXITS, principal=principal, stream=stream)


def test_streams_take_turns_whatever_their_deadlines_say():
    due = [frame(i, f"cam {i}", 0.02 + 1e-4 * i) for i in range(8)]
    orders = {each.stream_key: 8 - each.id for each in due}  # the most urgent was served last
    snapshot = Snapshot(0.0, tuple(due), (), virtual_s={"": 0.0}, stream_turns=orders)
    assert plan(snapshot).slack_s < 0.0
    part = fair_part(snapshot, plan(snapshot), plan)
    served = {each.id for each in part.snapshot.waiting}
    assert served == set(range(8 - len(served), 8)) != set(range(8))


def test_what_is_of_no_stream_is_one_stream_more():
    frames = [frame(i, f"cam {i}", 0.02) for i in range(3)]
    singles = [waiting(10 + i, "", 0.02) for i in range(6)]
    orders = {("", ""): 1, ("", "cam 0"): 2, ("", "cam 1"): 3, ("", "cam 2"): 4}
    everybody = (*frames, *singles)
    snapshot = Snapshot(0.0, everybody, (), virtual_s={"": 0.0}, stream_turns=orders)
    line = TurnOrder(snapshot, WAYS_IN, frozenset())
    assert [each.id for each in line] == [10, 0, 1, 2, 11, 12, 13, 14, 15]


def test_who_was_promised_goes_before_the_others():
    due = [frame(i, f"cam {i}", 0.02) for i in range(8)]
    due[7] = replace(due[7], is_promised=True)
    orders = {each.stream_key: each.id for each in due}
    snapshot = Snapshot(0.0, tuple(due), (), virtual_s={"": 0.0}, stream_turns=orders)
    line = TurnOrder(snapshot, WAYS_IN, frozenset())
    assert [each.id for each in line] == [7, 0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("fast_gap_s", [0.004, 0.05])
def test_no_camera_is_forgotten(fast_gap_s: float):
    """Three times as many frames come as can be answered, from one camera far more often than from
    the others: all are answered about as often."""
    budget_s, length_s, ids = 4 * FIRST_S, 2.0, iter(range(10**6))
    period_s = 0.05
    count = math.ceil(3 * period_s / FIRST_S) + 1
    gaps_s = {"fast": fast_gap_s} | {f"cam {n}": period_s for n in range(count)}
    requests = []
    for number, (stream, gap_s) in enumerate(gaps_s.items()):
        arrival_s = gap_s * number / len(gaps_s)
        while arrival_s < length_s:
            deadline_s = arrival_s + budget_s
            requests.append(
                Request(next(ids), arrival_s, deadline_s, 1, 1, stream=stream, principal="a")
            )
            arrival_s += gap_s
    ends = World().play(requests)
    answered = Counter(r.request.stream for r in ends.values() if isinstance(r, Answered))
    assert max(answered.values()) <= 1.5 * min(answered[stream] for stream in gaps_s)
    assert any(isinstance(end, Superseded) for end in ends.values())


def test_a_promise_is_kept_beside_a_flood():
    """Of the same principal, whose other streams send three times what can be answered."""
    budget_s, period_s, length_s, ids = 4 * FIRST_S, 0.1, 3.0, iter(range(10**6))
    count = math.ceil(3 * period_s / FIRST_S)
    requests = [
        Request(
            next(ids),
            arrival_s := (n / count + k) * period_s,
            arrival_s + budget_s,
            1,
            NUM_EXITS,
            stream="kept" if n == 0 else f"cam {n}",
            is_promised=n == 0,
        )
        for k in range(round(length_s / period_s))
        for n in range(count)
    ]
    ends = World().play(requests)
    kept = [isinstance(ends[r.id], Answered) for r in requests if r.is_promised]
    others = [isinstance(ends[r.id], Answered) for r in requests if not r.is_promised]
    assert all(kept)
    assert sum(others) < 0.8 * len(others)


# ---- how much of the line is looked at ----------------------------------------------------------


@pytest.mark.parametrize("num_waiting", [24, 200])
@pytest.mark.parametrize("gap_s", [0.0, 0.2 * FIRST_S, 0.4 * FIRST_S])
def test_the_part_is_as_much_of_the_line_as_can_be_in_time(num_waiting: int, gap_s: float):
    names = "abc"
    everybody = tuple(waiting(i, names[i % 3], 4 * FIRST_S + gap_s * i) for i in range(num_waiting))
    snapshot = Snapshot(0.0, everybody, (), virtual_s={"a": 0.0, "b": FIRST_S, "c": 5 * FIRST_S})
    whole = plan(snapshot)
    assert whole.slack_s < 0.0
    part = fair_part(snapshot, whole, plan)
    line = [*TurnOrder(snapshot, WAYS_IN, frozenset())]
    count = len(part.snapshot.waiting)
    assert set(part.snapshot.waiting) == set(line[:count])
    assert part.plan.slack_s >= 0.0
    more = sorted(line[: count + 1], key=lambda request: (request.deadline_s, request.id))
    assert plan(replace(snapshot, waiting=tuple(more))).slack_s < 0.0


# ---- frames that give way -----------------------------------------------------------------------

BATCH_S = cost_s(segments.fused_exit(1), 4)


def next_run(rate_hz: float) -> list[int]:
    """Who runs next of eight frames, of which the most urgent had its turn last."""
    frames = [frame(i, f"cam {i}", 2.2 * BATCH_S) for i in range(8)]
    orders = {each.stream_key: 8 - each.id for each in frames}
    demand = Demand(rate_hz, 1.0, (4 * BATCH_S,) * NUM_BUDGETS)
    snapshot = Snapshot(
        0.0, tuple(frames), (), demand=demand, virtual_s={"": 0.0}, stream_turns=orders
    )
    assert plan(snapshot).slack_s > 0.0
    decision = make_policy(RUNNER, max_cohorts=4).decide(snapshot, LATENCY)
    assert isinstance(decision, Run)
    return [request.id for request in decision.requests]


def test_while_frames_give_way_who_had_no_turn_for_longest_goes_first():
    many_hz, few_hz = 1.2 * 4 / BATCH_S, 0.8 * 4 / BATCH_S
    assert next_run(many_hz) == [4, 5, 6, 7]
    assert 0 in next_run(few_hz), "all of them are answered, so the most urgent goes first"


def test_nobody_is_late_for_the_turn_of_another():
    """The first four have time for one batch before theirs, or not."""
    many_hz = 1.2 * 4 / BATCH_S
    frames = [frame(i, f"cam {i}", (2.1 if i > 3 else 1.1) * BATCH_S) for i in range(8)]
    orders = {each.stream_key: 8 - each.id for each in frames}
    demand = Demand(many_hz, 1.0, (4 * BATCH_S,) * NUM_BUDGETS)
    snapshot = Snapshot(
        0.0, tuple(frames), (), demand=demand, virtual_s={"": 0.0}, stream_turns=orders
    )
    decision = make_policy(RUNNER, max_cohorts=4).decide(snapshot, LATENCY)
    assert isinstance(decision, Run)
    assert [request.id for request in decision.requests] == [0, 1, 2, 3]


# ---- whole runs ---------------------------------------------------------------------------------


def in_time(world: World, requests: list[Request]) -> float:
    ends = [world.results[request.id][0] for request in requests]
    return sum(
        isinstance(end, Answered) and end.finished_s <= end.request.deadline_s + 1e-9
        for end in ends
    ) / len(ends)


GAP_S = FIRST_S / 8
"""Between the requests of a flood: several times what the engine can answer."""
FLOODS: dict[str, dict[str, Any]] = {
    "ordinary": {"budget_s": 4 * FULL_S},
    "in a hurry": {"budget_s": 1.3 * FIRST_S},
    "with all the time there is": {"budget_s": 500 * FULL_S},
    "deepest": {"budget_s": 4 * FULL_S, "min_depth": NUM_EXITS},
    "deepest and streaming": {"budget_s": 4 * FULL_S, "min_depth": NUM_EXITS, "streaming": True},
    "streaming": {"budget_s": 4 * FULL_S, "streaming": True},
}


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("kind", FLOODS)
def test_who_stays_within_its_share_is_in_time_beside_a_flood(kind: str, offer: str):
    runner = FakeRunner(FakeClock(), **OFFERS[offer])
    world = World(runner, 64, make_policy(runner, max_cohorts=4))
    greedy = flood("greedy", 1500, GAP_S, **FLOODS[kind])
    # A fifth of the time that the engine has, at the first exit.
    modest = flood("modest", 35, 5 * FIRST_S, 4 * FULL_S, first_id=0)
    world.play(greedy + modest)
    assert in_time(world, modest) >= 0.95


def test_two_floods_get_what_their_shares_are():
    runner = FakeRunner(FakeClock())
    world = World(runner, 64, make_policy(runner, max_cohorts=4))
    one = flood("one", 1500, GAP_S, 4 * FULL_S, share=1.0)
    three = flood("three", 1500, GAP_S, 4 * FULL_S, share=3.0, first_id=5000)
    world.play(one + three)
    assert in_time(world, three) / in_time(world, one) == pytest.approx(3.0, rel=0.25)


def test_sharing_costs_no_throughput():
    def answered(principals: int) -> float:
        runner = FakeRunner(FakeClock())
        world = World(runner, 64, make_policy(runner, max_cohorts=4))
        requests = [
            replace(request, principal=f"{request.id % principals}")
            for request in flood("", 2000, GAP_S, 4 * FULL_S)
        ]
        world.play(requests)
        return in_time(world, requests)

    assert answered(8) >= 0.9 * answered(1)


def test_one_principal_is_decided_about_as_ever():
    def decisions(principal: str) -> list[object]:
        runner = FakeRunner(FakeClock())
        world = World(runner, 64, make_policy(runner, max_cohorts=4))
        world.play(flood(principal, 400, GAP_S, 4 * FULL_S))
        return [type(decision) for _, decision in world.decisions]

    assert decisions("") == decisions("somebody")


def _requests(draw: st.DrawFn) -> Iterator[Request]:
    arrival_s = 0.0
    for id in range(draw(st.integers(2, 40))):
        arrival_s += draw(st.floats(0.0, FULL_S))
        min_depth = draw(st.integers(1, NUM_EXITS))
        yield Request(
            id,
            arrival_s,
            arrival_s + draw(st.floats(0.2, 8.0)) * FULL_S,
            min_depth,
            draw(st.integers(min_depth, NUM_EXITS)),
            draw(st.booleans()),
            draw(st.sampled_from("abc")),
            draw(st.sampled_from([0.5, 1.0, 7.0])),
        )


@st.composite
def request_lists(draw: st.DrawFn) -> list[Request]:
    return list(_requests(draw))


@given(request_lists(), st.sampled_from(sorted(OFFERS)), st.integers(1, 4))
@examples(200)
def test_each_ends_once_and_no_cohort_is_forgotten(
    requests: list[Request], offer: str, max_cohorts: int
):
    runner = FakeRunner(FakeClock(), **OFFERS[offer])
    world = World(runner, 16, make_policy(runner, max_cohorts))
    for end in world.play(requests).values():
        assert isinstance(end, Answered | Shed)
    for snapshot, _ in world.decisions:
        assert len(snapshot.cohorts) <= max_cohorts
        assert math.isfinite(sum(snapshot.virtual_s.values()))
