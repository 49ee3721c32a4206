"""A virtual world for executor and policy: a clock that only moves while a segment runs, and a
runner that does nothing but take its time. Whatever happens does so at its instant, also while a
segment runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from serving.core import segment as segments
from serving.core.latency import LatencyModel
from serving.core.latency_profile import LatencyProfile, Quantiles
from serving.core.observing import MERGE, RUN
from serving.core.policy import Decision, Policy, Snapshot, Wait
from serving.core.ports import Pause, no_pause
from serving.core.request import Answered, Cancelled, Detections, Request, Result
from serving.core.scheduling.deadline_policy import DeadlinePolicy
from serving.core.segment import Segment
from serving.execution.executor import Executor
from serving.execution.jobs import MergeAnswers

NUM_EXITS = 5
ACCURACY = (0.50, 0.55, 0.58, 0.60, 0.61)
STEM_S, STACK_S, HEAD_S = 0.004, 0.003, 0.005
FUSED_GAIN = 0.9
"""A fused run takes this share of its parts."""
IMAGE = np.zeros((2, 2, 3), dtype=np.uint8)

OFFERS: dict[str, dict[str, Any]] = {
    "unit and fused": {},
    "unit only": {"fused": False},
    "fused only": {"units": False},
}
"""What a runner may have: arguments of ``FakeRunner``."""

Cost = Callable[[Segment, int], float]


def cost_s(segment: Segment, batch: int = 1) -> float:
    """Exact run time: batches of four take three times as long as one image."""
    growth = 1 + (batch - 1) * 2 / 3
    if segment.start == segments.IMAGE and segment.head:
        return FUSED_GAIN * (STEM_S + segment.stop * STACK_S + HEAD_S) * growth
    if segment.head:
        return HEAD_S * growth
    return (STEM_S if segment.start == segments.IMAGE else STACK_S) * growth


def batching(fixed: float) -> Cost:
    """Run times of a device of which a share ``fixed`` does not depend on the batch."""

    def batch_cost_s(segment: Segment, batch: int = 1) -> float:
        return cost_s(segment) * (fixed + (1 - fixed) * batch)

    return batch_cost_s


def unit_s(depth: int) -> float:
    """A lone request through unit segments."""
    return sum(map(cost_s, segments.unit_path(depth)))


class FakeClock:
    """Seconds that pass only when told to. What is ``due``, as (instant, action) in order, happens
    on the way past its instant."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def __call__(self) -> float:
        return self._now_s

    @property
    def now_s(self) -> float:
        return self._now_s

    @now_s.setter
    def now_s(self, now_s: float) -> None:
        while self.due and self.due[0][0] < now_s:
            self._happen()
        self._now_s = now_s

    def catch_up(self) -> None:
        """Let happen what is due at this very instant."""
        while self.due and self.due[0][0] <= self._now_s:
            self._happen()

    def _happen(self) -> None:
        instant_s, action = self.due.pop(0)
        self._now_s = max(self._now_s, instant_s)
        action()


@dataclass
class FakeBatch:
    """Rows are request-identifying images; features remember how deep they are."""

    depth: int
    rows: list[Any]
    model: int = 0
    released: bool = False


