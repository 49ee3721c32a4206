"""A fault sweep: the n-th call of each seam of the executor fails, for every n of a small scenario
and every kind of fault. Each request ends exactly once, and the engine serves afterwards."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pytest

from serving.core import segment as segments
from serving.core.errors import EngineStalled
from serving.core.latency import LatencyModel
from serving.core.observing import FAULTS
from serving.core.output_check import find_fault
from serving.core.policy import Decision, Merge, Policy, Run, Snapshot
from serving.core.request import Answered, Cancelled, Detections, Failed, Request, Result
from serving.execution.executor import Executor
from serving.execution.liveness import Abandoned
from tests.serving.upgrades import Upgrades, two_sizes
from tests.serving.world import (
    IMAGE,
    NUM_EXITS,
    FakeClock,
    FakeRunner,
    Recorder,
    exact_profile,
    make_policy,
)

HANG_S = 1e4
"""Longer than anything is waited for."""


class Fault:
    """Counts the calls of each seam, of which call ``number`` of ``seam`` fails by ``kind``."""

    def __init__(self, seam: str = "", number: int = 0, kind: str = "") -> None:
        self._seam, self._number, self._kind = seam, number, kind
        self.num_calls: Counter[str] = Counter()
        self.hang: Callable[[], None] = lambda: None

    def at(self, seam: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, called through ``seam``."""

        def call(*arguments: Any) -> Any:
            self.num_calls[seam] += 1
            if seam != self._seam or self.num_calls[seam] != self._number:
                return function(*arguments)
            if self._kind == "raises before":
                raise RuntimeError("a fault")
            if self._kind == "hangs":
                self.hang()
            result = function(*arguments)
            if self._kind == "raises after":
                raise RuntimeError("a fault")
            return _spoilt(result) if self._kind == "nonsense" else result

        return call


def _spoilt(found: list[Detections]) -> list[Detections]:
    """With numbers that are none in the first row."""
    first, *others = found
    return [replace(first, boxes_xyxy_input=np.full((1, 4), np.nan, np.float32)), *others]


@dataclass
class Scenario:
    """Requests for one policy, and what their clients do."""

    runner: Callable[[], FakeRunner]
    policy: Callable[[FakeRunner], Policy]
    requests: tuple[Request, ...]
    cancels: tuple[tuple[float, int], ...] = ()
    seams: tuple[str, ...] = ()
    """Seams that are called in it, besides those that always are."""


class MergesAll:
    """Stems one by one, then all as one cohort to exit 2, with an answer at exit 1 on the way."""

    def decide(self, snapshot: Snapshot, latency: object) -> Decision:
        if snapshot.waiting:
            return Run(segments.STEM, snapshot.waiting[:1], None)
        for cohort in snapshot.cohorts:
            if cohort.depth < 1:
                return Run(segments.stack(1), cohort.requests, cohort.id)
        if len(snapshot.cohorts) > 1:
            return Merge(tuple(cohort.id for cohort in snapshot.cohorts))
        (cohort,) = snapshot.cohorts
        growing = tuple(r for r in cohort.requests if r.streaming)
        if cohort.depth == 1 and growing and growing[0].id not in snapshot.answered:
            return Run(segments.head(1), growing, cohort.id)
        if cohort.depth == 1:
            return Run(segments.stack(2), cohort.requests, cohort.id)
        return Run(segments.head(2), cohort.requests, cohort.id)


SCENARIOS = {
    "deadlines": Scenario(
        lambda: FakeRunner(FakeClock(), fused=False),
        make_policy,
        tuple(Request(i, 0.001 * i, 0.09, 1, 2 + i % 2, i % 2 == 0) for i in range(4)),
        cancels=((0.012, 1),),
        seams=("on_exit",),
    ),
    "cohorts": Scenario(
        lambda: FakeRunner(FakeClock(), fused=False),
        lambda _: MergesAll(),
        tuple(Request(i, 0.0, 1.0, 1, 2, i == 0) for i in range(3)),
        cancels=((0.025, 2),),
        seams=("select", "merge", "on_exit"),
    ),
    "answers in hand": Scenario(
        two_sizes,
        lambda _: Upgrades(deepest=2),
        tuple(Request(i, 0.01 * i, 1.0, 1, NUM_EXITS, i == 1) for i in range(3)),
        seams=("merge_answers", "on_exit"),
    ),
}
ALWAYS = ("decide", "load", "run", "release", "detections", "done", "watch", "trace", "ended")
KINDS = ("raises before", "raises after", "hangs", "nonsense")


