"""The executor: every request ends once, whatever fails, leaves or stops meanwhile."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.api.admission import MIN_BUDGET_HEADROOM
from serving.core import segment as segments
from serving.core.demand import UNKNOWN, DemandMeter
from serving.core.errors import ShedReason
from serving.core.latency import LatencyModel
from serving.core.observing import DECISION, EXECUTOR
from serving.core.policy import (
    Decision,
    Merge,
    Policy,
    Run,
    ShedRequests,
    Snapshot,
    Wait,
)
from serving.core.request import Answered, Cancelled, Failed, Request, Result, Shed
from serving.core.segment import Segment
from serving.core.timing import warm_up
from serving.execution.executor import Executor
from serving.execution.probe import NUM_RECHECKS, PROBE_AFTER_S, RECHECK_AFTER_S
from tests.serving.upgrades import LARGE, LARGE_S, SMALL, SMALL_S, Upgrades, two_sizes
from tests.serving.world import (
    IMAGE,
    NUM_EXITS,
    OFFERS,
    FakeClock,
    FakeRunner,
    Recorder,
    World,
    batching,
    cost_s,
    depth_of,
    exact_profile,
    make_policy,
    unit_s,
)


def request(
    id: int, arrival_s: float = 0.0, budget_s: float = 1.0, streaming: bool = False
) -> Request:
    return Request(id, arrival_s, arrival_s + budget_s, 1, NUM_EXITS, streaming)


def held(world: World) -> int:
    """Batches that were made and not released."""
    return sum(not batch.released for batch in world.runner.batches)


def test_a_lone_request_runs_through_every_stack_and_returns_its_memory():
    world = World(FakeRunner(FakeClock(), fused=False))
    result = world.play([request(0)])[0]
    assert isinstance(result, Answered)
    assert result.depth == NUM_EXITS
    assert [name for name, _ in world.runner.log] == [
        "stem",
        *(f"stack_{k}" for k in range(1, NUM_EXITS + 1)),
        f"head_{NUM_EXITS}",
    ]
    assert result.engine_s == pytest.approx(unit_s(NUM_EXITS))
    assert result.predicted_s == pytest.approx(unit_s(NUM_EXITS))
    assert result.finished_s == pytest.approx(unit_s(NUM_EXITS))
    assert held(world) == 0


def test_what_its_thread_computes_outside_runs_is_told():
    processor = FakeClock()
    runner = FakeRunner(FakeClock(), fused=False)
    policy, run = make_policy(runner), runner.run
    decide = policy.decide

    def deciding(*given):
        processor.now_s += 1.0
        return decide(*given)

    def running(segment, batch):
        processor.now_s += 100.0
        return run(segment, batch)

    def watching(*_):
        processor.now_s += 10.0

    policy.decide, runner.run = deciding, running  # type: ignore[method-assign]
    recorder = Recorder()
    executor = Executor(
        runner,
        policy,
        LatencyModel(exact_profile()),
        runner.clock,
        recorder,
        max_waiting=1,
        probe_image=IMAGE,
        watch=watching,
        processor_clock=processor,
    )
    executor.submit(request(0), IMAGE, lambda _: None)
    while executor.step():
        pass
    runs = len(recorder.runs)
    assert recorder.spendings == [(DECISION, 1.0), (EXECUTOR, 10.0)] * runs
    assert runs == NUM_EXITS + 2


@given(
    fail_on=st.integers(1, 12),
    gaps=st.lists(st.floats(0, 0.02), min_size=1, max_size=12),
    fused=st.booleans(),
)
def test_a_failing_run_fails_its_own_requests_only(fail_on, gaps, fused):
    runner = FakeRunner(FakeClock(), fused=fused, fail_on=frozenset({fail_on}))
    world = World(runner)
    arrivals = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    ends = world.play([request(i, at, 0.2) for i, at in enumerate(arrivals)])
    failed = [end for end in ends.values() if isinstance(end, Failed)]
    if len(runner.log) >= fail_on:
        assert len(failed) == runner.log[fail_on - 1][1], "the rows of that run, no more"
        assert all("on fire" in str(end.error) for end in failed)
    else:
        assert not failed
    for id, end in ends.items():
        if isinstance(end, Answered):
            assert end.detections.scores[0] == id


@given(
    arrivals=st.lists(st.floats(0, 0.05), min_size=1, max_size=10),
    cancels=st.lists(st.tuples(st.floats(0, 0.1), st.integers(0, 9)), max_size=10),
)
def test_cancelled_requests_leave_at_the_next_boundary(arrivals, cancels):
    world = World()
    requests = [request(i, at, 0.15) for i, at in enumerate(sorted(arrivals))]
    ends = world.play(requests, cancels)
    first_cancel = {id: min(at for at, i in cancels if i == id) for _, id in cancels}
    for id, end in ends.items():
        if isinstance(end, Cancelled):
            assert id in first_cancel
    assert held(world) == 0


def test_a_cancelled_request_stops_costing_time():
    world = World(FakeRunner(FakeClock(), fused=False))
    ends = world.play([request(0)], cancels=[(0.008, 0)])
    assert isinstance(ends[0], Cancelled)
    assert len(world.runner.log) == 3, "stem, and the two stacks under way until then"


def test_one_of_a_batch_is_cancelled_and_the_others_go_on():
    clock = FakeClock()
    world = World(FakeRunner(clock, fused=False))
    requests = [Request(i, 0.0, 0.042, 1, 2) for i in range(4)]
    ends = world.play(requests, cancels=[(0.005, 2)])
    assert isinstance(ends[2], Cancelled)
    for id in (0, 1, 3):
        assert isinstance(ends[id], Answered)
        assert ends[id].detections.scores[0] == id
    assert held(world) == 0


@given(
    kinds=st.lists(st.tuples(st.floats(0, 0.03), st.booleans()), min_size=1, max_size=12),
    cancels=st.lists(st.tuples(st.floats(0, 0.2), st.integers(0, 11)), max_size=6),
    fail_on=st.frozensets(st.integers(1, 40), max_size=3),
    offer=st.sampled_from(list(OFFERS.values())),
)
def test_whatever_happens_each_request_ends_once_and_keeps_its_answers(
    kinds, cancels, fail_on, offer
):
    """``World.play`` checks the ends: once each, with the deepest answer there was, if any."""
    runner = FakeRunner(FakeClock(), fail_on=fail_on, **offer)
    world = World(runner)
    arrivals = [sum(gap for gap, _ in kinds[: i + 1]) for i in range(len(kinds))]
    requests = [request(i, arrivals[i], 0.1, kinds[i][1]) for i in range(len(kinds))]
    ends = world.play(requests, cancels)
    assert held(world) == 0
    assert len(ends) == len(requests)
    for id, answers in world.answers.items():
        depths = [answer.depth for answer in answers]
        assert depths == sorted(set(depths))
        assert kinds[id][1] or len(answers) <= 1


@pytest.mark.parametrize("boundary", range(2 * NUM_EXITS))
def test_a_growing_request_is_cancelled_at_whichever_boundary(boundary):
    """Stem and stack 1, then a head and a stack in turn; cancelled while the run after
    ``boundary`` others is under way."""
    world = World()
    run = world.runner.run

    def cancel_during(segment, batch):
        if len(world.runner.log) == boundary:
            world.executor.cancel(0)
        return run(segment, batch)

    world.runner.run = cancel_during
    end = world.play([request(0, streaming=True)])[0]
    assert isinstance(end, Cancelled)
    assert len(world.runner.log) == boundary + 1
    assert len(world.answers[0]) == boundary // 2
    assert held(world) == 0


@pytest.mark.parametrize("fail_on", range(1, 2 * NUM_EXITS + 2))
def test_a_run_that_fails_after_an_answer_leaves_that_answer(fail_on, caplog):
    world = World(FakeRunner(FakeClock(), fail_on=frozenset({fail_on})))
    end = world.play([request(0, streaming=True)])[0]
    if fail_on <= 3:  # stem, stack 1, head 1
        assert isinstance(end, Failed)
    else:
        assert depth_of(end) == (fail_on - 2) // 2
    assert "failed" in caplog.text
    assert held(world) == 0


def test_boxes_that_cannot_be_fetched_fail_the_run(caplog):
    world = World()

    def detections(batch):
        raise RuntimeError("the copy failed")

    world.runner.detections = detections
    assert isinstance(world.play([request(0)])[0], Failed)
    assert "the copy failed" in caplog.text
    assert held(world) == 0


def test_growing_and_other_requests_share_a_batch():
    world = World(FakeRunner(FakeClock(), fused=False))
    ends = world.play([request(i, 0.0, 0.060, streaming=i % 2 == 0) for i in range(4)])
    assert world.runner.log[:3] == [("stem", 4), ("stack_1", 4), ("head_1", 2)]
    for id, end in ends.items():
        assert isinstance(end, Answered)
        assert end.detections.scores[0] == id
        depths = [answer.depth for answer in world.answers[id]]
        assert depths == ([end.depth] if id % 2 else list(range(1, end.depth + 1)))
    assert held(world) == 0


def test_the_queue_is_bounded():
    world = World(max_waiting=3)
    ends = world.play([request(i) for i in range(5)])
    refused = [id for id, end in ends.items() if isinstance(end, Shed)]
    assert refused == [3, 4]
    assert ends[3].reason is ShedReason.REJECTED_SATURATED


def test_unknown_cancellations_are_ignored():
    world = World()
    world.executor.cancel(99)
    assert isinstance(world.play([request(0)])[0], Answered)


class Threaded:
    """An executor that runs in its thread, on a clock that only runs move."""

    def __init__(
        self,
        hold: threading.Event | None = None,
        policy: Policy | None = None,
        runner: FakeRunner | None = None,
    ) -> None:
        runner = runner or FakeRunner(FakeClock())
        self.clock = runner.clock
        self.entered = threading.Event()
        if hold is not None:
            run = runner.run

            def held_run(segment, batch):
                self.entered.set()
                hold.wait()
                return run(segment, batch)

            runner.run = held_run  # type: ignore[method-assign]
        self.recorder = Recorder()
        self.executor = Executor(
            runner,
            policy or make_policy(runner),
            LatencyModel(exact_profile(runner.cost, exits=runner.exits)),
            self.clock,
            self.recorder,
            max_waiting=8,
            probe_image=IMAGE,
        )
        self.executor.start()


def test_stop_lets_those_inside_finish_and_refuses_newcomers():
    threaded = Threaded()
    ends: list[Any] = []
    for id in range(3):
        threaded.executor.submit(request(id), IMAGE, ends.append)
    threaded.executor.stop(grace_s=30)
    assert sorted(end.request.id for end in ends) == [0, 1, 2]
    assert all(isinstance(end, Answered) for end in ends)
    threaded.executor.submit(request(3), IMAGE, ends.append)
    assert ends[-1].reason is ShedReason.REJECTED_DRAINING
    assert len(threaded.recorder.results) == 4


def test_stop_ends_what_is_still_there_when_grace_is_over():
    hold = threading.Event()
    threaded = Threaded(hold)
    ends: list[Any] = []
    threaded.executor.submit(request(0), IMAGE, ends.append)
    threaded.entered.wait()
    threaded.executor.submit(request(1), IMAGE, ends.append)
    stopper = threading.Thread(target=threaded.executor.stop, args=(0.0,))
    stopper.start()
    hold.set()
    stopper.join()
    assert sorted(end.request.id for end in ends) == [0, 1]
    assert all(end.reason is ShedReason.REJECTED_DRAINING for end in ends if isinstance(end, Shed))
    assert any(isinstance(end, Shed) for end in ends)


def test_stop_ends_a_growing_request_with_the_answer_it_has():
    answered, hold = threading.Event(), threading.Event()
    threaded = Threaded()
    ends: list[Any] = []

    def on_exit(answer):
        answered.set()
        hold.wait()

    threaded.executor.submit(request(0, streaming=True), IMAGE, ends.append, on_exit)
    answered.wait()
    stopper = threading.Thread(target=threaded.executor.stop, args=(0.0,))
    stopper.start()
    with threaded.executor._inbox.changed:  # until then the loop would go on
        threaded.executor._inbox.changed.wait_for(lambda: threaded.executor._inbox.is_stopping)
    hold.set()
    stopper.join()
    assert [(type(end), end.depth) for end in ends] == [(Answered, 1)]


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_warm_up_teaches_every_segment_and_batch_size(offer):
    clock = FakeClock()
    runner = FakeRunner(clock, **offer)
    latency = LatencyModel(None)
    warm_up(runner, latency, IMAGE, NUM_EXITS, clock, rounds=2)
    for segment in runner.segments:
        for size in runner.batch_sizes:
            assert latency.typical(segment, size) == pytest.approx(runner.cost(segment, size))
    assert all(batch.released for batch in runner.batches)


def test_a_probe_unlearns_a_slowdown_that_refused_everybody():
    """After a bad moment the policy may refuse every budget; then only probes run. What is
    published is of an engine that is not slow."""
    world = World()
    latency, honest_s = world.executor._latency, world.executor.predicted_s(1)
    for _ in range(40):
        latency.observe(segments.STEM, 1, 10 * world.runner.cost(segments.STEM, 1))
    world.clock.now_s += 1.0
    world.executor.probe()
    assert latency.predict(segments.head(1), 1) > 5 * cost_s(segments.head(1))
    assert world.executor.predicted_s(1) < 1.1 * honest_s
    for _ in range(8):
        world.executor.probe()
    assert latency.predict(segments.head(1), 1) < 1.1 * cost_s(segments.head(1))
    assert world.recorder.results == []
    assert held(world) == 0


def test_a_probe_runs_what_there_is():
    world = World(FakeRunner(FakeClock(), units=False))
    world.executor.probe()
    assert world.runner.log == [("exit_1", 1)]
    assert held(world) == 0


def test_a_runner_that_cannot_be_scheduled_is_refused():
    class Partial(FakeRunner):
        segments = frozenset({segments.STEM, segments.fused_exit(2)})

    runner = Partial(FakeClock())
    with pytest.raises(ValueError, match="lacks head_1, head_2, stack_1, stack_2 and exit_1"):
        Executor(
            runner,
            make_policy(FakeRunner(FakeClock())),
            LatencyModel(exact_profile()),
            runner.clock,
            Recorder(),
            max_waiting=8,
            probe_image=IMAGE,
        )


def test_a_probe_is_no_part_of_the_run_that_follows() -> None:
    """Whoever comes while its last segment runs is decided about right after it."""
    world = World()
    world.executor.probe()
    num_probed = len(world.recorder.runs)
    world.play([request(0)])
    name, _, _, seconds = world.recorder.runs[num_probed]
    assert seconds == pytest.approx(world.runner.cost(segments.parse(name), 1))


def test_a_probe_makes_way_for_a_request_after_a_segment():
    """One it runs, or a flood of requests that are all refused would keep it from ever learning."""
    world = World()
    world.submit(request(0))
    world.executor.probe()
    assert world.runner.log == [("stem", 1)]
    assert held(world) == 0


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_predictions_are_of_the_quickest_path(offer):
    world = World(FakeRunner(FakeClock(), **offer))
    for depth in range(1, NUM_EXITS + 1):
        quickest_s = unit_s(depth)
        if world.runner.fused:
            quickest_s = min(quickest_s, world.runner.cost(segments.fused_exit(depth), 1))
        assert world.executor.predicted_s(depth) == pytest.approx(quickest_s)


# ---- an answer in hand --------------------------------------------------------------------------


def points(answers: Sequence[Result]) -> list[tuple[int, int]]:
    """Where they were answered, all of them."""
    return [(a.model, a.depth) for a in answers if isinstance(a, Answered) or pytest.fail(str(a))]


def test_an_answer_in_hand_is_handed_out_at_once_and_a_better_one_is_the_end():
    world, came_s = World(two_sizes(), policy=Upgrades()), []
    world.on_answer = lambda answer: came_s.append(world.clock())
    end = world.play([request(0)])[0]
    assert points(world.answers[0]) == [SMALL, LARGE]
    assert came_s == pytest.approx([SMALL_S, SMALL_S + LARGE_S])
    assert end.engine_s == pytest.approx(SMALL_S + LARGE_S)
    assert end.predicted_s == pytest.approx(SMALL_S + LARGE_S)
    assert end.detections.scores[0] == 0
    assert held(world) == 0


def test_it_may_be_held_more_than_once():
    world = World(two_sizes(), policy=Upgrades(deepest=3))
    end = world.play([request(0)])[0]
    assert points(world.answers[0]) == [SMALL, (1, 1), (1, 2), (1, 3)]
    assert depth_of(end) == 3


def test_a_better_answer_that_comes_too_late_leaves_the_one_in_hand():
    world = World(two_sizes(), policy=Upgrades())
    end = world.play([request(0, 0.0, SMALL_S + LARGE_S - 1e-6)])[0]
    assert points([end]) == points(world.answers[0]) == [SMALL]
    assert len(world.runner.log) == 2


def test_who_is_held_ends_at_its_deadline_whatever_the_policy_waits_for():
    class Waits(Upgrades):
        def decide(self, snapshot, latency):
            return super().decide(snapshot, latency) if snapshot.waiting else Wait()

    world = World(two_sizes(), policy=Waits())
    ends = world.play([request(0, 0.0, 0.5), request(1, 0.0, 0.3)])
    assert [points([end]) for end in ends.values()] == [[SMALL], [SMALL]]
    assert world.clock() == pytest.approx(0.5)


def test_a_held_request_is_concluded_from_outside_with_its_answer():
    """As the gateway does at the deadline: here, during the run of the larger size."""
    world = World(two_sizes(), policy=Upgrades(deepest=2))
    conclude = (SMALL_S + LARGE_S / 2, partial(world.executor.conclude, 0))
    end = world.play([request(0)], actions=[conclude])[0]
    assert points([end]) == [LARGE]
    assert len(world.runner.log) == 2, "not to the second exit"


def test_to_conclude_who_has_no_answer_drops_it():
    world = World(two_sizes(), policy=Upgrades())
    world.submit(request(0))
    world.executor.conclude(0)
    world.executor.conclude(99)
    assert isinstance(world.play([])[0], Cancelled)
    assert world.runner.log == []


def test_a_client_that_leaves_takes_its_answer_along():
    world = World(two_sizes(), policy=Upgrades(deepest=3))
    end = world.play([request(0)], cancels=[(SMALL_S + LARGE_S / 2, 0)])[0]
    assert isinstance(end, Cancelled)
    assert points(world.answers[0]) == [SMALL, LARGE]
    assert len(world.runner.log) == 2


def test_answers_are_merged_where_they_say_so():
    """Here those of the sizes, and not two of one size, as a sum of their scores."""

    def merge(first, then):
        assert (first[0], then[0]) in ((0, 1), (1, 1))
        if first[0] == then[0]:
            return None
        scores = first[1].scores + then[1].scores
        return replace(then[1], scores=scores)

    world = World(two_sizes(), policy=Upgrades(deepest=2), merge_answers=merge)
    end = world.play([request(7)])[7]
    answers = world.answers[7]
    assert points(answers) == [SMALL, LARGE, (1, 2)]
    assert [answer.scores for answer in (a.detections for a in answers)] == [7.0, 14.0, 7.0]
    assert [answer.earlier for answer in answers] == [(), (SMALL,), ()]
    assert [answer.upgrades for answer in answers] == [0, 1, 2]
    assert [answer.held for answer in answers] == [True, True, False]
    assert end is answers[-1]


def test_an_answer_says_of_all_whose_boxes_it_has():
    world = World(two_sizes(), policy=Upgrades(deepest=2), merge_answers=lambda _, then: then[1])
    world.play([request(0)])
    assert [answer.points for answer in world.answers[0]] == [
        (SMALL,),
        (SMALL, LARGE),
        (SMALL, LARGE, (1, 2)),
    ]


def test_answers_that_cannot_be_merged_are_replaced(caplog):
    def merge(first, then):
        raise ValueError("these boxes are no boxes")

    world = World(two_sizes(), policy=Upgrades(), merge_answers=merge)
    end = world.play([request(0)])[0]
    assert (points([end]), end.earlier, end.upgrades) == ([LARGE], (), 1)
    assert "answers could not be merged" in caplog.text


def test_an_upgrade_that_fails_leaves_the_answer_in_hand(caplog):
    world = World(two_sizes(fail_on=frozenset({2})), policy=Upgrades())
    end = world.play([request(0)])[0]
    assert points([end]) == [SMALL]
    assert "exit_1@1 failed" in caplog.text
    assert held(world) == 0


def test_no_more_are_held_than_may_wait():
    """The others end with their answer at once."""

    class Waits(Upgrades):
        may_upgrade = False

        def decide(self, snapshot, latency):
            if snapshot.waiting:
                return Run(segments.fused_exit(1), snapshot.waiting, None, hold=True)
            return super().decide(snapshot, latency) if self.may_upgrade else Wait()

    policy = Waits()
    world = World(two_sizes(), max_waiting=2, policy=policy)
    for start in (0, 2):
        world.submit(request(start))
        world.submit(request(start + 1))
        while world.executor.step():
            pass
    assert world.executor.num_held == 2
    assert [len(ends) for ends in world.results.values()] == [0, 0, 1, 1]
    policy.may_upgrade = True
    ends = world.play([])
    assert [points([end]) for end in ends.values()] == [[LARGE], [LARGE], [SMALL], [SMALL]]


@given(
    kinds=st.lists(st.tuples(st.floats(0, 0.1), st.booleans()), min_size=1, max_size=12),
    budget_s=st.floats(0.02, 0.3),
    cancels=st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 11)), max_size=6),
    concluded=st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 11)), max_size=6),
    fail_on=st.frozensets(st.integers(1, 40), max_size=3),
    deepest=st.integers(1, 3),
    max_waiting=st.sampled_from([1, 2, 64]),
)
def test_whatever_happens_to_an_answer_in_hand_each_request_ends_once(
    kinds, budget_s, cancels, concluded, fail_on, deepest, max_waiting
):
    world = World(two_sizes(fail_on=fail_on), max_waiting, policy=Upgrades(deepest))
    arrivals = [sum(gap for gap, _ in kinds[: i + 1]) for i in range(len(kinds))]
    requests = [request(i, arrivals[i], budget_s, kinds[i][1]) for i in range(len(kinds))]
    actions = [(at, partial(world.executor.conclude, i)) for at, i in concluded]
    ends = world.play(requests, cancels, actions)
    assert held(world) == 0
    for id, end in ends.items():
        assert not isinstance(end, Cancelled) or id in {i for _, i in (*cancels, *concluded)}
        sequence = points(world.answers[id])
        assert (
            sequence == [SMALL, *[(1, depth) for depth in range(1, deepest + 1)]][: len(sequence)]
        )
        in_time = [a for a in world.answers[id] if a.finished_s <= a.request.deadline_s]
        assert world.answers[id][1:] == in_time[1:], "none after the first is late"


def test_stop_ends_a_held_request_with_the_answer_it_has():
    answered, hold = threading.Event(), threading.Event()
    policy = Upgrades()
    threaded = Threaded(policy=policy, runner=two_sizes())
    ends: list[Any] = []

    def on_exit(answer):
        answered.set()
        hold.wait()

    threaded.executor.submit(request(0), IMAGE, ends.append, on_exit)
    answered.wait()
    stopper = threading.Thread(target=threaded.executor.stop, args=(0.0,))
    stopper.start()
    with threaded.executor._inbox.changed:  # until then the loop would go on
        threaded.executor._inbox.changed.wait_for(lambda: threaded.executor._inbox.is_stopping)
    hold.set()
    stopper.join()
    assert [points([end]) for end in ends] == [[SMALL]]
    assert threaded.executor.num_held == 0


def test_stop_lets_held_requests_be_answered_better():
    threaded = Threaded(policy=Upgrades(), runner=two_sizes())
    ends: list[Any] = []
    threaded.executor.submit(request(0), IMAGE, ends.append)
    threaded.executor.stop(grace_s=30)
    assert [points([end]) for end in ends] == [[LARGE]]


def test_a_conclusion_wakes_the_loop():
    waiting = threading.Event()

    class Waits(Upgrades):
        def decide(self, snapshot, latency):
            if snapshot.waiting:
                return super().decide(snapshot, latency)
            waiting.set()
            return Wait()

    threaded, ended, ends = Threaded(policy=Waits(), runner=two_sizes()), threading.Event(), []

    def done(end):
        ends.append(end)
        ended.set()

    threaded.executor.submit(request(0, budget_s=1e9), IMAGE, done)
    waiting.wait()
    threaded.executor.conclude(0)
    ended.wait()
    threaded.executor.stop(grace_s=30)
    assert [points([end]) for end in ends] == [[SMALL]]


# ---- merging ------------------------------------------------------------------------------------


class MergesAll:
    """Each starts alone; at ``depth`` all become one cohort, and leave in it."""

    def __init__(self, depth: int = 1) -> None:
        self._depth = depth

    def decide(self, snapshot: Snapshot, latency: object) -> Decision:
        if snapshot.waiting:
            return Run(segments.STEM, snapshot.waiting[:1], None)
        for cohort in snapshot.cohorts:
            if cohort.depth < self._depth:
                segment = segments.stack(cohort.depth + 1)
                return Run(segment, cohort.requests, cohort.id)
        if len(snapshot.cohorts) > 1:
            return Merge(tuple(cohort.id for cohort in reversed(snapshot.cohorts)))
        (cohort,) = snapshot.cohorts
        return Run(segments.head(self._depth), cohort.requests, cohort.id)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_merged_rows_run_together_and_keep_their_answers(depth, count):
    world = World(policy=MergesAll(depth))
    ends = world.play([Request(i, 0.0, 1.0, 1, NUM_EXITS) for i in range(count)])
    assert world.runner.log[-1] == (f"head_{depth}", count)
    for id, end in ends.items():
        assert isinstance(end, Answered)
        assert end.detections.scores[0] == id
    (merge,) = [decision for _, decision in world.decisions if isinstance(decision, Merge)]
    last, _ = world.decisions[-1]
    (cohort,) = last.cohorts
    assert cohort.id == merge.cohorts[0], "under the id of the first"
    assert [r.id for r in cohort.requests] == list(reversed(range(count))), "rows in that order"
    assert held(world) == 0


@given(
    gaps=st.lists(st.floats(0, 0.03), min_size=2, max_size=12),
    cancels=st.lists(st.tuples(st.floats(0, 0.2), st.integers(0, 11)), max_size=4),
    fail_on=st.frozensets(st.integers(1, 40), max_size=2),
    failing_merge=st.integers(0, 4),
)
def test_whatever_is_merged_each_request_ends_once_with_its_own_boxes(
    gaps, cancels, fail_on, failing_merge
):
    runner = FakeRunner(FakeClock(), batching(0.9), fused=False, fail_on=fail_on)
    merge, merged = runner.merge, []

    def may_fail(batches):
        merged.append(sum(len(batch.rows) for batch in batches))
        if len(merged) == failing_merge:
            raise RuntimeError("no memory left")
        return merge(batches)

    runner.merge = may_fail
    world = World(runner)
    arrivals = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    ends = world.play([request(i, at, 0.3) for i, at in enumerate(arrivals)], cancels)
    assert held(world) == 0
    for id, end in ends.items():
        if isinstance(end, Answered):
            assert end.detections.scores[0] == id
    unmerged = [end for end in ends.values() if isinstance(end, Failed) and "memory" in str(end)]
    assert len(unmerged) == (merged[failing_merge - 1] if 0 < failing_merge <= len(merged) else 0)


def test_a_merge_that_fails_fails_its_own_requests_and_leaves_answers_standing(caplog):
    """Of three cohorts two are to be merged; in one, a streaming row has its first answer."""

    class Merges(MergesAll):
        def decide(self, snapshot, latency):
            cohorts = snapshot.cohorts
            if len(cohorts) == 3 and cohorts[2].depth == 1:
                if cohorts[0].requests[0].id not in snapshot.answered:
                    return Run(segments.head(1), cohorts[0].requests, cohorts[0].id)
                return Merge((cohorts[0].id, cohorts[1].id))
            return super().decide(snapshot, latency)

    world = World(policy=Merges())

    def fail(batches):
        raise RuntimeError("no memory left")

    world.runner.merge = fail
    ends = world.play([request(0, streaming=True), request(1), request(2)])
    assert [(type(end), depth_of(end)) for end in ends.values()] == [
        (Answered, 1),
        (Failed, 0),
        (Answered, 1),
    ]
    assert ends[2].detections.scores[0] == 2
    assert "cohorts could not be merged" in caplog.text
    assert held(world) == 0


def test_rows_that_were_merged_leave_one_by_one():
    world = World(policy=MergesAll(2))
    merged_s = 3 * (cost_s(segments.STEM) + 2 * cost_s(segments.stack(1)))
    run = world.runner.run

    def cancel_during(segment, batch):
        if segment.kind == "head":
            world.executor.cancel(1)
        return run(segment, batch)

    world.runner.run = cancel_during
    ends = world.play([request(i) for i in range(3)], cancels=[(merged_s - 1e-6, 0)])
    assert isinstance(ends[0], Cancelled)
    assert isinstance(ends[1], Answered), "too late to cancel"
    assert ends[2].detections.scores[0] == 2
    assert world.runner.log[-1] == ("head_2", 2)
    assert held(world) == 0


# ---- waiting ------------------------------------------------------------------------------------


class Patient:
    """Exit 1 for whoever waits, at an instant or when there are two."""

    def __init__(self, until_s: float) -> None:
        self._until_s = until_s

    def decide(self, snapshot: Snapshot, latency: object) -> Decision:
        if snapshot.now_s < self._until_s and len(snapshot.waiting) < 2:
            return Wait(self._until_s)
        return Run(segments.fused_exit(1), snapshot.waiting, None)


def test_a_step_that_waits_does_nothing_until_its_instant():
    world = World(policy=Patient(0.5))
    world.submit(request(0))
    for instant_s in (0.0, 0.3, 0.5 - 1e-9):
        world.clock.now_s = instant_s
        assert not world.executor.step()
        assert world.executor.num_waiting == 1
        assert world.runner.log == []
    world.clock.now_s = 0.5
    assert world.executor.step()
    assert depth_of(world.results[0][0]) == 1
    assert not world.executor.step()


def test_waiting_takes_no_engine_time():
    world = World(policy=Patient(0.5))
    end = world.play([request(0)])[0]
    assert end.finished_s == pytest.approx(0.5 + cost_s(segments.fused_exit(1)))
    assert world.recorder.runs[0][3] == pytest.approx(cost_s(segments.fused_exit(1)))


def test_who_arrives_meanwhile_is_decided_about_at_once():
    world = World(policy=Patient(0.5))
    ends = world.play([request(0), request(1, 0.2)])
    finished_s = 0.2 + cost_s(segments.fused_exit(1), 2)
    assert [end.finished_s for end in ends.values()] == pytest.approx([finished_s] * 2)


class FastForward(threading.Condition):
    """Whenever the loop waits, the time that it would wait is over at once: ``num_waits`` times,
    and after that never."""

    def __init__(self, clock: FakeClock, num_waits: int) -> None:
        super().__init__()
        self._clock = clock
        self._num_waits = num_waits
        self.timeouts: list[float | None] = []
        self.over = threading.Event()

    def wait_for(self, predicate, timeout=None):
        if threading.current_thread().name != "executor":
            return super().wait_for(predicate, timeout)
        if predicate():
            return True
        if len(self.timeouts) == self._num_waits:
            self.over.set()
            return super().wait_for(predicate)
        self.timeouts.append(timeout)
        self._clock.now_s += timeout
        return False


def in_a_thread(world: World, num_waits: int) -> FastForward:
    """Start the loop, in a world where waiting is over at once; stop it after ``num_waits``."""
    world.executor._inbox.changed = waits = FastForward(world.clock, num_waits)
    world.executor.start()
    waits.over.wait()
    world.executor.stop(grace_s=0.0)
    return waits


def test_the_loop_wakes_at_the_instant():
    world = World(policy=Patient(0.5))
    world.submit(request(0))
    waits = in_a_thread(world, 1)
    assert waits.timeouts == [0.5]
    assert world.results[0][0].finished_s == pytest.approx(0.5 + cost_s(segments.fused_exit(1)))


def test_the_loop_wakes_for_an_arrival_however_long_it_was_to_wait():
    waiting = threading.Event()

    class Waits(Patient):
        def decide(self, snapshot, latency):
            waiting.set()
            return super().decide(snapshot, latency)

    threaded, ends, both = Threaded(policy=Waits(float("inf"))), [], threading.Barrier(2)

    def done(end):
        ends.append(end)
        if len(ends) == 2:
            both.wait()

    threaded.executor.submit(request(0), IMAGE, done)
    waiting.wait()
    threaded.executor.submit(request(1), IMAGE, done)
    both.wait()
    threaded.executor.stop(grace_s=30)
    assert [depth_of(end) for end in ends] == [1, 1]


def test_an_idle_engine_is_probed_now_and_then_and_at_once_while_it_seems_slow():
    """It did so for others' sake: a probe finds it as quick as ever, and another one soon after."""
    world = World()
    waits = in_a_thread(world, 2)
    assert waits.timeouts == pytest.approx([PROBE_AFTER_S] * 2)
    assert world.runner.log == [("stem", 1), ("stack_1", 1), ("head_1", 1)] * 2

    world = World()
    latency = world.executor._latency
    for _ in range(40):
        latency.observe(segments.STEM, 1, 10 * cost_s(segments.STEM))
    waits = in_a_thread(world, 30)
    assert waits.timeouts[0] == pytest.approx(RECHECK_AFTER_S)
    assert waits.timeouts[-1] == pytest.approx(PROBE_AFTER_S)
    timeouts: list[Any] = waits.timeouts
    rounded = [round(timeout_s, 9) for timeout_s in timeouts]
    assert rounded == sorted(rounded), "once it is known to be quick, seldom again"
    assert world.executor.predicted_s(1) < 1.1 * unit_s(1)