@dataclass
class FakeRunner:
    """``SegmentRunner`` on a ``FakeClock``, of a model for each number in ``exits``. Fails on the
    runs whose number is in ``fail_on``."""

    clock: FakeClock
    cost: Cost = cost_s
    runtime: str = "fake 1"
    fused: bool = True
    units: bool = True
    batch_sizes: tuple[int, ...] = (1, 4)
    fail_on: frozenset[int] = frozenset()
    exits: tuple[int, ...] = (NUM_EXITS,)
    log: list[tuple[str, int]] = field(default_factory=list)
    batches: list[FakeBatch] = field(default_factory=list)

    @property
    def segments(self) -> frozenset[Segment]:
        every = every_segment(self.exits)
        wanted = {"exit": self.fused, "stem": self.units, "stack": self.units, "head": self.units}
        return frozenset(segment for segment in every if wanted[segment.kind])

    def _new(self, depth: int, rows: Sequence[Any], model: int = 0) -> FakeBatch:
        self.batches.append(FakeBatch(depth, list(rows), model))
        return self.batches[-1]

    def load(self, images: Sequence[Any]) -> FakeBatch:
        return self._new(segments.IMAGE, images)

    def run(self, segment: Segment, batch: FakeBatch) -> FakeBatch:
        assert not batch.released
        assert batch.depth == segment.start
        assert batch.depth == segments.IMAGE or batch.model == segment.model
        assert len(batch.rows) <= self.batch_sizes[-1]
        self.log.append((segment.name, len(batch.rows)))
        self.clock.now_s += self.cost(segment, len(batch.rows))
        if len(self.log) in self.fail_on:
            raise RuntimeError("the device is on fire")
        return self._new(segment.stop, batch.rows, segment.model)

    def select(self, batch: FakeBatch, rows: Sequence[int]) -> FakeBatch:
        assert not batch.released
        return self._new(batch.depth, [batch.rows[row] for row in rows], batch.model)

    def merge(self, batches: Sequence[FakeBatch]) -> FakeBatch:
        assert len(batches) > 1
        assert not any(batch.released for batch in batches)
        ((depth, model),) = {(batch.depth, batch.model) for batch in batches}
        assert depth != segments.IMAGE
        rows = [row for batch in batches for row in batch.rows]
        assert len(rows) <= self.batch_sizes[-1]
        return self._new(depth, rows, model)

    def release(self, batch: FakeBatch) -> None:
        assert not batch.released
        batch.released = True

    def detections(self, batch: FakeBatch) -> list[Detections]:
        """One box per image, scored with the image's own number so that rows can be told apart."""
        return [
            Detections(
                np.zeros((1, 4), np.float32),
                np.array([np.asarray(row)[0, 0, 0]], np.float32),
                np.zeros(1, np.int32),
            )
            for row in batch.rows
        ]

    def abort(self) -> None:
        pass

    def close(self, pause: Pause = no_pause, /) -> None:
        pause()