@dataclass
class Client:
    """What one client was told."""

    answers: list[Answered] = field(default_factory=list)
    ends: list[Result] = field(default_factory=list)


class Bench:
    """An executor that is replaced when it hangs, as a supervisor does."""

    def __init__(self, scenario: Scenario, fault: Fault) -> None:
        self._scenario, self._fault = scenario, fault
        self.runner = scenario.runner()
        self.clock = self.runner.clock
        self.recorder = Recorder()
        self.clients: dict[int, Client] = {}
        self._ended: set[int] = set()
        for seam in ("load", "run", "select", "merge", "release", "detections"):
            setattr(self.runner, seam, fault.at(seam, getattr(self.runner, seam)))
        self.recorder.ended = fault.at("ended", self.recorder.ended)  # type: ignore[method-assign]
        fault.hang = self._hang
        self._open()

    def _open(self) -> None:
        runner, at = self.runner, self._fault.at
        policy = self._scenario.policy(runner)
        policy.decide = at("decide", policy.decide)  # type: ignore[method-assign]
        profile = exact_profile(runner.cost, (1, 2, 3, 4), runner.exits)
        self.executor = Executor(
            runner,
            policy,
            LatencyModel(profile),
            self.clock,
            self.recorder,
            max_waiting=8,
            probe_image=IMAGE,
            watch=at("watch", lambda *_: None),
            trace=at("trace", lambda *_: None),
            merge_answers=at("merge_answers", lambda first, then: then[1]),
            find_fault=lambda found: find_fault(found, 2.0, 1, 8),
        )

    def _hang(self) -> None:
        """Let time pass until whoever watches gives the executor up."""
        self.clock.now_s += HANG_S
        assert self.executor.is_stalled
        assert self.executor.abandon(EngineStalled("It hung."))

    def submit(self, request: Request) -> None:
        client = self.clients[request.id] = Client()

        def on_exit(answer: Answered) -> None:
            assert not client.ends, "it had ended"
            client.answers.append(answer)

        self.executor.submit(
            request,
            np.zeros((2, 2, 3), np.uint8),
            self._fault.at("done", client.ends.append),
            self._fault.at("on_exit", on_exit),
        )

    def play(self, requests: tuple[Request, ...], cancels: tuple[tuple[float, int], ...]) -> None:
        """Run until nothing is left to do."""
        start_s = self.clock()
        events = [
            (start_s + r.arrival_s, lambda r=r: self.submit(_later(r, start_s))) for r in requests
        ]  # type: ignore[misc]
        events += [(start_s + at_s, lambda i=i: self.executor.cancel(i)) for at_s, i in cancels]  # type: ignore[misc]
        self.clock.due = sorted(events, key=lambda event: event[0])
        while True:
            self.clock.catch_up()
            try:
                if self.executor.step():
                    continue
            except Abandoned:
                self._open()
                continue
            executor = self.executor
            inside = executor.num_waiting + executor.num_in_flight + executor.num_held
            due_s = self.clock.due[0][0] if self.clock.due else math.inf
            next_s = min(due_s, executor._wake_s if inside else math.inf)
            if next_s == math.inf:
                return
            self.clock.now_s = next_s


def _later(request: Request, start_s: float) -> Request:
    return replace(
        request, arrival_s=request.arrival_s + start_s, deadline_s=request.deadline_s + start_s
    )