def three_times_slower(segment: Segment, batch: int = 1) -> float:
    return 3 * cost_s(segment, batch)


def test_an_engine_that_stays_slow_is_not_probed_on_and_on():
    """A few probes show how slow it is; more would be in the way. Who arrives is a reason anew."""
    world = World()
    world.runner.cost = three_times_slower
    for _ in range(20):
        world.executor.probe()
    world.play([request(0, budget_s=0.5)])
    waits = in_a_thread(world, NUM_RECHECKS + 3)
    expected = [RECHECK_AFTER_S] * NUM_RECHECKS + [PROBE_AFTER_S] * 3
    assert waits.timeouts == pytest.approx(expected)


def test_the_tail_is_of_the_engine_as_it_is():
    world = World()
    typical_s = world.executor.predicted_s(1)
    assert world.executor.tail_s(1) == world.executor.tail_s(1, 0) >= typical_s
    world.runner.cost = three_times_slower
    world.clock.now_s += 1.0
    for _ in range(20):
        world.executor.probe()
    assert world.executor.predicted_s(1) == pytest.approx(typical_s)
    assert world.executor.tail_s(1) == pytest.approx(3 * typical_s, rel=0.1)


class Jitter:
    """Run times that vary from run to run, on an engine that is ``slowdown`` times as slow."""

    def __init__(self) -> None:
        self.slowdown = 1.0
        self._random = random.Random(0)

    def __call__(self, segment: Segment, batch: int = 1) -> float:
        return self.slowdown * cost_s(segment, batch) * self._random.lognormvariate(0.0, 0.15)


