"""The probe of an idle engine: a blank image, run to the first exit.

Predictions that a busy moment has raised would otherwise make the gateway refuse every budget, and
nothing would ever run to correct them.
"""

from __future__ import annotations

from serving.core.latency import LatencyModel
from serving.core.ports import Image, SegmentRunner
from serving.core.segment import Segment
from serving.execution.exit_times import ExitTimes
from serving.execution.inbox import Inbox
from serving.execution.liveness import Liveness
from serving.execution.segment_runs import SegmentRuns

PROBE_AFTER_S = 2.0
"""Seconds after which an idle engine is probed, which takes less than a hundredth of its time."""
RECHECK_AFTER_S = 0.1
"""Seconds after which an idle engine is probed while it seems slower than usual: whoever was
refused for that should come back to an engine that knows better."""
NUM_RECHECKS = 8
"""Number of such probes on end, from which the latency model knows how slow the engine is. More
would only be in the way of whoever comes."""


class Probe:
    """The probe of one engine, for the thread that owns it."""

    def __init__(
        self,
        path: tuple[Segment, ...],
        image: Image,
        runner: SegmentRunner,
        latency: LatencyModel,
        *,
        runs: SegmentRuns,
        exit_times: ExitTimes,
        inbox: Inbox,
        liveness: Liveness,
    ) -> None:
        """Make a probe that runs ``image`` through the segments of ``path``."""
        self._path = path
        self._image = image
        self._runner = runner
        self._latency = latency
        self._runs = runs
        self._exit_times = exit_times
        self._inbox = inbox
        self._liveness = liveness
        self._num_rechecks = 0

    @property
    def due_s(self) -> float:
        """Instant at which the engine is to be probed if it is idle."""
        recheck = self._num_rechecks < NUM_RECHECKS and self._exit_times.seems_slow
        return self._runs.learnt_s + (RECHECK_AFTER_S if recheck else PROBE_AFTER_S)

    def allow_rechecks(self) -> None:
        """Let a slow engine be probed soon again: somebody has come who would want to know."""
        self._num_rechecks = 0

    def run(self) -> None:
        """Run a blank request, to show the latency model the engine as it is now.

        When somebody arrives, it ends after the segment under way, but not before the first: what
        slows all segments down alike is learnt from any of them. Raises whatever a runtime does.
        """
        batch = self._runner.load([self._image])
        for number, segment in enumerate(self._path):
            if number > 0 and self._inbox.arrived:
                break
            self._runs.end()
            self._runs.begin()
            predicted_s = self._latency.predict(segment, 1)
            self._liveness.expect_run(predicted_s)
            try:
                output = self._runs.run(segment, batch).output
            finally:
                self._runner.release(batch)
            batch = output
            self._runs.learn(segment, 1, predicted_s)
        self._runner.release(batch)
        self._runs.end()
        self._num_rechecks += 1
        self._exit_times.publish()
