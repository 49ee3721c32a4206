"""Metrics of the executor on Triton's own /metrics, by the names that the gateway uses."""

from __future__ import annotations

import queue
from collections.abc import Callable

import triton_python_backend_utils as pb_utils

from serving.core.family import Family
from serving.core.observing import FAULTS, MARGIN_BUCKETS_S, RESULT_NAMES
from serving.core.request import Answered, Result
from serving.core.segment import Segment


class HostMetrics:
    """A ``core.ports.Observer`` that exports to Triton.

    Facts are noted in the executor's thread and exported by ``publish`` in another: each costs a
    message to Triton's process.
    """

    def __init__(self, family: Family) -> None:
        labels = {"model": family.name}
        kinds = pb_utils.MetricFamily

        def metric(name: str, text: str, kind: object) -> pb_utils.MetricFamily:
            return kinds(name=name, description=text, kind=kind)

        # Triton forgets a family that nobody holds.
        self._families = (
            metric("punctual_exit_depth_total", "Answers by exit depth.", kinds.COUNTER),
            metric("punctual_engine_results_total", "Requests by result.", kinds.COUNTER),
            metric("punctual_engine_faults_total", "Failures in the engine.", kinds.COUNTER),
            metric("punctual_deadline_margin_seconds", "Time left at the end.", kinds.HISTOGRAM),
        )
        depths, results, faults, margin = self._families
        self._depths = {
            (model, depth): depths.Metric(
                labels={
                    **labels,
                    "depth": str(depth),
                    "operating_point": family.label(model, depth),
                }
            )
            for model, depth in family.ladder.points
        }
        self._results = {
            kind: results.Metric(labels={**labels, "result": name})
            for kind, name in RESULT_NAMES.items()
        }
        self._faults = {kind: faults.Metric(labels={**labels, "kind": kind}) for kind in FAULTS}
        self._margin = margin.Metric(labels=labels, buckets=list(MARGIN_BUCKETS_S))
        self._facts: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def ran(self, segment: Segment, batch: int, predicted_s: float, seconds: float) -> None:
        """Do nothing: a message for each segment would cost more than it tells."""

    def decided(self, seconds: float) -> None:
        """Do nothing: a message for each decision would cost more than it tells."""

    def spent(self, part: str, processor_s: float) -> None:
        """Do nothing: it is Triton's process that it was spent in."""

    def ended(self, result: Result) -> None:
        """Note how a request ended."""
        self._facts.put(lambda: self._export(result))

    def failed(self, kind: str) -> None:
        """Note a failure inside the engine."""
        self._facts.put(lambda: self._faults[kind].increment(1))

    def publish(self) -> None:
        """Export what was noted since the last time."""
        while not self._facts.empty():
            self._facts.get()()

    def _export(self, result: Result) -> None:
        """Export how a request ended."""
        self._results[type(result)].increment(1)
        if isinstance(result, Answered):
            self._depths[result.model, result.depth].increment(1)
            self._margin.observe(max(0.0, result.request.deadline_s - result.finished_s))