def test_alone_what_is_said_to_be_enough_is_enough_also_when_the_engine_changes_its_pace():
    """One request after the other, each with a little more than what a run is said to exceed
    seldom. For some it is not enough just after the engine has become slower; none is refused
    unseen, so that it is soon known."""
    jitter = Jitter()
    world = World(FakeRunner(FakeClock(), cost=cost_s))
    world.runner.cost = jitter
    ids = itertools.count()

    def in_time(count: int) -> int:
        answered = 0
        for id in itertools.islice(ids, count):
            budget_s = 1.05 * MIN_BUDGET_HEADROOM * world.executor.tail_s(1)
            sent = request(id, arrival_s=world.clock.now_s, budget_s=budget_s)
            end = world.play([sent])[id]
            late = ShedReason.EVICTED_EXPIRED  # on the way to its first exit
            assert isinstance(end, Answered) or end.reason is late, "it was tried"
            answered += isinstance(end, Answered) and end.finished_s <= sent.deadline_s
            world.clock.now_s += 0.05
        return answered

    in_time(30)
    for slowdown in (1.0, 3.0, 0.7, 2.0):
        jitter.slowdown = slowdown
        in_time(40)
        assert in_time(100) >= 95


# ---- what the policy is told --------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 0.03), st.floats(0.01, 0.3)), min_size=1, max_size=25))
def test_snapshots_tell_what_arrived(kinds):
    arrivals = [sum(gap for gap, _ in kinds[: i + 1]) for i in range(len(kinds))]
    requests = [request(i, at, kinds[i][1]) for i, at in enumerate(arrivals)]
    world = World()
    world.play(requests)
    for snapshot, _ in world.decisions:
        meter, arrived = DemandMeter(), [r for r in requests if r.arrival_s <= snapshot.now_s]
        for r in arrived:
            meter.arrived(r.arrival_s, r.deadline_s - r.arrival_s, True)
        assert replace(snapshot.demand, busy_share=1.0) == meter.measure(snapshot.now_s)


def test_whom_a_full_queue_refuses_is_no_demand():
    world = World(max_waiting=4)
    world.play([request(i, 0.0001 * i) for i in range(100)])
    assert {snapshot.demand for snapshot, _ in world.decisions} == {UNKNOWN}


def test_every_decision_is_watched_before_it_is_carried_out():
    runner = FakeRunner(FakeClock(), batching(0.9))
    policy, decisions = make_policy(runner), []

    class Telling:
        def decide(self, snapshot, latency):
            decisions.append((snapshot, policy.decide(snapshot, latency)))
            return decisions[-1][1]

    world = World(runner, policy=Telling())

    def check(answer):
        _, decision = world.decisions[-1]
        assert answer.request in decision.requests
        assert decision.segment.stop == answer.depth

    world.on_answer = check
    budgets = [0.001, 0.014, *[0.05] * 12, *[0.3] * 4]
    world.play([request(i, 0.0, budget_s) for i, budget_s in enumerate(budgets)])
    assert world.decisions == decisions
    assert {Run, ShedRequests} <= {type(decision) for _, decision in decisions}
