"""A virtual world for executor and policy: a clock that only moves while a segment runs, and a
runner that does nothing but take its time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.core import segment as segments
from serving.core.deadline_policy import DeadlinePolicy
from serving.core.latency import LatencyModel, LatencyProfile, Quantiles
from serving.core.request import Answered, Cancelled, Detections, Request, Result
from serving.core.segment import Segment
from serving.executor import Executor

NUM_EXITS = 5
ACCURACY = (0.50, 0.55, 0.58, 0.60, 0.61)
STEM_S, STACK_S, HEAD_S = 0.004, 0.003, 0.005
FUSED_GAIN = 0.9
"""A fused run takes this share of its parts."""
IMAGE = np.zeros((2, 2, 3), dtype=np.uint8)

OFFERS: dict[str, dict[str, bool]] = {
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


def unit_s(depth: int) -> float:
    """A lone request through unit segments."""
    return sum(map(cost_s, segments.unit_path(depth)))


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class FakeBatch:
    """Rows are request-identifying images; features remember how deep they are."""

    depth: int
    rows: list[Any]
    released: bool = False


@dataclass
class FakeRunner:
    """``SegmentRunner`` on a ``FakeClock``. Fails on the runs whose number is in ``fail_on``."""

    clock: FakeClock
    cost: Cost = cost_s
    runtime: str = "fake 1"
    fused: bool = True
    units: bool = True
    batch_sizes: tuple[int, ...] = (1, 4)
    fail_on: frozenset[int] = frozenset()
    log: list[tuple[str, int]] = field(default_factory=list)
    batches: list[FakeBatch] = field(default_factory=list)

    @property
    def segments(self) -> frozenset[Segment]:
        fused = segments.fused_segments(NUM_EXITS) if self.fused else ()
        units = segments.unit_segments(NUM_EXITS) if self.units else ()
        return frozenset((*units, *fused))

    def _new(self, depth: int, rows: Sequence[Any]) -> FakeBatch:
        self.batches.append(FakeBatch(depth, list(rows)))
        return self.batches[-1]

    def load(self, images: Sequence[Any]) -> FakeBatch:
        return self._new(segments.IMAGE, images)

    def run(self, segment: Segment, batch: FakeBatch) -> FakeBatch:
        assert not batch.released
        assert batch.depth == segment.start
        assert len(batch.rows) <= self.batch_sizes[-1]
        self.log.append((segment.name, len(batch.rows)))
        self.clock.now_s += self.cost(segment, len(batch.rows))
        if len(self.log) in self.fail_on:
            raise RuntimeError("the device is on fire")
        return self._new(segment.stop, batch.rows)

    def select(self, batch: FakeBatch, rows: Sequence[int]) -> FakeBatch:
        assert not batch.released
        return self._new(batch.depth, [batch.rows[row] for row in rows])

    def release(self, batch: FakeBatch) -> None:
        assert not batch.released
        batch.released = True

    def detections(self, batch: FakeBatch) -> list[Detections]:
        """One box per image, scored with the image's own number so that rows can be told apart."""
        return [
            Detections(
                np.zeros((1, 4), np.float32),
                np.array([row[0, 0, 0]], np.float32),
                np.zeros(1, np.int32),
            )
            for row in batch.rows
        ]

    def close(self) -> None:
        pass


class Recorder:
    """``Observer`` that keeps what it is told."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.runs: list[tuple[str, int, float, float]] = []

    def ran(self, segment: Segment, batch: int, predicted_s: float, seconds: float) -> None:
        self.runs.append((segment.name, batch, predicted_s, seconds))

    def decided(self, seconds: float) -> None:
        assert seconds >= 0

    def ended(self, result: Result) -> None:
        self.results.append(result)


def exact_profile(cost: Cost = cost_s, sizes: Sequence[int] = (1, 2, 3, 4)) -> LatencyProfile:
    """A profile without any spread."""
    every = (*segments.unit_segments(NUM_EXITS), *segments.fused_segments(NUM_EXITS))
    return LatencyProfile(
        "fake 1",
        "nowhere",
        "2026-01-01",
        1,
        {(s, b): Quantiles(*[cost(s, b)] * 3) for s in every for b in sizes},
    )


def make_policy(runner: FakeRunner, max_cohorts: int = 8) -> DeadlinePolicy:
    return DeadlinePolicy(runner.segments, ACCURACY, runner.batch_sizes, max_cohorts)


class World:
    """An executor in a virtual world. ``play`` lets requests arrive and runs until all ended."""

    def __init__(self, runner: FakeRunner | None = None, max_waiting: int = 1000) -> None:
        self.clock = runner.clock if runner else FakeClock()
        self.runner = runner or FakeRunner(self.clock)
        self.recorder = Recorder()
        self.executor = Executor(
            self.runner,
            make_policy(self.runner),
            LatencyModel(exact_profile()),
            self.clock,
            self.recorder,
            max_waiting,
            probe_image=IMAGE,
        )
        self.results: dict[int, list[Result]] = {}
        self.answers: dict[int, list[Answered]] = {}
        self.on_answer: Callable[[Answered], None] = lambda answer: None

    def submit(self, request: Request) -> None:
        image = np.full((2, 2, 3), request.id % 256, dtype=np.uint8)
        ends = self.results.setdefault(request.id, [])
        answers = self.answers.setdefault(request.id, [])

        def grew(answer: Answered) -> None:
            assert not ends, "it had ended"
            answers.append(answer)
            self.on_answer(answer)

        self.executor.submit(request, image, ends.append, grew)

    def play(
        self, requests: Sequence[Request], cancels: Sequence[tuple[float, int]] = ()
    ) -> dict[int, Result]:
        """Submit each request and carry out each (instant, id) cancellation at its time; returns
        how each request ended."""
        events = [(r.arrival_s, 0, r.id, lambda r=r: self.submit(r)) for r in requests]
        events += [(at, 1, i, lambda i=i: self.executor.cancel(i)) for at, i in cancels]
        events.sort(key=lambda event: event[:3])
        while True:
            while events and events[0][0] <= self.clock.now_s:
                events.pop(0)[3]()
            if not self.executor.step():
                if not events:
                    break
                self.clock.now_s = events[0][0]
        assert all(len(ends) == 1 for ends in self.results.values()), "each ends exactly once"
        assert len(self.recorder.results) == len(self.results)
        assert self.executor.num_waiting == self.executor.num_in_flight == 0
        for i, (end,) in self.results.items():
            if isinstance(end, Answered):
                assert end is self.answers[i][-1], "the deepest answer is how it ends"
            else:
                assert not self.answers[i] or isinstance(end, Cancelled), "an answer is kept"
        return {i: ends[0] for i, ends in self.results.items()}


def depth_of(result: Result) -> int:
    """The exit a request left at; 0 if it was not answered."""
    return result.depth if isinstance(result, Answered) else 0