def faults(scenario: Scenario, kind: str) -> Iterator[tuple[str, int]]:
    """Each call that may fail so, by seam and number."""
    calm = Fault()
    Bench(scenario, calm).play(scenario.requests, scenario.cancels)
    for seam in (*ALWAYS, *scenario.seams):
        assert calm.num_calls[seam], f"{seam} is not called, so nothing is known of it"
        if kind == "nonsense" and seam != "detections":
            continue
        for number in range(1, calm.num_calls[seam] + 1):
            yield seam, number


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_whichever_call_fails_each_request_ends_once_and_others_are_served(
    name: str, kind: str
) -> None:
    scenario = SCENARIOS[name]
    for seam, number in faults(scenario, kind):
        fault = Fault(seam, number, kind)
        bench = Bench(scenario, fault)
        bench.play(scenario.requests, scenario.cancels)
        where = f"call {number} of {seam}"
        assert fault.num_calls[seam] >= number, where
        told = {id: client.ends for id, client in bench.clients.items()}
        if (seam, kind) == ("done", "raises before"):  # that one could not be told
            (lost,) = [id for id, ends in told.items() if not ends]
            del told[lost]
        assert all(len(ends) == 1 for ends in told.values()), where
        for id, (end,) in told.items():
            answers = bench.clients[id].answers
            cancelled = any(id == i for _, i in scenario.cancels)
            assert not answers or cancelled or isinstance(end, Answered), where
        if (seam, kind) != ("ended", "raises before"):
            assert len(bench.recorder.results) == len(scenario.requests), where
        assert bench.recorder.failures or kind == "nonsense", where
        assert set(bench.recorder.failures) <= set(FAULTS)
        if kind == "nonsense":
            assert all(np.isfinite(a.detections.boxes_xyxy_input).all()
                       for c in bench.clients.values()
                       for a in (*c.answers, *c.ends) if isinstance(a, Answered))  # fmt: skip
        executor = bench.executor
        assert executor.num_waiting + executor.num_in_flight + executor.num_held == 0, where
        late = Request(99, 0.0, 1.0, 1, NUM_EXITS)
        bench.play((late,), ())
        assert [type(end) for end in bench.clients[99].ends] == [Answered], where


@pytest.mark.parametrize("kind", ["raises before", "nonsense"])
def test_a_fault_of_one_run_is_no_fault_of_another(kind: str) -> None:
    """One request after the other: only the one in that run fails."""
    requests = tuple(Request(i, float(i), i + 0.5, 1, 1) for i in range(3))
    scenario = Scenario(lambda: FakeRunner(FakeClock(), units=False), make_policy, requests)
    bench = Bench(scenario, Fault("detections", 2, kind))
    bench.play(requests, ())
    ends = [type(client.ends[0]) for client in bench.clients.values()]
    assert ends == [Answered, Failed, Answered]


# ---- interleavings ------------------------------------------------------------------------------

NUM_PLACES = 6
"""Places in the executor's course at which something is tried."""
FIRST, SECOND = ("submit 0", "cancel 0"), ("submit 1", "conclude 1")
ORDERS = sorted({
    tuple(order)
    for order in (
        (*FIRST, *SECOND), (*SECOND, *FIRST),
        (FIRST[0], SECOND[0], FIRST[1], SECOND[1]), (FIRST[0], SECOND[0], SECOND[1], FIRST[1]),
        (SECOND[0], FIRST[0], SECOND[1], FIRST[1]), (SECOND[0], FIRST[0], FIRST[1], SECOND[1]),
    )
})  # fmt: skip
"""Every order of what two clients do, each of which submits first."""


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("name", ["deadlines", "answers in hand"])
def test_whenever_clients_come_and_leave_each_request_ends_once(
    order: tuple[str, ...], name: str
) -> None:
    """Other threads act before a step, or while the policy, a run or a callback is under way."""
    for places in combinations_with_replacement(range(NUM_PLACES), len(order)):
        _interleave(SCENARIOS[name], list(zip(places, order, strict=True)))


def _interleave(scenario: Scenario, pending: list[tuple[int, str]]) -> None:
    """Play with each of ``pending`` done at its place."""
    bench = Bench(scenario, Fault())
    executor, runner = bench.executor, bench.runner
    passed = -1

    def act(action: str) -> None:
        verb, _, number = action.partition(" ")
        if verb == "submit":
            now_s = bench.clock()
            bench.submit(Request(int(number), now_s, now_s + 1.0, 1, 3, number == "1"))
        else:
            getattr(executor, verb)(int(number))

    def place(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal passed
            passed += 1
            while pending and pending[0][0] <= passed:
                act(pending.pop(0)[1])
            return function(*arguments)

        return call

    step = place(executor.step)
    runner.run = place(runner.run)  # type: ignore[method-assign]
    executor._policy.decide = place(executor._policy.decide)  # type: ignore[method-assign]
    bench.recorder.ended = place(bench.recorder.ended)  # type: ignore[method-assign]
    while step() or pending:
        pass
    bench.play((), ())
    first, second = (bench.clients[id] for id in (0, 1))
    assert [type(end) for end in first.ends] in ([Answered], [Cancelled])
    (end,) = second.ends
    assert isinstance(end, Answered) or not second.answers, "an answer is kept"
    assert isinstance(end, Answered | Cancelled)
    assert len(bench.recorder.results) == 2
    assert bench.recorder.failures == []
    assert all(batch.released for batch in runner.batches)
