"""What an executor does to its engine: it takes requests in, and carries decisions out.

``EngineState`` says what becomes of requests, the runner computes, and ``Jobs`` tells whoever
submitted them; the three are kept in step here. Whatever a runtime raises ends the requests of that
one action.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from serving.core.engine_state import CohortChange, EngineState
from serving.core.errors import malformed_output
from serving.core.latency import LatencyModel
from serving.core.observing import CALLBACK, MERGE, RUN, SELECT, SegmentRun, Trace
from serving.core.policy import Conclude, Merge, Run, ShedRequests
from serving.core.ports import Clock, SegmentRunner
from serving.core.request import Detections
from serving.core.segment import Segment
from serving.execution.cohort_batches import CohortBatches
from serving.execution.failures import Failures
from serving.execution.inbox import Inbox
from serving.execution.jobs import Job, Jobs
from serving.execution.liveness import Liveness
from serving.execution.segment_runs import SegmentRuns


class EngineActions:
    """The actions of one executor, for its thread."""

    def __init__(
        self,
        runner: SegmentRunner,
        latency: LatencyModel,
        clock: Clock,
        max_held: int,
        *,
        jobs: Jobs,
        runs: SegmentRuns,
        failures: Failures,
        liveness: Liveness,
        trace: Trace | None,
    ) -> None:
        """Make them for an engine without requests, which is to hold ``max_held`` at most."""
        self._runner = runner
        self._latency = latency
        self._clock = clock
        self._max_held = max_held
        self._jobs = jobs
        self._runs = runs
        self._failures = failures
        self._liveness = liveness
        self._trace = trace
        self._batches = CohortBatches(runner)
        self.state = EngineState(max_held)
        """The requests inside; its numbers are for any thread."""

    def reset(self) -> None:
        """Forget everybody, and release what there is of them on the device."""
        self._batches.clear()
        self.forget()

    def forget(self) -> None:
        """Forget everybody, whose features go with the device."""
        self.state = EngineState(self._max_held)

    def take_in(self, inbox: Inbox) -> bool:
        """Let new requests wait, and end those that were cancelled or concluded, or that expire.

        Returns whether anybody has arrived.
        """
        with inbox.changed:  # or a request would be in neither for a moment
            arrived, cancelled, concluded = inbox.take()
            self._jobs.add(arrived)
            arrivals = self.state.add([(job.request, job.submitted_s) for job in arrived])
        self._jobs.supersede(arrivals.superseded)
        self._jobs.conclude(arrivals.concluded)
        gone = self._jobs.known(cancelled | concluded)
        if gone:
            self._keep_rows(self.state.remove([job.request for job in gone]))
            for job in gone:
                self._jobs.withdraw(job, with_answer=job.request.id not in cancelled)
        self._jobs.conclude(self.state.expire(self._clock()))
        return bool(arrived)

    def shed(self, decision: ShedRequests) -> None:
        """End the requests of ``decision`` as shed."""
        self._keep_rows(self.state.apply(decision))
        self._jobs.shed(decision.requests, decision.reason, decision.retry_after_s)

    def conclude(self, decision: Conclude) -> None:
        """End the requests of ``decision`` with the answers they have."""
        self._keep_rows(self.state.apply(decision))
        self._jobs.conclude(decision.requests)

    def merge(self, decision: Merge) -> None:
        """Make the cohorts of ``decision`` one, on the device too.

        If that fails, so do their requests.
        """
        parts = [self.state.cohort(id) for id in decision.cohorts]
        try:
            batch = self._batches.merged(decision.cohorts)
        except Exception as error:  # whatever a runtime raises must not end the loop
            self._failures.note(MERGE, "cohorts could not be merged", error)
            requests = tuple(request for part in parts for request in part.requests)
            self._keep_rows(self.state.remove(requests))
            self._jobs.fail(requests, error)
            return
        self._batches.replace(decision.cohorts, batch)
        self.state.apply(decision)

    # -- runs --------------------------------------------------------------------------------------

    def run(self, decision: Run) -> None:
        """Run the segment of ``decision``, hand its output over, and learn from it."""
        jobs = self._jobs.of(decision.requests)
        predicted_s = self._latency.predict(decision.segment, len(jobs))
        for job in jobs:
            job.predicted_s += predicted_s
        self.state.apply(decision)
        batch = output = None
        self._liveness.expect_run(predicted_s)
        try:
            batch = self._input(decision, jobs)
            output = self._timed(decision.segment, batch, jobs)
            detections = self._boxes(output, len(jobs)) if decision.segment.head else None
        except Exception as error:  # whatever a runtime raises must not end the loop
            self._failures.note(RUN, f"segment {decision.segment.name} failed", error)
            if batch is not None:
                self._batches.release(batch, decision.cohort)
            if output is not None:
                self._runner.release(output)
            self._keep_rows(self.state.fail(decision))
            self._jobs.fail(decision.requests, error)
            return
        self._liveness.back()
        self._liveness.expect()
        if self._trace is not None:
            try:
                self._trace(self._traced(decision, predicted_s))
            except Exception as error:
                self._failures.note(CALLBACK, "a run could not be traced", error)
        if detections is None:
            self._advance(decision, batch, output)
        else:
            self._answer(decision, batch, output, jobs, detections)
        self._runs.learn(decision.segment, len(jobs), predicted_s)

    def _input(self, decision: Run, jobs: Sequence[Job]) -> Any:
        """Return the batch that the segment takes; a cohort keeps its own."""
        if decision.cohort is None:
            return self._runner.load([job.image for job in jobs])
        return self._batches.of(self.state.cohort(decision.cohort), decision.requests)

    def _timed(self, segment: Segment, batch: Any, jobs: Sequence[Job]) -> Any:
        """Run ``segment`` on ``batch``, and count its seconds towards each of ``jobs``."""
        run = self._runs.run(segment, batch)
        for job in jobs:
            job.started_s = job.started_s or run.started_s
            job.engine_s += run.seconds
        self.state.charge([job.request for job in jobs], run.seconds)
        return run.output

    def _boxes(self, output: Any, size: int) -> list[Detections]:
        """Return what a head gave for a batch. Raises BackendError unless that is a row each."""
        detections = self._runner.detections(output)
        if len(detections) != size:
            raise malformed_output(f"there are {len(detections)} rows of boxes for {size} images")
        return detections

    def _traced(self, decision: Run, predicted_s: float) -> SegmentRun:
        """Return a record of the run that has just ended."""
        assert self._runs.began_s is not None, "nothing ran"
        cohort, now_s = self.state.cohort_of(decision), self._clock()
        return SegmentRun(
            decision.segment, decision.requests, cohort, self._runs.began_s, now_s, predicted_s
        )

    def _advance(self, decision: Run, batch: Any, output: Any) -> None:
        """Keep the features that came out, as a new cohort's or a deeper one's."""
        self._runner.release(batch)
        completion = self.state.complete(decision, self._clock())
        assert completion.cohort is not None
        self._batches.put(completion.cohort.id, output)
        self._keep_rows(completion.changes)

    def _answer(
        self,
        decision: Run,
        batch: Any,
        output: Any,
        jobs: list[Job],
        detections: list[Detections],
    ) -> None:
        """Hand out the boxes that came out, and end all requests but those that stay."""
        self._runner.release(output)
        self._batches.release(batch, decision.cohort)
        completion = self.state.complete(decision, self._clock())
        ended = self._jobs.answer(decision.segment, jobs, detections, completion)
        # After the answers, so that rows which cannot be kept end with the one they have just had.
        self._keep_rows(completion.changes)
        if ended:
            self._keep_rows(self.state.remove(ended))

    def _keep_rows(self, changes: Iterable[CohortChange]) -> None:
        """Keep of the batches on the device only the rows that are left.

        If that fails, so do their requests.
        """
        for change in changes:
            failure = self._batches.keep(change)
            if failure is not None:
                self._failures.note(SELECT, "rows could not be kept", failure)
                lost = self.state.cohort(change.cohort).requests
                self.state.remove(lost)
                self._jobs.fail(lost, failure)
