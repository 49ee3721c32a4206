"""Requests that want the boxes of every exit they pass: what they get, and what they cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core import segment as segments
from serving.core.errors import ShedReason
from serving.core.latency import LatencyModel
from serving.core.policy import Cohort, Conclude, Run, ShedRequests, Snapshot
from serving.core.request import Answered, Request, Shed
from tests.properties import examples
from tests.serving.core.scheduling.test_deadline_policy import request_lists, worlds
from tests.serving.world import (
    HEAD_S,
    NUM_EXITS,
    STACK_S,
    STEM_S,
    FakeClock,
    FakeRunner,
    World,
    cost_s,
    exact_profile,
    make_policy,
    unit_s,
)

LATENCY = LatencyModel(exact_profile())


def grown(id: int, budget_s: float = 1.0, min_depth: int = 1, max_depth: int = NUM_EXITS):
    return Request(id, 0.0, budget_s, min_depth, max_depth, streaming=True)


def plain(id: int, budget_s: float = 1.0, min_depth: int = 1, max_depth: int = NUM_EXITS):
    return Request(id, 0.0, budget_s, min_depth, max_depth)


def decide(waiting=(), cohorts=(), answered=None, max_cohorts=8, **offer):
    policy = make_policy(FakeRunner(FakeClock(), **offer), max_cohorts)
    return policy.decide(Snapshot(0.0, tuple(waiting), tuple(cohorts), answered or {}), LATENCY)


# ---- one decision -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "answered", "segment"),
    [
        (0, 0, segments.stack(1)),
        (1, 0, segments.stack(2)),
        (2, 0, segments.head(2)),
        (2, 2, segments.stack(3)),
        (3, 2, segments.head(3)),
        (4, 4, segments.stack(5)),
        (5, 4, segments.head(5)),
    ],
)
def test_from_its_first_exit_on_it_takes_a_head_at_each(depth, answered, segment):
    asked = grown(0, min_depth=2)
    decision = decide((), [Cohort(7, depth, (asked,))], {0: answered} if answered else {})
    assert decision == Run(segment, (asked,), 7)


def test_it_starts_on_unit_segments_even_where_a_fused_run_would_go_deeper():
    budget_s = cost_s(segments.fused_exit(4)) + 1e-6
    assert decide([plain(0, budget_s)]) == Run(segments.fused_exit(4), (plain(0, budget_s),), None)
    assert decide([grown(0, budget_s)]) == Run(segments.STEM, (grown(0, budget_s),), None)


def test_with_one_exit_to_its_name_it_is_a_request_like_any_other():
    asked = grown(0, cost_s(segments.fused_exit(3)) + 1e-6, min_depth=3, max_depth=3)
    assert decide([asked]) == Run(segments.fused_exit(3), (asked,), None)


def test_it_is_shed_where_only_a_fused_run_would_be_quick_enough():
    budget_s = (cost_s(segments.fused_exit(1)) + unit_s(1)) / 2
    asked, other = grown(0, budget_s), plain(1, budget_s)
    assert decide([other, asked]) == ShedRequests((asked,), ShedReason.REJECTED_EXPIRED, 0.0)


def test_a_batch_with_one_that_grows_is_no_larger_than_unit_segments_allow():
    """Four in a fused run would be in time, on unit segments not; and one by one, not everybody."""
    budget_s = (cost_s(segments.fused_exit(1), 4) + 3 * unit_s(1)) / 2
    crowd = [plain(i, 0.110) for i in range(1, 12)]
    assert decide([grown(0, budget_s), *crowd]).requests == (grown(0, budget_s),)


def test_its_first_answer_comes_before_the_depth_of_others():
    asked, other = grown(0, min_depth=2), plain(1)
    cohorts = [Cohort(7, 2, (asked,)), Cohort(8, 1, (other,))]
    assert decide((), cohorts) == Run(segments.head(2), (asked,), 7)
    assert decide((), cohorts, {0: 2}) == Run(segments.stack(2), (other,), 8), "not the second one"


def test_its_first_answer_does_not_come_before_those_who_have_no_time_for_it():
    asked, urgent = grown(0), plain(1, HEAD_S + 0.001)
    cohorts = [Cohort(7, 1, (asked,)), Cohort(8, 1, (urgent,))]
    assert decide((), cohorts) == Run(segments.head(1), (urgent,), 8)


def test_its_heads_count_against_it_when_depth_is_shared_out():
    asked, other = grown(0, 0.9), plain(1)
    assert decide([asked, other], fused=False) == Run(segments.STEM, (other,), None)


def test_a_batch_of_both_kinds_starts_early_only_with_time_for_all_its_heads():
    """The first in the plan may not go deeper; the batch behind it would be started before it."""
    # The streaming rows' head at exit 1 and everybody's at exit 2, instead of one head at exit 1.
    extra_s = 3 * cost_s(segments.head(1), 2) - cost_s(segments.head(1), 4)
    extra_s += cost_s(segments.stack(2), 4)
    batch_s = 3 * unit_s(1)
    first_s = cost_s(segments.fused_exit(1))
    first = plain(0, first_s + extra_s + 0.001, max_depth=1)
    for spare_s, segment in ((1e-6, segments.STEM), (-1e-6, segments.fused_exit(1))):
        budget_s = first_s + batch_s + extra_s + spare_s
        both = [plain(1, budget_s), plain(2, budget_s), grown(3, budget_s), grown(4, budget_s)]
        assert decide([first, *both]).segment == segment


@pytest.mark.parametrize(("depth", "next_s"), [(2, STACK_S + HEAD_S), (3, HEAD_S)])
def test_it_ends_when_its_next_answer_could_not_be_in_time(depth, next_s):
    for budget_s, ends in ((next_s + 1e-6, False), (next_s - 1e-6, True)):
        asked = grown(0, budget_s)
        decision = decide((), [Cohort(7, depth, (asked,))], {0: 2})
        assert (decision == Conclude((asked,))) == ends


def test_with_an_answer_it_waits_for_those_whom_going_on_would_make_late():
    asked, urgent = grown(0), plain(1, unit_s(1) + 0.001, max_depth=1)
    decision = decide([urgent], [Cohort(7, 1, (asked,))], {0: 1})
    assert isinstance(decision, Run)
    assert decision.requests == (urgent,)


def test_with_an_answer_it_makes_room_for_a_newcomer():
    """Of two with an answer, the one that has the better one."""
    asked = [grown(0), grown(1)]
    cohorts = [Cohort(7, 1, (asked[0],)), Cohort(8, 3, (asked[1],))]
    newcomer = plain(2, unit_s(1) + 0.001)
    decision = decide([newcomer], cohorts, {0: 1, 1: 3}, max_cohorts=2)
    assert decision == Run(segments.fused_exit(1), (newcomer,), None), "which needs no room"
    stopping = plain(2, unit_s(3) + 0.001)
    decision = decide([stopping], cohorts, {0: 1, 1: 3}, max_cohorts=2, fused=False)
    assert decision == Conclude((asked[1],))
    cohorts.pop()
    decision = decide([stopping], cohorts, {0: 1}, max_cohorts=2, fused=False)
    assert decision == Run(segments.STEM, (stopping,), None)


class TestCohortsOfBothKinds:
    """Two rows: one that streams, and one that leaves with its only answer."""

    def decide(self, depth: int, budget_s: float, answered: dict[int, int]):
        asked, other = grown(0), plain(1, budget_s)
        decision = decide((), [Cohort(7, depth, (asked, other))], answered)
        return asked, other, decision

    def test_a_head_for_the_growing_row_alone_if_there_is_time_for_another(self):
        asked, _, decision = self.decide(1, 2 * HEAD_S + 1e-6, {})
        assert decision == Run(segments.head(1), (asked,), 7)

    def test_one_head_for_both_if_not(self):
        asked, other, decision = self.decide(1, 2 * HEAD_S - 1e-6, {})
        assert decision == Run(segments.head(1), (asked, other), 7)

    def test_both_go_deeper_if_there_is_time_for_the_growing_rows_head_as_well(self):
        stack_s = cost_s(segments.stack(2), 2)
        asked, other, decision = self.decide(1, stack_s + 2 * HEAD_S + 1e-6, {0: 1})
        assert decision == Run(segments.stack(2), (asked, other), 7)

    def test_the_growing_row_ends_where_it_would_keep_the_other_from_going_deeper(self):
        stack_s = cost_s(segments.stack(2), 2)
        asked, _, decision = self.decide(1, stack_s + 2 * HEAD_S - 1e-6, {0: 1})
        assert decision == Conclude((asked,))
        asked, _, decision = self.decide(2, STACK_S + HEAD_S + 1e-6, {0: 1})
        assert decision == Conclude((asked,)), "neither may it pass an exit without an answer"

    def test_the_other_leaves_alone_when_it_cannot_go_deeper(self):
        _, other, decision = self.decide(1, HEAD_S + 1e-6, {0: 1})
        assert decision == Run(segments.head(1), (other,), 7)

    def test_the_last_exit_answers_both_at_once_if_the_slack_is_enough_for_that(self):
        slack_s = cost_s(segments.head(NUM_EXITS), 2)
        asked, other, decision = self.decide(NUM_EXITS, HEAD_S + slack_s + 1e-6, {0: NUM_EXITS - 1})
        assert decision == Run(segments.head(NUM_EXITS), (asked, other), 7)
        asked, other, decision = self.decide(NUM_EXITS, HEAD_S + slack_s - 1e-6, {0: NUM_EXITS - 1})
        assert decision == Run(segments.head(NUM_EXITS), (asked,), 7), "for one it is"

    def test_the_last_exit_answers_only_the_other_if_not(self):
        _, other, decision = self.decide(NUM_EXITS, 0.009, {0: NUM_EXITS - 1})
        assert decision == Run(segments.head(NUM_EXITS), (other,), 7)

    def test_a_growing_row_without_an_answer_is_among_the_urgent_ones(self):
        urgent_s = cost_s(segments.head(1), 2)
        rows = (plain(2, 0.100), plain(1, urgent_s + 1e-6), grown(0, 0.100))
        decision = decide((), [Cohort(7, 1, rows)])
        assert decision == Run(segments.head(1), rows[1:], 7)


@st.composite
def snapshots(draw):
    """Any state an executor may be in: cohorts of one pair of bounds each, some of whose streaming
    rows were answered at the exit before this one or at this one."""
    ids = iter(range(1000))
    answered, cohorts = {}, []

    def request(bounds: tuple[int, int]) -> Request:
        budget_s = draw(st.floats(0.5, 6)) * unit_s(1)
        return Request(next(ids), 0.0, budget_s, *bounds, streaming=draw(st.booleans()))

    def draw_bounds() -> tuple[int, int]:
        low, high = sorted(draw(st.tuples(*[st.integers(1, NUM_EXITS)] * 2)))
        return draw(st.sampled_from([(low, high), (1, NUM_EXITS)]))

    for number in range(draw(st.integers(0, 4))):
        bounds = draw_bounds()
        depth = draw(st.integers(0, bounds[1]))
        rows = tuple(request(bounds) for _ in range(draw(st.integers(1, 4))))
        for row in rows:
            at = draw(st.sampled_from([0, depth - 1, depth]))
            if row.streaming and bounds[0] <= at < bounds[1]:
                answered[row.id] = at
        cohorts.append(Cohort(number, depth, rows))
    waiting = [request(draw_bounds()) for _ in range(draw(st.integers(0, 6)))]
    waiting.sort(key=lambda r: (r.deadline_s, r.id))
    return Snapshot(0.0, tuple(waiting), tuple(cohorts), answered)


def without(snapshot: Snapshot, gone) -> Snapshot:
    """As if the requests with these ids had never been."""
    kept = [
        replace(cohort, requests=tuple(r for r in cohort.requests if r.id not in gone))
        for cohort in snapshot.cohorts
    ]
    return replace(
        snapshot,
        cohorts=tuple(cohort for cohort in kept if cohort.requests),
        answered={id: depth for id, depth in snapshot.answered.items() if id not in gone},
    )


@given(snapshots(), st.integers(1, 4), st.booleans())
@examples(400)
def test_decisions_about_growing_requests_are_sound(snapshot, max_cohorts, fused):
    policy = make_policy(FakeRunner(FakeClock(), fused=fused), max_cohorts)
    match policy.decide(snapshot, LATENCY):
        case ShedRequests(requests=requests):
            assert not [r for r in requests if r.id in snapshot.answered], "it has an answer"
        case Conclude(requests=requests):
            assert requests
            assert all(r.id in snapshot.answered for r in requests)
        case Run(segment=segment, requests=requests, cohort=cohort):
            streaming = [r for r in requests if r.streaming and r.min_depth < r.max_depth]
            if cohort is None:
                assert not (segment.head and streaming), "a fused run leaves no features"
            elif segment.head:
                done = [r for r in streaming if snapshot.answered.get(r.id) == segment.stop]
                assert not done, "no exit answers twice"
            else:
                passed = [r for r in streaming if segment.start >= r.min_depth]
                assert all(snapshot.answered.get(r.id) == segment.start for r in passed)


@given(snapshots(), st.integers(1, 4))
@examples(400)
def test_whom_the_policy_sheds_does_not_depend_on_those_with_an_answer(snapshot, max_cohorts):
    policy = make_policy(FakeRunner(FakeClock()), max_cohorts)

    def sheds(seen: Snapshot):
        decision = policy.decide(seen, LATENCY)
        while isinstance(decision, Conclude):
            seen = without(seen, {r.id for r in decision.requests})
            decision = policy.decide(seen, LATENCY)
        return decision if isinstance(decision, ShedRequests) else None

    assert sheds(snapshot) == sheds(without(snapshot, set(snapshot.answered)))


# ---- whole schedules ----------------------------------------------------------------------------


def test_a_lone_one_is_answered_at_every_exit_in_order_and_ends_with_the_last():
    world = World()
    end = world.play([grown(0, min_depth=2)])[0]
    assert [answer.depth for answer in world.answers[0]] == [2, 3, 4, 5]
    assert end is world.answers[0][-1]
    first_s = STEM_S + 2 * STACK_S + HEAD_S
    for number, answer in enumerate(world.answers[0]):
        expected_s = first_s + number * (STACK_S + HEAD_S)
        assert answer.finished_s == pytest.approx(expected_s)
        assert answer.engine_s == answer.predicted_s == pytest.approx(expected_s)
    assert world.recorder.results == [end]


@given(worlds(), request_lists())
@examples(200)
def test_one_answer_for_each_exit_from_the_first_on_and_each_in_time(world, requests):
    for id, end in world.play(requests).items():
        request, depths = requests[id], [answer.depth for answer in world.answers[id]]
        if not isinstance(end, Answered):
            assert depths == []
        elif request.streaming and world.runner.units:
            assert depths == list(range(request.min_depth, end.depth + 1))
        else:
            assert depths == [end.depth]
        for answer in world.answers[id]:
            assert answer.finished_s <= request.deadline_s + 1e-9
            assert answer.detections.scores[0] == id


@given(st.data(), request_lists(max_size=6), st.booleans())
@examples(150)
def test_with_an_answer_it_keeps_nobody_out(data, requests, fused):
    """At the moment of its first answer others arrive. They, and whoever was there, fare as well
    as if it had been cancelled in that moment."""
    first = grown(0, data.draw(st.floats(1.0, 6.0)) * unit_s(1))
    others = [replace(r, id=r.id + 1, arrival_s=0.0) for r in requests]
    burst = [replace(r, id=r.id + 100) for r in data.draw(request_lists(max_size=6))]

    def play(cancelled: bool):
        world = World(FakeRunner(FakeClock(), fused=fused))

        def arrive(answer: Answered) -> None:
            if answer.request.id == first.id and len(world.answers[first.id]) == 1:
                now_s = world.clock.now_s
                for r in burst:
                    budget_s = r.deadline_s - r.arrival_s
                    world.submit(replace(r, arrival_s=now_s, deadline_s=now_s + budget_s))
                if cancelled:
                    world.executor.cancel(first.id)

        world.on_answer = arrive
        ends = world.play([first, *others])
        return {id: isinstance(end, Answered) for id, end in ends.items() if id != first.id}

    assert play(cancelled=False) == play(cancelled=True)


def test_load_ends_it_with_what_it_has():
    """A flood arrives after its second answer, and leaves no time for a third one."""
    world = World()
    flood = [replace(plain(i, max_depth=1), deadline_s=0.086) for i in range(1, 9)]

    def arrive(answer: Answered) -> None:
        if answer.request.id == 0 and answer.depth == 2:
            for r in flood:
                world.submit(replace(r, arrival_s=world.clock.now_s))

    world.on_answer = arrive
    ends = world.play([grown(0, budget_s=0.090)])
    assert ends[0].depth == 2
    assert all(isinstance(ends[r.id], Answered) for r in flood)


def test_it_is_shed_only_without_an_answer():
    late = grown(0, budget_s=STEM_S)
    end = World().play([late])[0]
    assert isinstance(end, Shed)
    assert end.reason is ShedReason.REJECTED_EXPIRED
