"""One decision: merging, the price, a crowd, several models; and what holds of all of them."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core import segment as segments
from serving.core.demand import UNKNOWN, Demand
from serving.core.errors import ShedReason
from serving.core.latency import HoldUps, Latency, LatencyModel, Times
from serving.core.policy import Cohort, Decision, Merge, Run, ShedRequests, Snapshot, Wait
from serving.core.request import Answered, Request, Shed
from serving.core.scheduling.deadline_policy import DeadlinePolicy
from serving.core.segment import Segment
from tests.properties import examples
from tests.serving.core.scheduling.test_deadline_policy import request_lists
from tests.serving.world import (
    ACCURACY,
    HEAD_S,
    NUM_EXITS,
    OFFERS,
    Cost,
    FakeClock,
    FakeRunner,
    World,
    batching,
    cost_s,
    depth_of,
    exact_profile,
    make_policy,
    unit_s,
)

GAINS = batching(0.8)
"""Two rows take 1.2 times what one takes, four 1.6."""
SIZES = (1, 2, 4, 8)


def request(
    id: int, budget_s: float = 1.0, min_depth: int = 1, max_depth: int = NUM_EXITS, **how: Any
) -> Request:
    return Request(id, 0.0, budget_s, min_depth, max_depth, **how)


def decide(
    waiting: Sequence[Request] = (),
    cohorts: Sequence[Cohort] = (),
    *,
    demand: Demand = UNKNOWN,
    cost: Cost = GAINS,
    sizes: tuple[int, ...] = SIZES,
    answered: dict[int, int] | None = None,
    **offer: Any,
) -> Decision:
    policy = make_policy(FakeRunner(FakeClock(), batch_sizes=sizes, **offer))
    latency = LatencyModel(exact_profile(cost, range(1, 9)))
    return policy.decide(
        Snapshot(0.0, tuple(waiting), tuple(cohorts), answered or {}, demand), latency
    )


# ---- merging ------------------------------------------------------------------------------------


def two_cohorts(
    first: Request, second: Request, depths: tuple[int, int] = (2, 2)
) -> tuple[Cohort, Cohort]:
    return Cohort(7, depths[0], (first,)), Cohort(8, depths[1], (second,))


def test_cohorts_that_have_come_to_one_depth_are_merged():
    assert decide((), two_cohorts(request(0), request(1))) == Merge((7, 8))
    assert decide((), two_cohorts(request(0, 0.9), request(1, 0.8))) == Merge((8, 7)), "by deadline"


def test_two_of_three_are_merged_at_a_time():
    cohorts = [*two_cohorts(request(0), request(1)), Cohort(9, 2, (request(2),))]
    assert decide((), cohorts) == Merge((7, 8))
    merged = [Cohort(7, 2, (request(0), request(1))), cohorts[2]]
    assert decide((), merged) == Merge((7, 9))


def test_before_their_first_exit_as_well():
    cohorts = two_cohorts(request(0, min_depth=3), request(1, min_depth=3), (1, 1))
    assert decide((), cohorts) == Merge((7, 8))


@pytest.mark.parametrize(
    ("second", "depth"),
    [
        (request(1), 3),
        (request(1, max_depth=4), 2),
        (request(1, min_depth=2), 2),
        (request(1, streaming=True), 2),
    ],
)
def test_unlike_ones_are_not(second, depth):
    assert not isinstance(decide((), two_cohorts(request(0), second, (2, depth))), Merge)


@pytest.mark.parametrize(
    ("fixed", "merges"), [(0.8, True), (0.12, True), (0.08, False), (0, False)]
)
def test_only_where_a_batch_is_clearly_quicker(fixed, merges):
    """It takes 2 - fixed times as long; 1.9 are not clearly less than two."""
    decision = decide((), two_cohorts(request(0), request(1)), cost=batching(fixed))
    assert isinstance(decision, Merge) == merges


@pytest.mark.parametrize("spare_s", [1e-6, -1e-6])
def test_not_if_that_made_the_more_urgent_one_late(spare_s):
    both_s = GAINS(segments.head(2), 2)
    decision = decide((), two_cohorts(request(0, both_s + spare_s), request(1)))
    if spare_s > 0:
        assert decision == Merge((7, 8))
    else:
        assert decision == Run(segments.head(2), (request(0, both_s + spare_s),), 7)


def test_not_beyond_the_largest_batch():
    rows = [tuple(request(10 * c + i) for i in range(5)) for c in range(2)]
    cohorts = [Cohort(c, 2, rows[c]) for c in range(2)]
    assert not isinstance(decide((), cohorts), Merge)
    assert isinstance(decide((), [Cohort(0, 2, rows[0][:3]), cohorts[1]]), Merge)


def test_merged_they_go_deep_together_and_both_in_time():
    """The second one arrives while the first is on its way."""
    world = World(FakeRunner(FakeClock(), GAINS, fused=False, batch_sizes=SIZES))
    budget_s = unit_s(NUM_EXITS) + 3 * HEAD_S
    ends = world.play([Request(i, 0.005 * i, 0.005 * i + budget_s, 1, NUM_EXITS) for i in range(2)])
    assert [depth_of(end) for end in ends.values()] == [NUM_EXITS] * 2
    assert any(isinstance(decision, Merge) for _, decision in world.decisions)
    assert (f"stack_{NUM_EXITS}", 2) in world.runner.log
    assert [end.detections.scores[0] for end in ends.values()] == [0, 1]


# ---- the price ----------------------------------------------------------------------------------

CALM = Demand(rate_hz=1.0, cv2=1.0, budgets_s=(0.1,))
FLOOD = Demand(rate_hz=1000.0, cv2=1.0, budgets_s=(0.1,))


@pytest.mark.parametrize(
    ("demand", "segment"),
    [
        (UNKNOWN, segments.stack(2)),
        (CALM, segments.stack(2)),
        (FLOOD, segments.head(1)),
    ],
)
def test_in_a_flood_a_lone_request_leaves_at_the_first_exit(demand, segment):
    asked = request(0)
    assert decide((), [Cohort(7, 1, (asked,))], demand=demand) == Run(segment, (asked,), 7)


@pytest.mark.parametrize(
    ("demand", "offer", "segment"),
    [
        (UNKNOWN, "unit and fused", segments.fused_exit(5)),
        (UNKNOWN, "unit only", segments.STEM),
        (UNKNOWN, "fused only", segments.fused_exit(5)),
        (CALM, "fused only", segments.fused_exit(5)),
        (FLOOD, "unit and fused", segments.fused_exit(1)),
        (FLOOD, "fused only", segments.fused_exit(1)),
        (FLOOD, "unit only", segments.STEM),
    ],
)
def test_nor_does_it_set_out_for_a_deeper_one(demand, offer, segment):
    assert decide([request(0)], demand=demand, **OFFERS[offer]).segment == segment


URGENT = Demand(rate_hz=60.0, cv2=1.0, budgets_s=(2.0 * unit_s(1),))
"""Two thirds of what can be answered, all of it in more of a hurry than who has a second."""
HURRIED_S = cost_s(segments.fused_exit(1)) + 0.001


@pytest.mark.parametrize(
    ("deadline_s", "demand", "goes_on"),
    [
        (1.0, URGENT, True),  # they overtake it
        (1.9 * unit_s(1), URGENT, False),  # it is due before them
        (1.0, replace(URGENT, rate_hz=150.0), False),  # they do, but the engine is never idle
        (1.0, replace(URGENT, budgets_s=(HURRIED_S,)), False),  # they cannot wait for a stack
    ],
)
def test_depth_costs_those_who_cannot_overtake(deadline_s, demand, goes_on):
    cohort = Cohort(7, 1, (request(0, deadline_s),))
    segment = decide((), [cohort], demand=demand).segment
    assert segment == (segments.stack(2) if goes_on else segments.head(1))


def test_the_shallowest_accepted_exit_is_not_for_sale():
    asked = request(0, min_depth=3)
    cohort = Cohort(7, 1, (asked,))
    assert decide((), [cohort], demand=FLOOD) == Run(segments.stack(2), (asked,), 7)


def test_the_price_is_paid_by_a_batch_where_one_alone_could_not():
    """At what one row must buy, four rows buy four times as much for 1.6 times the time."""
    alone = Cohort(7, 1, (request(0),))
    four = Cohort(7, 1, tuple(request(i) for i in range(4)))
    # Engine time is worth more than .05 AP in 3 ms, and less than .2 AP in 4.8 ms.
    rates = [rate for rate in range(60, 1000, 4) if leaves(alone, rate) and not leaves(four, rate)]
    assert rates


def leaves(cohort: Cohort, rate_hz: int) -> bool:
    demand = Demand(rate_hz, 1.0, (0.1,))
    decision = decide((), [cohort], demand=demand)
    assert isinstance(decision, Run)
    return decision.segment == segments.head(1)


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_depth_falls_as_load_rises_and_hardly_anybody_is_lost(offer):
    rng = np.random.default_rng(5)
    gaps, budgets = rng.exponential(1.0, 400), rng.uniform(1.5, 5.0, 400)
    depths, lost = [], []
    for load in (0.1, 0.3, 0.5, 0.7, 0.9):
        arrivals = np.cumsum(gaps * unit_s(1) / load).tolist()
        requests = [
            Request(i, at, at + budgets[i] * unit_s(2), 1, NUM_EXITS)
            for i, at in enumerate(arrivals)
        ]
        world = World(FakeRunner(FakeClock(), GAINS, batch_sizes=SIZES, **offer))
        reached = [depth_of(end) for end in world.play(requests).values()]
        depths.append(float(np.mean(reached)))
        lost.append(reached.count(0))
    assert all(shallower < deeper for deeper, shallower in pairwise(depths)), depths
    assert depths[0] > 4
    assert max(lost) <= 20, lost


# ---- a crowd ------------------------------------------------------------------------------------

HALF = batching(0.5)
"""Four rows take 2.5 times what one takes: less per row, but not to be had for nothing."""
EXIT_S, FOUR_S = HALF(segments.fused_exit(1), 1), HALF(segments.fused_exit(1), 4)


def crowd(urgent_s: float, patient_s: float = FOUR_S + 1e-6) -> list[Request]:
    """One, and four behind it that fill a batch."""
    return [request(0, urgent_s), *(request(i, patient_s) for i in range(1, 5))]


def test_whom_the_largest_batch_leaves_no_chance_is_shed_at_once():
    waiting = crowd(EXIT_S + 0.001)
    decision = decide(waiting, cost=HALF, sizes=(1, 4))
    assert isinstance(decision, ShedRequests)
    assert (decision.requests, decision.reason) == ((waiting[0],), ShedReason.REJECTED_OVERLOAD)
    assert decision.retry_after_s > 0
    rest = decide(waiting[1:], cost=HALF, sizes=(1, 4))
    assert rest == Run(segments.fused_exit(1), tuple(waiting[1:]), None)


def test_who_can_go_before_the_largest_batch_does():
    waiting = crowd(EXIT_S + 0.001, EXIT_S + FOUR_S + 1e-6)
    decision = decide(waiting, cost=HALF, sizes=(1, 4))
    assert decision == Run(segments.fused_exit(1), (waiting[0],), None)


@pytest.mark.parametrize(("demand", "first"), [(CALM, [0]), (FLOOD, [1, 2, 3, 4])])
def test_a_crowd_that_passes_keeps_whom_a_lasting_one_cannot(demand, first):
    """Five, one after the other in time, of whom the last four fill a batch."""
    cost = batching(0.1)
    alone_s = cost(segments.fused_exit(1), 1)
    ends_s = [alone_s + 0.001, *[4 * alone_s + 1e-6] * 3, 5 * alone_s + 1e-6]
    waiting = [request(i, end_s) for i, end_s in enumerate(ends_s)]
    decision = decide(waiting, cost=cost, sizes=(1, 4), demand=demand)
    if isinstance(decision, ShedRequests):
        waiting = [r for r in waiting if r not in decision.requests]
        decision = decide(waiting, cost=cost, sizes=(1, 4), demand=demand)
    assert isinstance(decision, Run)
    assert [r.id for r in decision.requests] == first


class Erratic(Latency):
    """Typically as in the table, and seldom more than twice that."""

    def __init__(self) -> None:
        self._model = LatencyModel(exact_profile(cost_s, (1,)))

    def times(self, segment: Segment, batch: int) -> Times:
        seldom_s, typical_s = self._model.times(segment, batch)
        return 2 * seldom_s, typical_s


@pytest.mark.parametrize(
    ("share", "demand", "kept"),
    [
        (1.6, CALM, True),  # more than midway between what is typical and what is never exceeded
        (1.4, CALM, False),
        (1.6, FLOOD, False),
        (2.1, FLOOD, True),
    ],
)
def test_risks_are_taken_until_there_is_a_flood(share, demand, kept):
    """Of two that cannot both be safe, the first has ``share`` of the time that a run takes."""
    exit_s = cost_s(segments.fused_exit(1))
    first, second = request(0, share * exit_s), request(1, 2.9 * exit_s)
    policy = make_policy(FakeRunner(FakeClock(), batch_sizes=(1,)))
    decision = policy.decide(Snapshot(0.0, (first, second), (), {}, demand), Erratic())
    assert decision == Run(segments.fused_exit(1), (first if kept else second,), None)


def test_who_is_shed_had_been_waiting_for_nothing():
    world = World(FakeRunner(FakeClock(), HALF))
    ends = world.play(crowd(EXIT_S + 0.001))
    assert [(type(end), depth_of(end)) for end in ends.values()] == [
        (Shed, 0),
        *[(Answered, 1)] * 4,
    ]
    assert ends[0].reason is ShedReason.REJECTED_OVERLOAD
    assert ends[0].finished_s == 0.0


@pytest.mark.parametrize("spare_s", [1e-6, -1e-6])
def test_those_in_flight_come_before_a_crowd(spare_s):
    """They can wait for a batch of four, or just not; then they leave."""
    flying = Cohort(7, 1, (request(9, FOUR_S + HEAD_S + spare_s),))
    waiting = crowd(FOUR_S + 2e-6) + crowd(FOUR_S + 2e-6)[1:]
    waiting = [request(i, r.deadline_s) for i, r in enumerate(waiting)]
    decision = decide(waiting, [flying], cost=HALF, sizes=(1, 4))
    while isinstance(decision, ShedRequests):
        assert flying.requests[0] not in decision.requests
        waiting = [r for r in waiting if r not in decision.requests]
        decision = decide(waiting, [flying], cost=HALF, sizes=(1, 4))
    if spare_s > 0:
        assert decision == Run(segments.fused_exit(1), tuple(waiting[:4]), None)
    else:
        assert decision.requests != tuple(waiting[:4])


def quickest_s(depth: int, cost: Cost, offer: dict[str, Any]) -> float:
    """What a lone request takes to an exit. Who has less is tried all the same on an idle engine,
    which is then to be told from one that is as slow as it seemed."""
    ways = {"units": segments.unit_path(depth), "fused": (segments.fused_exit(depth),)}
    return min(
        sum(cost(segment, 1) for segment in way)
        for kind, way in ways.items()
        if offer.get(kind, True)
    )


@given(
    requests=request_lists(max_size=40),
    offer=st.sampled_from(list(OFFERS.values())),
    cost=st.sampled_from([cost_s, GAINS, HALF]),
    sizes=st.sampled_from([(1, 4), SIZES]),
)
@examples(150)
def test_in_a_crowd_nobody_in_flight_is_late_or_evicted(requests, offer, cost, sizes):
    world = World(FakeRunner(FakeClock(), cost, batch_sizes=sizes, **offer))
    by_id = {r.id: r for r in requests}
    for id, end in world.play(requests).items():
        budget_s = by_id[id].deadline_s - by_id[id].arrival_s
        if budget_s < quickest_s(by_id[id].min_depth, cost, offer):
            continue
        if isinstance(end, Answered):
            assert end.finished_s <= by_id[id].deadline_s + 1e-9
            assert by_id[id].min_depth <= end.depth <= by_id[id].max_depth
            assert end.detections.scores[0] == id
        else:
            assert isinstance(end, Shed)
            assert end.reason in (ShedReason.REJECTED_OVERLOAD, ShedReason.REJECTED_EXPIRED)
    begun: set[int] = set()
    for _, decision in world.decisions:
        if isinstance(decision, ShedRequests):
            assert not begun & {r.id for r in decision.requests}, "it had been promised an answer"
        elif isinstance(decision, Run):
            begun |= {r.id for r in decision.requests}


# ---- several models -----------------------------------------------------------------------------

OTHER = (0.65, 0.70)
"""The second model: two exits, three times as slow."""


def slower(segment: Segment, batch: int = 1) -> float:
    return GAINS(segment, batch) * (3 if segment.model else 1)


def family_world(**how: Any) -> World:
    runner = FakeRunner(FakeClock(), slower, exits=(NUM_EXITS, len(OTHER)), **how)
    policy = DeadlinePolicy(runner.segments, ACCURACY, runner.batch_sizes, 8, [OTHER])
    return World(runner, policy=policy)


def start(budget_s: float, demand: Demand = UNKNOWN, **bounds: Any) -> Segment:
    runner = FakeRunner(FakeClock(), slower, exits=(NUM_EXITS, len(OTHER)))
    policy = DeadlinePolicy(runner.segments, ACCURACY, (1, 4), 8, [OTHER])
    latency = LatencyModel(exact_profile(slower, range(1, 5), runner.exits))
    waiting = (request(0, budget_s, **bounds),)
    decision = policy.decide(Snapshot(0.0, waiting, (), demand=demand), latency)
    assert isinstance(decision, Run)
    return decision.segment


@pytest.mark.parametrize(
    ("budget_s", "demand", "bounds", "model"),
    [
        (cost_s(segments.fused_exit(1)) + 1e-6, UNKNOWN, {}, 0),  # nothing else fits
        (3 * cost_s(segments.fused_exit(1)) - 0.001, UNKNOWN, {}, 0),
        (1.0, UNKNOWN, {}, 1),
        (1.0, CALM, {}, 1),
        (1.0, FLOOD, {}, 0),  # at that price
        (1.0, UNKNOWN, {"min_depth": 3}, 0),  # the other one has no third exit
        (1.0, UNKNOWN, {"max_depth": 1}, 1),
        (1.0, UNKNOWN, {"min_depth": 2, "max_depth": 2}, 1),
    ],
)
def test_a_request_starts_in_the_model_that_promises_most(budget_s, demand, bounds, model):
    assert start(budget_s, demand, **bounds).model == model


def test_a_model_of_which_the_accuracies_are_unknown_is_refused():
    runner = FakeRunner(FakeClock(), exits=(NUM_EXITS, 2))
    with pytest.raises(ValueError, match=r"models with \[5, 2\] exits, accuracies of \[5\]"):
        DeadlinePolicy(runner.segments, ACCURACY, (1,), 8)


def worth(end: object) -> float:
    if not isinstance(end, Answered):
        return 0.0
    return (ACCURACY, OTHER)[end.model][end.depth - 1]


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_alone_the_most_accurate_exit_of_either_model_is_reached(offer):
    ends = [
        family_world(**offer).play([request(0, milliseconds / 1e3)])[0]
        for milliseconds in range(5, 120)
    ]
    worths = [worth(end) for end in ends]
    assert worths[-1] == OTHER[-1]
    assert {0.0, ACCURACY[0], ACCURACY[-1], *OTHER} <= set(worths)
    assert worths == sorted(worths), "more time never brings less"


@given(
    requests=request_lists(max_size=25),
    offer=st.sampled_from(list(OFFERS.values())),
    sizes=st.sampled_from([(1,), (1, 4), SIZES]),
)
@examples(100)
def test_of_several_models_replies_are_in_time_and_within_depth_bounds(requests, offer, sizes):
    world = family_world(batch_sizes=sizes, **offer)
    by_id = {r.id: r for r in requests}
    for id, end in world.play(requests).items():
        if isinstance(end, Answered):
            assert end.finished_s <= by_id[id].deadline_s + 1e-9
            limit = min(by_id[id].max_depth, (NUM_EXITS, len(OTHER))[end.model])
            assert by_id[id].min_depth <= end.depth <= limit
        else:
            assert isinstance(end, Shed)
            assert end.reason in (ShedReason.REJECTED_OVERLOAD, ShedReason.REJECTED_EXPIRED)


# ---- of every decision --------------------------------------------------------------------------


@given(
    requests=request_lists(max_size=25),
    offer=st.sampled_from(list(OFFERS.values())),
    family=st.booleans(),
)
@examples(60)
def test_every_decision_says_why(requests, offer, family):
    world = family_world(**offer) if family else World(FakeRunner(FakeClock(), GAINS, **offer))
    world.play(requests)
    for _, decision in world.decisions:
        assert not isinstance(decision, Wait), "there is always something to do"
        places = [name for _, name, _, _ in string.Formatter().parse(decision.why.text)]
        assert len([name for name in places if name is not None]) == len(decision.why.numbers)
        assert str(decision.why)


class HeldUp(LatencyModel):
    """An engine whose runs were held up so often, for 50 ms each, in a second of runs."""

    def __init__(self, count: int) -> None:
        super().__init__(exact_profile(GAINS, range(1, 9)))
        self._told = HoldUps((0.050,) * count, 1.0)

    @property
    def hold_ups(self) -> HoldUps:
        return self._told


@pytest.mark.parametrize(
    ("count", "budget_s", "depth"), [(0, 0.049, 5), (12, 0.049, 1), (12, 0.051, 5)]
)
def test_where_runs_are_held_up_those_who_could_be_late_by_that_go_first(count, budget_s, depth):
    """Of two, the first one's depth delays the other."""
    policy = make_policy(FakeRunner(FakeClock(), GAINS, units=False, batch_sizes=(1,)))
    waiting = tuple(request(id, budget_s) for id in range(2))
    decision = policy.decide(Snapshot(0.0, waiting, (), demand=CALM), HeldUp(count))
    assert decision.segment == segments.fused_exit(depth)


