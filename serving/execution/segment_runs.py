"""Runs of segments: each is timed, and what it took is learnt for the predictions to come.

A run counts from its decision on. Deciding, loading and handing over belong to the cost of a
boundary, and a plan that left them out would be late.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from serving.core.latency import LatencyModel
from serving.core.ports import Clock, Observer, SegmentRunner
from serving.core.segment import Segment
from serving.execution.exit_times import ExitTimes
from serving.execution.thread_time import ThreadTime


class TimedRun(NamedTuple):
    """One run that has ended well."""

    output: Any
    started_s: float
    seconds: float


class SegmentRuns:
    """The runs on one device, for the thread that owns it."""

    def __init__(
        self,
        runner: SegmentRunner,
        latency: LatencyModel,
        clock: Clock,
        observer: Observer,
        exit_times: ExitTimes,
        thread_time: ThreadTime,
    ) -> None:
        self._runner = runner
        self._latency = latency
        self._clock = clock
        self._observer = observer
        self._exit_times = exit_times
        self._thread_time = thread_time
        self.began_s: float | None = None
        """Instant at which the decision on the next run began; None in between."""
        self.learnt_s = clock()
        """Instant at which anything was last learnt of how quick the engine is."""

    def begin(self) -> None:
        """Count from now on towards the next run, unless something does already."""
        if self.began_s is None:
            self.began_s = self._clock()

    def end(self) -> None:
        """Count nothing until ``begin``."""
        self.began_s = None

    def run(self, segment: Segment, batch: Any) -> TimedRun:
        """Run ``segment`` on ``batch``. Raises whatever the runtime does."""
        started_s, before_s = self._clock(), self._thread_time.clock()
        output = self._runner.run(segment, batch)
        seconds = self._clock() - started_s
        self._thread_time.ran(before_s)
        return TimedRun(output, started_s, seconds)

    def learn(self, segment: Segment, size: int, predicted_s: float) -> None:
        """Teach the latency model what a run of ``size`` images took, from ``begin`` on."""
        assert self.began_s is not None, "nothing ran"
        now_s = self._clock()
        seconds = now_s - self.began_s
        self._latency.observe(segment, size, seconds)
        self.learnt_s = now_s
        self._observer.ran(segment, size, predicted_s, seconds)
        self._thread_time.account()
        self._exit_times.publish_if_old(now_s)