class Recorder:
    """``Observer`` that keeps what it is told."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.runs: list[tuple[str, int, float, float]] = []
        self.spendings: list[tuple[str, float]] = []
        self.failures: list[str] = []

    def ran(self, segment: Segment, batch: int, predicted_s: float, seconds: float) -> None:
        self.runs.append((segment.name, batch, predicted_s, seconds))

    def decided(self, seconds: float) -> None:
        assert seconds >= 0

    def spent(self, part: str, processor_s: float) -> None:
        self.spendings.append((part, processor_s))

    def ended(self, result: Result) -> None:
        self.results.append(result)

    def failed(self, kind: str) -> None:
        self.failures.append(kind)


def every_segment(exits: Sequence[int]) -> tuple[Segment, ...]:
    """Of models with so many exits."""
    return tuple(
        segment.of(model)
        for model, num_exits in enumerate(exits)
        for segment in segments.every_segment(num_exits)
    )


def exact_profile(
    cost: Cost = cost_s, sizes: Sequence[int] = (1, 2, 3, 4), exits: Sequence[int] = (NUM_EXITS,)
) -> LatencyProfile:
    """A profile without any spread."""
    return LatencyProfile(
        "fake 1",
        "nowhere",
        "2026-01-01",
        1,
        {(s, b): Quantiles(*[cost(s, b)] * 3) for s in every_segment(exits) for b in sizes},
    )


def make_policy(runner: FakeRunner, max_cohorts: int = 8) -> DeadlinePolicy:
    return DeadlinePolicy(runner.segments, ACCURACY, runner.batch_sizes, max_cohorts)


class World:
    """An executor in a virtual world whose run times it knows exactly. ``play`` lets requests
    arrive and runs until all ended."""

    def __init__(
        self,
        runner: FakeRunner | None = None,
        max_waiting: int = 1000,
        policy: Policy | None = None,
        merge_answers: MergeAnswers | None = None,
    ) -> None:
        self.clock = runner.clock if runner else FakeClock()
        self.runner = runner or FakeRunner(self.clock)
        self.recorder = Recorder()
        self.decisions: list[tuple[Snapshot, Decision]] = []
        sizes = range(1, self.runner.batch_sizes[-1] + 1)
        self.executor = Executor(
            self.runner,
            policy or make_policy(self.runner),
            LatencyModel(exact_profile(self.runner.cost, sizes, self.runner.exits)),
            self.clock,
            self.recorder,
            max_waiting,
            probe_image=IMAGE,
            watch=lambda *seen: self.decisions.append(seen),
            merge_answers=merge_answers,
        )
        self.results: dict[int, list[Result]] = {}
        self.answers: dict[int, list[Answered]] = {}
        self.on_answer: Callable[[Answered], None] = lambda answer: None
        self.may_fail = {RUN, MERGE}
        """Kinds of failures that are no failure of the test."""

    def submit(self, request: Request) -> None:
        image = np.full((2, 2, 3), request.id % 256, dtype=np.uint8)
        ends = self.results.setdefault(request.id, [])
        answers = self.answers.setdefault(request.id, [])

        def on_exit(answer: Answered) -> None:
            assert not ends, "it had ended"
            answers.append(answer)
            self.on_answer(answer)

        def done(result: Result) -> None:
            if isinstance(result, Answered) and not any(result is each for each in answers):
                on_exit(result)
            ends.append(result)

        self.executor.submit(request, image, done, on_exit)

    def play(
        self,
        requests: Sequence[Request],
        cancels: Sequence[tuple[float, int]] = (),
        actions: Sequence[tuple[float, Callable[[], None]]] = (),
    ) -> dict[int, Result]:
        """Submit each request and carry out each (instant, id) cancellation, and each of
        ``actions``, at its time; returns how each request ended."""
        events: list[tuple[float, int, int, Callable[[], None]]] = []
        events += [(r.arrival_s, 0, r.id, partial(self.submit, r)) for r in requests]
        events += [(at, 1, i, partial(self.executor.cancel, i)) for at, i in cancels]
        events += [(at, 2, i, action) for i, (at, action) in enumerate(actions)]
        events.sort(key=lambda event: event[:3])
        due = self.clock.due = [(at, action) for at, _, _, action in events]
        while True:
            self.clock.catch_up()
            if not self.executor.step():
                next_s = min(due[0][0] if due else math.inf, self._wake_s())
                if next_s == math.inf:
                    break
                self.clock.now_s = next_s
        assert all(len(ends) == 1 for ends in self.results.values()), "each ends exactly once"
        assert len(self.recorder.results) == len(self.results)
        assert self.executor.num_waiting == self.executor.num_in_flight == 0
        assert self.executor.num_held == 0
        assert self.may_fail.issuperset(self.recorder.failures)
        for i, (end,) in self.results.items():
            if isinstance(end, Answered):
                assert end is self.answers[i][-1], "the deepest answer is how it ends"
            else:
                assert not self.answers[i] or isinstance(end, Cancelled), "an answer is kept"
        return {i: ends[0] for i, ends in self.results.items()}

    def _wake_s(self) -> float:
        """Until when the executor waits with requests in its hands."""
        executor = self.executor
        if executor.num_waiting + executor.num_in_flight + executor.num_held == 0:
            return math.inf
        assert isinstance(self.decisions[-1][1], Wait)
        return executor._wake_s


def depth_of(result: Result) -> int:
    """The exit a request left at; 0 if it was not answered."""
    return result.depth if isinstance(result, Answered) else 0