class Counting(Latency):
    """A latency model that counts what it is asked."""

    def __init__(self) -> None:
        self._model = LatencyModel(exact_profile(GAINS, range(1, 9)))
        self.num_asked = 0

    def times(self, segment: Segment, batch: int) -> Times:
        self.num_asked += 1
        return self._model.times(segment, batch)


def questions(num_waiting: int, budget_s: float) -> int:
    """Asked in one decision with so many waiting, of all depth bounds and as many deadlines, and
    four cohorts."""
    bounds = [(low, high) for low in range(1, 6) for high in range(low, 6)]
    waiting = [
        request(i, budget_s + i * 1e-4, *bounds[i % len(bounds)], streaming=i % 2 == 0)
        for i in range(num_waiting)
    ]
    cohorts = tuple(Cohort(i, 1 + i, (request(1000 + i, 2.0),)) for i in range(4))
    latency = Counting()
    policy = make_policy(FakeRunner(FakeClock(), GAINS, batch_sizes=SIZES))
    decision = policy.decide(
        Snapshot(0.0, tuple(waiting), cohorts, demand=CALM),
        latency,
    )
    assert isinstance(decision, Run | ShedRequests | Merge)
    return latency.num_asked


@pytest.mark.parametrize("budget_s", [0.05, 0.5, 3.0])
def test_a_decision_asks_no_more_with_many_waiting_than_there_are_segments(budget_s):
    """Each segment's time at each batch size is looked up once, however many wait."""
    num_segments = len(segments.every_segment(NUM_EXITS))
    for num_waiting in (64, 640):
        assert questions(num_waiting, budget_s) <= 2 * num_segments * len(SIZES)
