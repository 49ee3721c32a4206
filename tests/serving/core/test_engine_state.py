"""One engine's state, by itself and beside a device whose batches follow what it says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.core import segment as segments
from serving.core.engine_state import Arrivals, CohortChange, Completion, EngineState
from serving.core.errors import ShedReason
from serving.core.policy import Cohort, Conclude, Held, Merge, Run, ShedRequests, Wait
from serving.core.request import Request
from serving.core.segment import Segment

NUM_EXITS = 3
MAX_HELD = 3


def request(
    id: int, deadline_s: float = 1.0, *, streaming: bool = False, stream: str = ""
) -> Request:
    return Request(id, 0.0, deadline_s, 1, NUM_EXITS, streaming, stream=stream)


A, B, C, D = (request(id) for id in range(4))
S, T = (request(id, streaming=True) for id in (10, 11))


def state_of(*waiting: Request) -> EngineState:
    state = EngineState(MAX_HELD)
    state.add([(each, each.arrival_s) for each in waiting])
    return state


def ran(state: EngineState, run: Run) -> Completion:
    state.apply(run)
    return state.complete(run, 0.0)


def with_cohort(*requests: Request, depth: int = 1) -> EngineState:
    """They are cohort 0, at this depth."""
    state = state_of(*requests)
    ran(state, Run(segments.STEM, requests, None))
    for k in range(1, depth + 1):
        ran(state, Run(segments.stack(k), requests, 0))
    return state


def shed(*requests: Request) -> ShedRequests:
    return ShedRequests(requests, ShedReason.REJECTED_OVERLOAD, 0.0)


def test_nothing_is_empty():
    state = EngineState(MAX_HELD)
    assert state.is_empty
    assert (state.num_waiting, state.num_in_flight, state.num_held) == (0, 0, 0)
    snapshot = state.snapshot(2.0)
    assert (snapshot.now_s, snapshot.waiting, snapshot.cohorts) == (2.0, (), ())


def test_who_waits_is_in_order_of_deadline_and_then_of_id():
    late, early, twin = request(1, 0.9), request(2, 0.1), request(0, 0.9)
    assert state_of(late, early, twin).snapshot(0.0).waiting == (early, twin, late)


def test_demand_is_measured_from_when_they_were_submitted():
    state = EngineState(MAX_HELD)
    for id in range(10):
        state.add([(Request(id, 0.0, id * 0.1 + 0.5, 1, 1), id * 0.1)])
    demand = state.snapshot(0.9).demand
    assert demand.rate_hz == pytest.approx(10.0)
    assert demand.budget_s == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("gap_s", "share"),
    [
        (0.02, 1.0),  # each comes while the one before is still worked on
        (0.04, 1.0),  # or waited for, as when the engine was at work until its run ended
        (0.0501, 0.0),  # as soon as the one before has its answer
        (0.08, 0.0),
    ],
)
def test_whether_arrivals_find_the_engine_at_work(gap_s: float, share: float):
    """Each is answered .05 s after it came; what arrives meanwhile is taken in then."""
    state = EngineState(MAX_HELD)
    for number in range(16):
        came_s = number * gap_s
        new = Request(number, came_s, came_s + 1.0, 1, 1)
        state.add([(new, came_s)])
        run = Run(segments.fused_exit(1), (new,), None)
        state.apply(run)
        state.complete(run, came_s + 0.05)
    assert state.snapshot(16 * gap_s).demand.busy_share == pytest.approx(share)


def test_a_stem_makes_a_cohort_and_they_wait_until_it_has():
    state, run = state_of(A, B, C), Run(segments.STEM, (A, B), None)
    assert state.apply(run) == ()
    assert state.num_waiting == 3
    assert state.cohort_of(run) == 0
    assert state.complete(run, 0.0) == Completion(Cohort(0, 0, (A, B)))
    assert state.snapshot(0.0).waiting == (C,)
    assert state.snapshot(0.0).cohorts == (Cohort(0, 0, (A, B)),)
    assert (state.num_waiting, state.num_in_flight) == (1, 2)
    assert ran(state, Run(segments.STEM.of(1), (C,), None)).cohort == Cohort(1, 0, (C,), 1)


def test_a_stack_makes_it_deeper():
    state, run = with_cohort(A, B), Run(segments.stack(2), (A, B), 0)
    state.apply(run)
    assert state.cohort_of(run) == 0
    assert state.complete(run, 0.0).cohort == state.cohort(0) == Cohort(0, 2, (A, B))


def test_a_head_for_some_leaves_the_others():
    state = with_cohort(A, B, C)
    completion = ran(state, Run(segments.head(1), (C, A), 0))
    assert completion == Completion(None, left=(C, A), changes=(CohortChange(0, (1,)),))
    assert state.cohort(0).requests == (B,)
    assert ran(state, Run(segments.head(1), (B,), 0)).changes == (CohortChange(0, ()),)
    assert state.is_empty


def test_a_fused_run_makes_no_cohort():
    state, run = state_of(A, S), Run(segments.fused_exit(2), (A, S), None)
    state.apply(run)
    assert state.cohort_of(run) is None
    assert state.complete(run, 0.0) == Completion(None, left=(A, S))
    assert state.is_empty
    assert ran(state_of(A), Run(segments.STEM, (A,), None)).cohort == Cohort(0, 0, (A,))


def test_who_streams_stays_until_its_deepest_exit():
    state = with_cohort(A, S)
    completion = ran(state, Run(segments.head(1), (A, S), 0))
    assert (completion.left, completion.staying) == ((A,), (S,))
    assert state.snapshot(0.0).answered == {S.id: 1}
    for k in (2, 3):
        ran(state, Run(segments.stack(k), (S,), 0))
    assert ran(state, Run(segments.head(3), (S,), 0)).left == (S,)
    assert state.is_empty
    assert state.snapshot(0.0).answered == {}


def test_a_snapshot_does_not_change_afterwards():
    state = with_cohort(S)
    ran(state, Run(segments.head(1), (S,), 0))
    before = state.snapshot(0.0)
    ran(state, Run(segments.stack(2), (S,), 0))
    ran(state, Run(segments.head(2), (S,), 0))
    assert (before.answered, before.cohorts[0].depth) == ({S.id: 1}, 1)


def test_shedding_and_concluding_remove_rows():
    state = with_cohort(A, S, B)
    ran(state, Run(segments.head(1), (S,), 0))
    assert state.apply(shed(A)) == (CohortChange(0, (1, 2)),)
    assert state.apply(Conclude((S,))) == (CohortChange(0, (1,)),)
    assert state.snapshot(0.0).answered == {}
    assert state.apply(shed(B)) == (CohortChange(0, ()),)
    assert state.is_empty


def test_whoever_waits_is_shed_without_a_change_of_cohorts():
    state = state_of(A, B)
    assert state.apply(shed(A)) == ()
    assert state.apply(Wait(1.0)) == ()
    assert state.snapshot(0.0).waiting == (B,)


def test_merged_cohorts_are_one_under_the_first_ones_id_and_the_last_in_order():
    state = state_of(A, B, C, D)
    for requests in ((A,), (B,), (C, D)):
        ran(state, Run(segments.STEM, requests, None))
    assert state.apply(Merge((0, 2))) == ()
    assert state.snapshot(0.0).cohorts == (Cohort(1, 0, (B,)), Cohort(0, 0, (A, C, D)))


def test_a_run_that_failed_takes_everybody_in_it_along():
    state, run = with_cohort(A, S, B), Run(segments.head(1), (A, S), 0)
    state.apply(run)
    assert state.fail(run) == (CohortChange(0, (2,)),)
    assert state.cohort(0).requests == (B,)
    state, run = state_of(A, B), Run(segments.STEM, (A,), None)
    state.apply(run)
    assert state.fail(run) == ()
    assert state.snapshot(0.0).waiting == (B,)


class TestHeld:
    """With an answer in hand; the models are sizes, of which the first is the smallest."""

    FIRST = Run(segments.fused_exit(1), (A, B), None, hold=True)
    AGAIN = Run(segments.fused_exit(2).of(1), (A,), None)

    def state(self, *requests: Request) -> EngineState:
        state = state_of(*requests)
        completion = ran(state, Run(segments.fused_exit(1), requests, None, hold=True))
        assert completion == Completion(None, held=requests)
        return state

    def test_whom_a_run_from_the_image_answers_is_held(self):
        state = self.state(A, B)
        assert state.snapshot(0.0).held == (Held(A, 0, 1), Held(B, 0, 1))
        assert (state.num_waiting, state.num_in_flight, state.num_held) == (0, 0, 2)
        assert not state.is_empty

    def test_whom_a_head_answers_is_held_without_features(self):
        state = with_cohort(A, S, B)
        completion = ran(state, Run(segments.head(1), (A, S), 0, hold=True))
        assert (completion.held, completion.staying) == ((A,), (S,))
        assert completion.changes == (CohortChange(0, (1, 2)),)
        assert state.snapshot(0.0).held == (Held(A, 0, 1),)

    def test_who_streams_is_held_at_its_deepest_exit(self):
        state = with_cohort(S, depth=NUM_EXITS)
        completion = ran(state, Run(segments.head(NUM_EXITS), (S,), 0, hold=True))
        assert (completion.held, completion.staying) == ((S,), ())
        assert state.snapshot(0.0).answered == {}
        assert state.snapshot(0.0).held == (Held(S, 0, NUM_EXITS),)

    def test_they_are_in_order_of_deadline_and_then_of_id(self):
        late, early, twin = request(1, 0.9), request(2, 0.1), request(0, 0.9)
        held = self.state(late, early, twin).snapshot(0.0).held
        assert [each.request for each in held] == [early, twin, late]

    def test_who_is_answered_late_is_not_held(self):
        state, run = state_of(A, C), Run(segments.fused_exit(1), (A, C), None, hold=True)
        state.apply(run)
        assert state.complete(run, 1.0 + 1e-6) == Completion(None, left=(A, C))
        assert state.is_empty

    def test_no_more_are_held_than_the_bound_says(self):
        state = state_of(A, B, C, D)
        completion = ran(state, Run(segments.fused_exit(1), (A, B, C, D), None, hold=True))
        assert (completion.held, completion.left) == ((A, B, C), (D,))
        again = Run(segments.fused_exit(2), (A, B), None, hold=True)
        assert ran(state, again).held == (A, B), "they have their place"

    def test_a_better_answer_ends_it_or_is_held_again(self):
        state = self.state(A, B)
        held_again = Run(segments.fused_exit(2).of(1), (B,), None, hold=True)
        assert ran(state, held_again) == Completion(None, held=(B,))
        assert ran(state, self.AGAIN) == Completion(None, left=(A,))
        assert state.snapshot(0.0).held == (Held(B, 1, 2),)

    def test_an_answer_that_comes_too_late_changes_nothing(self):
        state = self.state(A, B)
        state.apply(self.AGAIN)
        assert state.complete(self.AGAIN, 1.0 + 1e-6) == Completion(None, too_late=(A,))
        assert state.snapshot(0.0).held == (Held(B, 0, 1),)

    def test_who_waits_may_run_with_whoever_is_held(self):
        state = self.state(A)
        state.add([(B, 0.0)])
        run = Run(segments.fused_exit(2), (A, B), None)
        state.apply(run)
        assert state.complete(run, 2.0) == Completion(None, left=(B,), too_late=(A,))
        assert state.is_empty

    def test_they_expire_at_their_deadline(self):
        soon = request(7, 0.5)
        state = self.state(A, soon)
        assert state.next_expiry_s == 0.5
        assert state.expire(0.499) == ()
        assert state.expire(0.5) == (soon,)
        assert state.next_expiry_s == 1.0
        assert state.snapshot(0.5).held == (Held(A, 0, 1),)

    def test_each_is_concluded_its_reserve_before_its_deadline(self):
        early, late = replace(B, in_hand_reserve_s=0.5), replace(C, in_hand_reserve_s=0.25)
        state = self.state(A, late, early)
        assert [held.request for held in state.snapshot(0.0).held] == [early, late, A]
        assert (state.next_expiry_s, state.expire(0.5)) == (0.5, (early,))
        assert state.next_expiry_s == 0.75
        again = Run(segments.fused_exit(2), (late, A), None, hold=True)
        state.apply(again)
        assert state.complete(again, 0.76) == Completion(None, held=(A,), too_late=(late,))

    def test_a_first_answer_counts_until_the_deadline_and_is_then_not_held(self):
        request = replace(A, in_hand_reserve_s=0.5)
        state, run = state_of(request), Run(segments.fused_exit(1), (request,), None, hold=True)
        state.apply(run)
        assert state.complete(run, 0.9) == Completion(None, left=(request,))

    def test_who_is_under_way_expires_when_the_run_ends(self):
        state = self.state(A)
        state.apply(self.AGAIN)
        assert state.next_expiry_s == math.inf
        assert state.expire(2.0) == ()
        assert (state.snapshot(2.0).held, state.num_held) == ((), 1)
        assert state.complete(self.AGAIN, 2.0).too_late == (A,)

    def test_they_are_concluded_removed_and_leave_with_a_run_that_fails(self):
        state = self.state(A, B, C)
        assert state.apply(Conclude((B,))) == ()
        state.apply(self.AGAIN)
        assert state.fail(self.AGAIN) == ()
        assert state.snapshot(0.0).held == (Held(C, 0, 1),)
        assert state.remove((C,)) == ()
        assert state.is_empty

    def test_who_is_removed_meanwhile_is_answered_no_more(self):
        state = self.state(A, B)
        run = Run(segments.fused_exit(2), (A, B), None, hold=True)
        state.apply(run)
        state.remove((A,))
        assert state.complete(run, 0.0) == Completion(None, held=(B,))

    def test_they_are_not_made_features_again(self):
        with pytest.raises(ValueError, match="stem: held requests go to an exit in one run"):
            self.state(A).apply(Run(segments.STEM, (A,), None))

    @pytest.mark.parametrize(("upgrading", "share"), [(False, 0.0), (True, 1.0)])
    def test_an_engine_is_at_work_when_it_runs_not_when_it_holds(
        self, upgrading: bool, share: float
    ):
        """One request is held all the time; others come, answered before the next does."""
        state = self.state(request(99, 100.0))
        again = Run(segments.fused_exit(2), (request(99, 100.0),), None, hold=True)
        for number in range(16):
            came_s = float(number)
            new = Request(number, came_s, came_s + 1.0, 1, 1)
            state.add([(new, came_s)])
            run = Run(segments.fused_exit(1), (new,), None)
            state.apply(run)
            state.complete(run, came_s + 0.1)
            if upgrading:
                state.apply(again)
                state.complete(again, came_s + 1.1)
        assert state.snapshot(16.0).demand.busy_share == pytest.approx(share)


class TestSeveralRuns:
    def test_what_is_under_way_is_in_no_snapshot(self):
        state = with_cohort(A, B)
        state.add([(C, 0.0), (D, 0.0)])
        state.apply(Run(segments.STEM, (C,), None))
        state.apply(Run(segments.head(1), (A,), 0))
        snapshot = state.snapshot(0.0)
        assert (snapshot.waiting, snapshot.cohorts) == ((D,), ())
        assert not state.is_empty

    @pytest.mark.parametrize(
        "other",
        [Run(segments.stack(2), (A, B), 0), Run(segments.head(1), (B,), 0)],
        ids=["cohort", "rows of it"],
    )
    def test_a_cohort_takes_part_in_one_run_at_a_time(self, other: Run):
        state = with_cohort(A, B)
        state.apply(Run(segments.head(1), (A,), 0))
        with pytest.raises(ValueError, match="a run of head_1 is under way"):
            state.apply(other)

    def test_a_request_takes_part_in_one_run_at_a_time(self):
        state = state_of(A, B)
        state.apply(Run(segments.STEM, (A,), None))
        with pytest.raises(ValueError, match="a run of stem is under way"):
            state.apply(Run(segments.fused_exit(1), (B, A), None))

    def test_they_may_end_in_any_order(self):
        state = state_of(A, B)
        first, second = Run(segments.STEM, (A,), None), Run(segments.STEM, (B,), None)
        state.apply(first)
        state.apply(second)
        assert state.complete(second, 0.0).cohort == Cohort(1, 0, (B,))
        assert state.complete(first, 0.0).cohort == Cohort(0, 0, (A,))

    def test_who_is_removed_meanwhile_leaves_when_the_run_ends(self):
        state, run = state_of(A, B), Run(segments.STEM, (A, B), None)
        state.apply(run)
        assert state.remove((A,)) == ()
        completion = state.complete(run, 0.0)
        assert completion.changes == (CohortChange(0, (1,)),)
        assert state.cohort(0).requests == (B,)

    def test_who_is_removed_meanwhile_is_not_answered(self):
        state, run = with_cohort(A, S, B), Run(segments.head(1), (A, S), 0)
        state.apply(run)
        state.remove((S, A))
        assert state.complete(run, 0.0) == Completion(None, changes=(CohortChange(0, (2,)),))
        assert state.snapshot(0.0).answered == {}


class TestStreams:
    def frame(self, id: int, stream: str = "cam", deadline_s: float = 1.0) -> Request:
        return request(id, deadline_s, stream=stream)

    def test_a_newer_frame_takes_the_place_of_one_that_waits(self):
        old, other, new = self.frame(1), self.frame(2, "door"), self.frame(3, deadline_s=0.5)
        state = state_of(A, old, other)
        assert state.is_awaited(new)
        assert state.add([(new, 0.0)]) == Arrivals((old,))
        assert state.snapshot(0.0).waiting == (new, A, other)

    def test_of_those_that_come_at_once_the_last_stays(self):
        frames = [self.frame(id) for id in range(4)]
        state = EngineState(MAX_HELD)
        assert state.add([(each, 0.0) for each in frames]) == Arrivals(tuple(frames[:3]))
        assert state.num_waiting == 1

    def test_the_same_name_of_somebody_else_is_another_stream(self):
        theirs = replace(self.frame(1), principal="bob")
        state = state_of(theirs)
        assert not state.is_awaited(self.frame(2))
        assert state.add([(self.frame(2), 0.0)]) == Arrivals()
        assert state.num_waiting == 2

    @pytest.mark.parametrize("segment", [segments.STEM, segments.fused_exit(1)])
    def test_one_that_has_started_goes_on(self, segment: Segment):
        old, new = self.frame(1), self.frame(2)
        state, run = state_of(old), Run(segment, (old,), None)
        state.apply(run)
        assert not state.is_awaited(new)
        assert state.add([(new, 0.0)]) == Arrivals()
        completion = state.complete(run, 0.0)
        assert old in (completion.left or completion.cohort.requests)
        assert state.snapshot(0.0).waiting == (new,)

    def test_one_with_an_answer_in_hand_ends_with_it(self):
        old, new = self.frame(1), self.frame(2)
        state = state_of(old)
        ran(state, Run(segments.fused_exit(1), (old,), None, hold=True))
        assert state.add([(new, 0.0)]) == Arrivals((), (old,))
        assert state.num_held == 0


class EngineAndDevice(RuleBasedStateMachine):
    """An engine with up to three runs at once, and a device that holds batches as lists of the ids
    of their rows."""

    def __init__(self) -> None:
        super().__init__()
        self.state = EngineState(MAX_HELD)
        self.batches: dict[int, list[int]] = {}
        self.inside: dict[int, Request] = {}
        self.answered: set[int] = set()
        self.under_way: list[Run] = []
        self.ids = itertools.count()

    def keep(self, changes: tuple[CohortChange, ...]) -> None:
        for change in changes:
            batch = self.batches.pop(change.cohort)
            if change.rows:
                self.batches[change.cohort] = [batch[row] for row in change.rows]

    def start(self, run: Run) -> None:
        self.under_way.append(run)
        self.state.apply(run)

    @rule(
        deadline_s=st.floats(0, 1), streaming=st.booleans(), stream=st.sampled_from(["", "x", "y"])
    )
    def arrive(self, deadline_s: float, streaming: bool, stream: str) -> None:
        new = request(next(self.ids), deadline_s, streaming=streaming, stream=stream)
        arrivals = self.state.add([(new, 0.0)])
        for each in (*arrivals.superseded, *arrivals.concluded):
            assert each.stream == stream != ""
            assert self.inside.pop(each.id) is each
        assert {each.id for each in arrivals.concluded} <= self.answered
        self.inside[new.id] = new

    @precondition(lambda self: len(self.under_way) < 3 and self.state.snapshot(0.0).waiting)
    @rule(
        data=st.data(),
        segment=st.sampled_from([segments.STEM, segments.fused_exit(2)]),
        hold=st.booleans(),
    )
    def run_from_the_image(self, data: st.DataObject, segment: Segment, hold: bool) -> None:
        waiting = self.state.snapshot(0.0).waiting
        self.start(Run(segment, some_of(data, waiting), None, hold=hold))

    @precondition(lambda self: len(self.under_way) < 3 and self.state.snapshot(0.0).held)
    @rule(data=st.data(), hold=st.booleans())
    def run_again(self, data: st.DataObject, hold: bool) -> None:
        held = [each.request for each in self.state.snapshot(0.0).held]
        segment = segments.fused_exit(1).of(1)
        self.start(Run(segment, some_of(data, held), None, hold=hold))

    @precondition(lambda self: len(self.under_way) < 3 and self.state.snapshot(0.0).cohorts)
    @rule(data=st.data(), answer=st.booleans(), hold=st.booleans())
    def run_on(self, data: st.DataObject, answer: bool, hold: bool) -> None:
        cohort = data.draw(st.sampled_from(self.state.snapshot(0.0).cohorts))
        if cohort.depth == NUM_EXITS or (answer and cohort.depth > 0):
            requests = some_of(data, cohort.requests)
            self.start(Run(segments.head(cohort.depth), requests, cohort.id, hold=hold))
        else:
            self.start(Run(segments.stack(cohort.depth + 1), cohort.requests, cohort.id))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), now_s=st.floats(0, 2))
    def end(self, data: st.DataObject, now_s: float) -> None:
        run = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        completion = self.state.complete(run, now_s)
        if completion.cohort is not None:
            self.batches[completion.cohort.id] = [each.id for each in run.requests]
        self.keep(completion.changes)
        for each in (*completion.left, *completion.too_late):
            assert self.inside.pop(each.id) is each
        assert {each.id for each in (*completion.staying, *completion.held)} <= set(self.inside)
        self.answered |= {each.id for each in (*completion.staying, *completion.held)}
        assert {each.id for each in completion.too_late} <= self.answered
        assert all(each.deadline_s >= now_s for each in completion.held)

    @precondition(lambda self: self.under_way)
    @rule()
    def fail(self) -> None:
        run = self.under_way.pop()
        self.keep(self.state.fail(run))
        for each in run.requests:
            self.inside.pop(each.id, None)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        gone = self.inside.pop(data.draw(st.sampled_from(sorted(self.inside))))
        self.keep(self.state.remove((gone,)))

    @rule(now_s=st.floats(0, 1))
    def expire(self, now_s: float) -> None:
        expected = {h.request.id for h in self.state.snapshot(0.0).held}
        for each in self.state.expire(now_s):
            assert each.deadline_s <= now_s
            assert each.id in expected & self.answered
            del self.inside[each.id]
        assert self.state.next_expiry_s > now_s

    @invariant()
    def no_two_frames_of_one_stream_wait(self) -> None:
        waiting = [each.stream for each in self.state.snapshot(0.0).waiting if each.stream]
        assert len(waiting) == len(set(waiting))

    @invariant()
    def nobody_under_way_is_shown(self) -> None:
        snapshot = self.state.snapshot(0.0)
        shown = [*snapshot.waiting, *(r for c in snapshot.cohorts for r in c.requests)]
        shown += [each.request for each in snapshot.held]
        busy = {each.id for run in self.under_way for each in run.requests}
        assert not busy & {each.id for each in shown}

    @invariant()
    def each_is_in_one_place_and_the_device_agrees(self) -> None:
        if self.under_way:
            return
        snapshot = self.state.snapshot(0.0)
        rows = {cohort.id: [r.id for r in cohort.requests] for cohort in snapshot.cohorts}
        assert self.batches == rows
        there = [r.id for r in snapshot.waiting] + [id for batch in rows.values() for id in batch]
        there += [each.request.id for each in snapshot.held]
        assert sorted(there) == sorted(self.inside)
        assert set(snapshot.answered) <= {id for batch in rows.values() for id in batch}
        state = self.state
        assert state.num_waiting + state.num_in_flight + state.num_held == len(self.inside)
        assert state.num_held <= MAX_HELD


def some_of(data: st.DataObject, requests: Sequence[Request]) -> tuple[Request, ...]:
    """At least one of them, in their order."""
    chosen = data.draw(st.sets(st.sampled_from(requests), min_size=1))
    return tuple(each for each in requests if each in chosen)


TestEngineAndDevice = EngineAndDevice.TestCase
