"""Answers in hand: who is held, who is run again, and who is let go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

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
from serving.core.demand import UNKNOWN, Demand
from serving.core.ladder import Ladder, PointId
from serving.core.latency import LatencyModel
from serving.core.latency_profile import LatencyProfile, Quantiles
from serving.core.policy import Conclude, Decision, Held, Policy, Run, ShedRequests, Snapshot
from serving.core.request import Request
from serving.core.scheduling.answers_in_hand import MAX_HELD
from serving.core.scheduling.deadline_policy import DeadlinePolicy
from serving.core.segment import Segment
from tests.properties import examples

SECONDS = (0.005, 0.010, 0.020)
"""One exit each: what it takes from the image. Batches gain nothing."""
AP = (0.30, 0.40, 0.35)
SMALL, MIDDLE, LARGE = (0, 1), (1, 1), (2, 1)
MERGED = {MIDDLE: {LARGE: 0.48}}
BUSY = Demand(rate_hz=60.0, cv2=1.0, budgets_s=(0.05,) * 6)
SEGMENTS = tuple(segments.fused_exit(1).of(model) for model in range(3))


def latency(
    seconds: Sequence[float] = SECONDS,
    *,
    batching: bool = False,
    spread: Mapping[PointId, Quantiles] | None = None,
) -> LatencyModel:
    table = {
        (segment, batch): Quantiles(*[one_s * (1 if batching else batch)] * 3)
        for segment, one_s in zip(SEGMENTS, seconds, strict=True)
        for batch in (1, 2, 4)
    }
    for point, quantiles in (spread or {}).items():
        table |= {(exit_of(point), batch): quantiles for batch in (1, 2, 4)}
    return LatencyModel(LatencyProfile("fake 1", "nowhere", "2026-01-01", 1, table))


def policy(merged=MERGED) -> Policy:
    first, *others = [(ap,) for ap in AP]
    return DeadlinePolicy(SEGMENTS, first, (1, 2, 4), 4, others, merged)


def request(id: int = 0, budget_s: float = 1.0) -> Request:
    return Request(id, 0.0, budget_s, 1, 1)


def decide(
    waiting: Sequence[Request] = (),
    held: Sequence[tuple[Request, PointId]] = (),
    *,
    demand: Demand = UNKNOWN,
    model: LatencyModel | None = None,
    merged=MERGED,
) -> Decision:
    answers = tuple(Held(one, *point) for one, point in held)
    snapshot = Snapshot(0.0, tuple(waiting), (), {}, demand, answers)
    return policy(merged).decide(snapshot, model or latency())


def exit_of(point: PointId) -> Segment:
    return segments.fused_exit(point[1]).of(point[0])


def erratic(share_late: float) -> LatencyModel:
    """It has seen runs of which this share took 20 times as long."""
    model = latency()
    for run in range(256):
        late = round(run * share_late) != round((run - 1) * share_late)
        model.observe(SEGMENTS[0], 1, SECONDS[0] * (20.0 if late else 1.0))
    return model


# ---- who is held --------------------------------------------------------------------------------


def test_a_pair_that_is_better_merged_begins_with_its_first_point():
    asked = request()
    assert decide([asked]) == Run(exit_of(MIDDLE), (asked,), None, hold=True)


def test_without_time_for_the_second_nobody_is_held():
    asked = request(budget_s=0.025)
    assert decide([asked]) == Run(exit_of(MIDDLE), (asked,), None)


def test_where_nothing_is_merged_and_nothing_late_one_run_is_enough():
    asked = request()
    assert decide([asked], merged={}) == Run(exit_of(MIDDLE), (asked,), None)


@pytest.mark.parametrize(("share_late", "first"), [(0.0, MIDDLE), (0.02, SMALL)])
def test_a_cheap_answer_comes_first_where_better_ones_may_be_late(share_late, first):
    """95 ms more than usual are in time for its 5 ms, and not for 10 ms."""
    asked = request(budget_s=0.102)
    decision = decide([asked], model=erratic(share_late), merged={})
    assert decision == Run(exit_of(first), (asked,), None, hold=first == SMALL)


def test_a_cheap_answer_is_not_bought_first_where_its_time_is_worth_more():
    asked, others = request(budget_s=0.102), replace(BUSY, rate_hz=300.0)
    decision = decide([asked], model=erratic(0.02), merged={}, demand=others)
    assert isinstance(decision, Run)
    assert not decision.hold


@pytest.mark.parametrize(("rate_hz", "first", "hold"), [(0.0, SMALL, True), (55.0, MIDDLE, False)])
def test_a_smaller_first_answer_needs_odds_that_the_second_comes(rate_hz, first, hold):
    """Both, in 25 ms, are worth .45, and the middle point .40 in 10. At 55 a second first answers
    leave .72 of the engine, of which second ones would take 1.1."""
    asked, others = request(), Demand(rate_hz, 1.0, (0.5,) * 6)
    decision = decide([asked], merged={SMALL: {LARGE: 0.45}}, demand=others)
    assert decision == Run(exit_of(first), (asked,), None, hold=hold)


# ---- who is run again ---------------------------------------------------------------------------


def test_who_is_held_is_run_again_for_what_is_worth_most():
    asked = request()
    assert decide(held=[(asked, MIDDLE)]) == Run(exit_of(LARGE), (asked,), None)
    assert decide(held=[(asked, SMALL)]) == Run(exit_of(MIDDLE), (asked,), None)


def test_of_better_points_the_one_that_can_be_in_time_is_taken():
    asked = request(budget_s=0.015)
    ladder = {SMALL: {LARGE: 0.6}}
    assert decide(held=[(asked, SMALL)], merged=ladder) == Run(exit_of(MIDDLE), (asked,), None)


def test_those_who_wait_go_first_as_long_as_the_upgrade_can_wait_for_them():
    waiting, asked = request(0, budget_s=0.5), request(1, budget_s=0.5)
    decision = decide([waiting], [(asked, MIDDLE)])
    assert isinstance(decision, Run)
    assert decision.requests == (waiting,)


def test_an_upgrade_that_cannot_wait_goes_first_if_that_makes_nobody_late():
    asked = request(1, budget_s=0.021)
    decision = decide([request(0, budget_s=0.5)], [(asked, MIDDLE)])
    assert decision == Run(exit_of(LARGE), (asked,), None)


def test_whether_it_makes_anybody_late_is_asked_of_what_it_seldom_exceeds():
    model = latency(spread={LARGE: Quantiles(0.020, 0.030, 0.040)})
    asked = request(1, budget_s=0.021)
    for left_s, is_first in ((0.5, True), (0.040, False)):  # it typically leaves time for either
        decision = decide([request(0, left_s)], [(asked, MIDDLE)], model=model)
        assert (decision == Run(exit_of(LARGE), (asked,), None)) is is_first


# ---- who is let go ------------------------------------------------------------------------------


def test_who_cannot_have_a_better_answer_in_time_is_let_go_at_once():
    late, best = request(0, budget_s=0.019), request(1)
    decision = decide([request(2)], [(late, MIDDLE), (best, LARGE)], merged={MIDDLE: {LARGE: 0.48}})
    assert decision == Conclude((late,))
    assert decide(held=[(best, MIDDLE)], merged={}) == Conclude((best,))


def test_whom_those_who_are_owed_an_answer_leave_no_time_is_let_go_at_once():
    asked = request(1, budget_s=0.021)
    assert decide([request(0, budget_s=0.022)], [(asked, MIDDLE)]) == Conclude((asked,))


def test_the_instant_at_which_it_is_sent_counts_not_the_deadline():
    asked = replace(request(budget_s=0.021), in_hand_reserve_s=0.002)
    assert decide(held=[(asked, MIDDLE)]) == Conclude((asked,))


def test_whom_the_upgrades_of_others_leave_no_time_is_let_go_at_once():
    """Two runs of 20 ms have room in 50 ms, and of three in 60 ms the last is just in time."""
    held = [(request(id, budget_s=0.05), MIDDLE) for id in range(4)]
    assert decide(held=held) == Conclude((request(2, 0.05), request(3, 0.05)))
    assert isinstance(decide(held=held[:2]), Run)
    later = [*held[:2], (request(3, budget_s=0.06), MIDDLE)]
    assert isinstance(decide(held=later), Run)


@pytest.mark.parametrize(
    ("rate_hz", "busy_share", "left_ms"), [(0, 1, 20), (20, 1, 25), (60, 1, 50), (60, 0, 20)]
)
def test_newcomers_take_their_part_of_the_engine_first(rate_hz, busy_share, left_ms):
    """10 ms each; but a client that waits for each of its answers keeps nobody else waiting."""
    others = Demand(rate_hz, 1.0, (0.2,) * 6, busy_share)
    for milliseconds, expected in ((left_ms + 1, Run), (left_ms - 1, Conclude)):
        asked = request(budget_s=milliseconds / 1e3)
        assert isinstance(decide(held=[(asked, MIDDLE)], demand=others), expected)


def test_upgrades_that_run_together_do_not_wait_for_each_other():
    held = [(request(id, budget_s=0.05), MIDDLE) for id in range(4)]
    assert isinstance(decide(held=held, model=latency(batching=True)), Run)


def test_whom_the_next_run_leaves_no_time_is_let_go_before_it():
    """The upgrade takes 20 ms, which newcomers in a hurry are worth more than, and the run 5."""
    waiting, asked = request(0, budget_s=0.5), request(1, budget_s=0.024)
    hurried = Demand(5.0, 1.0, (0.007,) * 6)
    assert decide([waiting], [(asked, MIDDLE)], demand=hurried) == Conclude((asked,))
    patient = replace(asked, deadline_s=0.026)
    decision = decide([waiting], [(patient, MIDDLE)], demand=hurried)
    assert decision == Run(exit_of(SMALL), (waiting,), None)


def test_nobody_is_held_whom_the_upgrades_of_others_leave_no_time():
    asked, held = (
        request(9, budget_s=0.06),
        [(request(id, budget_s=0.1), MIDDLE) for id in range(2)],
    )
    alone, behind = decide([asked]), decide([asked], held)
    assert isinstance(alone, Run)
    assert isinstance(behind, Run)
    assert (alone.hold, behind.hold) == (True, False)


def test_who_has_nothing_to_gain_that_is_worth_its_time_is_let_go_when_there_is_nothing_else():
    asked, crowd = request(), replace(BUSY, rate_hz=1000.0)
    assert decide(held=[(asked, MIDDLE)], demand=crowd) == Conclude((asked,))


def test_of_too_many_those_with_least_to_gain_are_let_go():
    """From the middle point there is .08 to gain, from the small one .10."""
    held = [(request(id), MIDDLE if id < 3 else SMALL) for id in range(MAX_HELD + 2)]
    assert decide(held=held) == Conclude((request(0), request(1)))


# ---- what always holds --------------------------------------------------------------------------


def played(
    requests: Sequence[Request], seed: int, **trouble: object
) -> tuple[list[SimulatedOutcome], list[tuple[Snapshot, Decision]]]:
    outcomes: list[SimulatedOutcome] = []
    decisions: list[tuple[Snapshot, Decision]] = []
    rng, model = np.random.default_rng(seed), latency()
    table = {
        (segment, batch): Quantiles(*[one_s * batch] * 3)
        for segment, one_s in zip(SEGMENTS, SECONDS, strict=True)
        for batch in (1, 2, 4)
    }
    profile = LatencyProfile("fake 1", "nowhere", "2026-01-01", 1, table)
    service = ServiceTimes(profile, 0.05, rng, **trouble)  # type: ignore[arg-type]
    server = SimulatedServer(
        policy(), model, service, outcomes.append, decided=lambda *both: decisions.append(both)
    )
    simulate(requests, server)
    return outcomes, decisions


@st.composite
def arrivals(draw: st.DrawFn) -> list[Request]:
    gaps_s = draw(st.lists(st.floats(0.0, 0.06), min_size=1, max_size=40))
    now_s, requests = 0.0, []
    for id, gap_s in enumerate(gaps_s):
        now_s += gap_s
        requests.append(Request(id, now_s, now_s + draw(st.floats(0.001, 0.2)), 1, 1))
    return requests


@examples(60)
@given(arrivals(), st.integers(0, 99), st.booleans())
def test_a_held_request_is_never_shed_and_always_ends_with_an_answer_in_time(
    requests, seed, stalls
):
    trouble: dict[str, object] = (
        {"stalls": Stalls(0.1, 0.03), "slow_periods": SlowPeriods(0.2, 0.05, 2.0)} if stalls else {}
    )
    outcomes, decisions = played(requests, seed, **trouble)
    assert sorted(o.request.id for o in outcomes) == [r.id for r in requests], "each ends once"
    ever_held = {one.request.id for snapshot, _ in decisions for one in snapshot.held}
    assert all(o.in_time for o in outcomes if o.request.id in ever_held)
    for snapshot, decision in decisions:
        held = {one.request.id for one in snapshot.held}
        if isinstance(decision, ShedRequests):
            assert not held & {r.id for r in decision.requests}
        if isinstance(decision, Run) and held & {r.id for r in decision.requests}:
            assert decision.segment.kind == "exit"
            assert held >= {r.id for r in decision.requests}, "they go by themselves"


@examples(60)
@given(arrivals(), st.integers(0, 99))
def test_nobody_has_more_than_two_answers(requests, seed):
    _, decisions = played(requests, seed)
    runs = [r.id for _, d in decisions if isinstance(d, Run) for r in d.requests]
    assert max((runs.count(id) for id in set(runs)), default=0) <= 2


@pytest.mark.parametrize("share_late", [0.0, 0.02])
def test_alone_a_looser_budget_never_yields_a_worse_answer(share_late):
    ladder = Ladder(("a", "b", "c"), tuple((ap,) for ap in AP), MERGED)
    values = []
    for milliseconds in range(1, 120):
        asked, points = request(budget_s=milliseconds / 1e3), []
        decision = decide([asked], model=erratic(share_late))
        while isinstance(decision, Run):
            points.append((decision.segment.model, decision.segment.stop))
            if not decision.hold:
                break
            left = replace(asked, deadline_s=asked.deadline_s - SECONDS[points[0][0]])
            decision = decide(held=[(left, points[0])], model=erratic(share_late))
        values.append(ladder.answer_ap(points))
    assert values == sorted(values)
    assert set(values) == {0.0, 0.3, 0.4, 0.48}
