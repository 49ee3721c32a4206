"""The executor, which owns one device, runs one segment at a time and asks the policy what is next.

    submit -> waiting --Run(stem)--> cohort --Run(stack)--> cohort --Run(head)--> answered
                 |                     |  ^                   |
                 |                     |  '-streaming: on_exit'--hold: on_exit--> held
                 |-- shed, cancelled --'---- shed, cancelled, failed
                 '-- superseded by a newer frame of the stream

Every request that was submitted ends exactly once, by its ``done`` callback. A *streaming* or a
*held* one has answers before that, by its ``on_exit`` callback; once it has one, only its client
can take it from it: it is not shed, and whatever fails, it ends answered. The loop runs in a thread
of its own; ``step`` is one pass of it and is all that tests need.

Whoever waits for a held request need not wait for the engine: it takes the answer in hand when it
must, and says so by ``conclude``.

Whatever is raised (by the runtime, the policy, whoever is told, or the executor itself) ends the
requests concerned, and the loop goes on. What is not raised but hangs is for another thread to see:
each step says by when it ought to be over (``is_stalled``), and ``abandon`` ends everybody inside
and leaves the thread to itself.

An idle engine is probed: predictions that a busy moment has raised would otherwise make the gateway
refuse every budget, and nothing would ever run to correct them.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from serving.core import segment as segments
from serving.core.engine_state import CohortChange, EngineState
from serving.core.errors import BackendUnavailable, EngineLost, ShedReason, nonsense
from serving.core.fair_shares import refusal
from serving.core.latency import LatencyModel
from serving.core.observing import (
    CALLBACK,
    DECISION,
    DEFECT,
    EXECUTOR,
    LOST,
    MERGE,
    POLICY,
    RUN,
    SELECT,
    STALLED,
    SegmentRun,
    Trace,
)
from serving.core.output_check import FindFault
from serving.core.policy import (
    Conclude,
    Decision,
    Merge,
    Policy,
    Run,
    ShedRequests,
    Snapshot,
    Wait,
)
from serving.core.ports import Clock, Image, Observer, SegmentRunner
from serving.core.request import Detections, Failed, Request, Shed
from serving.core.scheduling.path_costs import Costs
from serving.core.scheduling.paths import paths_of
from serving.core.windowed_minimum import WindowedMinimum
from serving.failures import Failures
from serving.jobs import Done, Job, Jobs, MergeAnswers, OnExit

PROBE_AFTER_S = 2.0
"""Seconds after which an idle engine is probed, which takes less than a hundredth of its time."""
RECHECK_AFTER_S = 0.1
"""Seconds after which an idle engine is probed while it seems slower than usual: whoever was
refused for that should come back to an engine that knows better."""
NUM_RECHECKS = 8
"""Number of such probes on end, from which the latency model knows how slow the engine is. More
would only be in the way of whoever comes."""
SLOW_RATIO = 1.2
"""Ratio of what the quickest exit is predicted to take to the least that it was lately, above which
an engine seems slow."""
PUBLISH_EVERY_S = 0.05
"""Seconds that the predictions which admission goes by may be old; making them takes some
microseconds."""
IDLE_PERIOD_S = 30.0
"""Seconds that the least typical times are kept for, once to twice over: an idle engine would take
those. Under overload everything around it slows it down, and not all segments alike."""

EXECUTOR_THREAD = "executor"
"""Name of the thread that the loop runs in."""
STALL_FACTOR = 20.0
"""Multiple of what a run seldom exceeds after which it is taken to hang. Run times have heavy
tails, and an engine that is given up in vain costs all requests inside."""
STALL_FLOOR_S = 2.0
"""Seconds before which nothing is taken to hang: a machine that does other things first may stand
still for so long."""
STOP_WITHIN_S = 2.0
"""Seconds that the step under way is given to end when the executor is stopped."""

Watch = Callable[[Snapshot, Decision], None]
"""Function that is told of each decision, in the executor's thread, before it is carried out."""


_NUM_REMEMBERED = 16
"""Number of questions how soon an exit is reached whose answers are remembered. Admission asks the
same several times for each request, and predictions change some twenty times a second."""

_ExitSeconds = tuple[tuple[float, ...], ...]
"""Seconds to each exit of each model."""


class _Abandoned(BaseException):
    """The end of a thread that was given up while it hung: others have taken its place."""


class Executor:
    """An executor: it runs requests through the segments of one runner.

    ``submit`` and ``cancel`` may be called from any thread; ``step`` from one thread only.
    """

    def __init__(
        self,
        runner: SegmentRunner,
        policy: Policy,
        latency: LatencyModel,
        clock: Clock,
        observer: Observer,
        max_waiting: int,
        probe_image: Image,
        watch: Watch | None = None,
        trace: Trace | None = None,
        merge_answers: MergeAnswers | None = None,
        find_fault: FindFault | None = None,
        processor_clock: Clock = time.thread_time,
    ) -> None:
        """Make an executor that is not started.

        ``processor_clock`` gives the seconds that the calling thread has had a processor.
        """
        self._runner = runner
        self._policy = policy
        self._latency = latency
        self._clock = clock
        self._observer = observer
        self._max_waiting = max_waiting
        self._probe_image = probe_image
        self._watch = watch
        self._trace = trace
        self._models = paths_of(runner.segments)
        now_s = clock()
        self._num_rechecks = 0
        self._exit_s, self._tail_s = self._predict_exits()
        self._idle_s = [WindowedMinimum(IDLE_PERIOD_S, now_s, seconds) for seconds in self._exit_s]
        self._published_s = now_s
        self._changed = threading.Condition()
        # Shared with other threads, guarded by _changed:
        self._inbox: list[Job] = []
        self._cancelled: set[int] = set()
        self._concluded: set[int] = set()
        self._num_open = 0
        self._draining = False
        self._stopping = False
        self._due_s = math.inf  # when the step under way ought to be over; read by others
        self._given_up: Exception | None = None  # what everybody inside ended with
        self._is_lost = False
        # Touched by the loop's thread alone:
        self._state = EngineState(max_waiting)
        self._failures = Failures(clock, observer)
        self._jobs = Jobs(clock, observer, self._failures, merge_answers, find_fault, self._left)
        self._batches: dict[int, Any] = {}  # on the device, by cohort
        self._wake_s = math.inf
        self._step_started_s: float | None = None
        self._learnt_s = clock()
        self._processor_clock = processor_clock
        self._accounted_s = 0.0  # processor time, up to which the observer was told
        self._computed_s = 0.0  # processor time since then in decisions and in runs
        self._thread: threading.Thread | None = None

    # -- from any thread ----------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        """Clock whose instants requests are given in."""
        return self._clock

    @property
    def num_waiting(self) -> int:
        """Number of requests that no segment has run for."""
        return len(self._inbox) + self._state.num_waiting

    @property
    def num_in_flight(self) -> int:
        """Number of requests with features on the device."""
        return self._state.num_in_flight

    @property
    def num_held(self) -> int:
        """Number of requests with an answer in hand that may have a better one."""
        return self._state.num_held

    def predicted_s(self, depth: int, model: int | None = None) -> float:
        """Return the seconds that an idle engine typically takes from an image to exit ``depth``.

        The exit is that of ``model``, or of whichever is there first. The figure is as of the last
        ``IDLE_PERIOD_S``.
        """
        if model is not None:
            return self._exit_s[model][depth - 1]
        return _soonest(self._exit_s, depth)

    def tail_s(self, depth: int, model: int | None = None) -> float:
        """Return the seconds that the engine, as it is now, seldom exceeds to exit ``depth``.

        They are those of one image by itself, to the exit of ``model``, or of whichever is there
        first.
        """
        if model is not None:
            return self._tail_s[model][depth - 1]
        return _soonest(self._tail_s, depth)

    def submit(
        self, request: Request, image: Image, done: Done, on_exit: OnExit | None = None
    ) -> None:
        """Take a request; ``done`` is called exactly once, whatever becomes of it.

        Before that ``on_exit`` is called for each answer that it does not end with at once; it may
        end with the last of these all the same, as when no better one came in time.
        """
        with self._changed:
            refused = self._refusal(request)
            if refused is None:
                self._inbox.append(Job(request, image, done, on_exit, self._clock()))
                self._num_open += 1
                self._changed.notify_all()
                return
        self._observer.ended(refused)
        done(refused)

    def _refusal(self, request: Request) -> Shed | Failed | None:
        """Return how a request ends that cannot be taken now; None if it can."""
        now_s = self._clock()
        if self._given_up is not None:
            return Failed(request, self._given_up, now_s)
        reason: ShedReason | None = ShedReason.REJECTED_DRAINING
        if not (self._draining or self._stopping):
            reason = refusal(
                self._num_waiting_of, request.principal, self.num_waiting, self._max_waiting
            )
            if reason is not None and self.is_awaited(request):
                reason = None  # it takes the place of an older frame
        return None if reason is None else Shed(request, reason, now_s, retry_after_s=0.0)

    def is_awaited(self, request: Request) -> bool:
        """Return whether an older frame of its stream waits here, which it would supersede."""
        if not request.stream:
            return False
        arrived = any(job.request.stream_key == request.stream_key for job in tuple(self._inbox))
        return arrived or self._state.is_awaited(request)

    def _num_waiting_of(self, principal: str) -> int:
        """Return how many requests of ``principal`` no segment has run for."""
        arrived = sum(job.request.principal == principal for job in self._inbox)
        return arrived + self._state.num_waiting_of(principal)

    def cancel(self, request_id: int) -> None:
        """Drop a request at the next segment boundary; no effect once it has ended."""
        with self._changed:
            self._cancelled.add(request_id)
            self._changed.notify_all()

    def conclude(self, request_id: int) -> None:
        """End a request at the next segment boundary with the answer it has; no effect once it has.

        One without an answer is dropped.
        """
        with self._changed:
            self._concluded.add(request_id)
            self._changed.notify_all()

    def start(self) -> None:
        """Run the loop in a thread of its own."""
        self._thread = threading.Thread(target=self._loop, name=EXECUTOR_THREAD, daemon=True)
        self._thread.start()

    def stop(self, grace_s: float) -> bool:
        """Refuse new requests, give those inside ``grace_s`` seconds to end, and stop the loop.

        The rest end as shed, or with the answer they have. Returns whether the loop has ended, so
        that the runner may be closed: a thread that hangs is left to itself.
        """
        with self._changed:
            self._draining = True
            self._changed.wait_for(lambda: self._num_open == 0, timeout=grace_s)
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None and self._given_up is None:
            self._thread.join(STOP_WITHIN_S)
        ended = self._thread is None or not self._thread.is_alive()
        with self._changed:
            if not ended and self._given_up is None:
                self._given_up = BackendUnavailable("The engine hung when it was to stop.")
            self._jobs.add(self._inbox)
            self._inbox = []
        for job in self._jobs.all():
            self._jobs.give_up(job, ShedReason.REJECTED_DRAINING, 0.0)
        if ended:
            self._state = EngineState(self._max_waiting)
        return ended

    # -- a thread that hangs -----------------------------------------------------------------------

    @property
    def is_stalled(self) -> bool:
        """Whether the step under way ought to be over, or the loop or the engine has ended."""
        thread = self._thread
        dead = thread is not None and not thread.is_alive() and not self._stopping
        return dead or self._is_lost or self._clock() > self._due_s

    @property
    def is_lost(self) -> bool:
        """Whether the engine has said that it has gone."""
        return self._is_lost

    @property
    def is_running(self) -> bool:
        """Whether the thread is there, which outlives being abandoned for as long as it hangs."""
        return self._thread is not None and self._thread.is_alive()

    def abandon(self, error: Exception) -> bool:
        """End everybody inside as failed by ``error``, and leave the thread to itself.

        Whoever comes from now on fails the same way. If the thread ever returns from where it
        hangs, it ends there. Returns False, and does nothing, if it has just returned.
        """
        with self._changed:
            if not self.is_stalled or self._given_up is not None:
                return False
            self._failures.note(LOST if self._is_lost else STALLED, "it was given up", error)
            self.give_up(error)
        return True

    def give_up(self, error: Exception) -> None:
        """Do as ``abandon`` does, whether or not the thread hangs."""
        with self._changed:
            self._given_up = self._given_up or error
            self._jobs.add(self._inbox)
            self._inbox = []
            self._changed.notify_all()
        self._jobs.fail_all(error)

    def _note(self, kind: str, what: str, error: Exception) -> None:
        """Count and tell a failure. One that says that the engine has gone is its end."""
        self._is_lost = self._is_lost or isinstance(error, EngineLost)
        self._failures.note(kind, what, error)

    def _expect(self, seconds: float) -> None:
        """Say that the thread ought to be back within so many seconds."""
        self._due_s = self._clock() + seconds

    def _back(self) -> None:
        """Say that the thread is back. Raises _Abandoned if it was given up meanwhile."""
        with self._changed:
            if self._given_up is not None:
                raise _Abandoned
            self._due_s = math.inf

    # -- the loop ------------------------------------------------------------------------------

    def _loop(self) -> None:
        """Take steps until told to stop; in between, wait for requests and probe the engine."""
        with contextlib.suppress(_Abandoned):
            self._take_steps()

    def _take_steps(self) -> None:
        while not self._stopping:
            if self.step():
                continue
            waits = not self._state.is_empty
            patience_s = (self._wake_s if waits else self._probe_at_s()) - self._clock()
            with self._changed:
                woken = self._changed.wait_for(
                    self._is_called,
                    None if patience_s == math.inf else max(0.0, patience_s),
                )
            # Also with somebody there: an engine that refuses everybody would never know better.
            if not waits and (not woken or self._clock() >= self._probe_at_s()):
                self._probe_safely()

    def _is_called(self) -> bool:
        """Return whether another thread has anything for the loop to do."""
        called = self._inbox or self._cancelled or self._concluded or self._stopping
        return bool(called) or self._given_up is not None

    def _probe_at_s(self) -> float:
        """Return the instant at which an idle engine is to be probed."""
        now_s = Costs(self._latency, self._models[0]).typical_path(1)
        slow = now_s > SLOW_RATIO * self._exit_s[0][0]
        recheck = slow and self._num_rechecks < NUM_RECHECKS
        return self._learnt_s + (RECHECK_AFTER_S if recheck else PROBE_AFTER_S)

    def _probe_safely(self) -> None:
        """Probe the engine, and log what that raises."""
        self._expect(STALL_FLOOR_S)
        try:
            self.probe()
        except Exception as error:  # whatever a runtime raises must not end the loop
            self._note(RUN, "the idle engine failed a probe", error)
            self._step_started_s = None
            self._learnt_s = self._clock()  # nothing, but the next one is as far away
        self._back()

    def probe(self) -> None:
        """Run a blank request to the first exit, to show the latency model the engine as it is now.

        When somebody arrives, it ends after the segment under way, but not before the first: what
        slows all segments down alike is learnt from any of them.
        """
        batch = self._runner.load([self._probe_image])
        for number, segment in enumerate(self._models[0].to(1)[0]):
            if number > 0 and self._inbox:
                break
            self._step_started_s = self._clock()
            predicted_s = self._latency.predict(segment, 1)
            self._expect_run(predicted_s)
            try:
                output = self._timed(segment, batch, ())
            finally:
                self._runner.release(batch)
            batch = output
            self._learn(segment, 1, predicted_s)
        self._runner.release(batch)
        self._num_rechecks += 1
        self._publish()

    def _publish(self) -> None:
        """Predict the exits again, for other threads to read."""
        self._published_s = now_s = self._clock()
        typical_s, self._tail_s = self._predict_exits()
        for minimum, seconds in zip(self._idle_s, typical_s, strict=True):
            minimum.add(now_s, seconds)
        self._exit_s = tuple(minimum.values for minimum in self._idle_s)

    def _predict_exits(self) -> tuple[_ExitSeconds, _ExitSeconds]:
        """Return the seconds to each exit of each model, by the quickest path.

        First the typical ones on an engine no slower than usual, then the tail ones on the engine
        as it is. To be called in the loop's thread, since nobody else may read the latency model.
        """
        slowdown = max(1.0, self._latency.slowdown)
        typical_s, tail_s = [], []
        for paths in self._models:
            costs = Costs(self._latency, paths)
            times = [costs.path(depth, 1) for depth in range(1, paths.num_exits + 1)]
            tail_s.append(tuple(tail for tail, _ in times))
            typical_s.append(tuple(typical / slowdown for _, typical in times))
        return tuple(typical_s), tuple(tail_s)

    def step(self) -> bool:
        """Take in what arrived, decide, act. Returns False if there was nothing to do.

        What it raises ends everybody inside: what they are to each other is then no longer known.
        """
        self._expect(STALL_FLOOR_S)
        try:
            acted = self._step()
        except Exception as error:
            self._fail_all(DEFECT, "the executor failed", error)
            acted = True
        self._back()
        return acted

    def _step(self) -> bool:
        if self._step_started_s is None:
            self._step_started_s = self._clock()
        self._take_in()
        if self._state.is_empty:
            self._step_started_s = None
            return False
        snapshot = self._state.snapshot(self._clock())
        before_s = self._processor_clock()
        try:
            decision = self._policy.decide(snapshot, self._latency)
        except Exception as error:  # it may have failed for the sake of any of those it was shown
            self._fail_all(POLICY, "the policy failed", error)
            return True
        self._back()
        self._expect(STALL_FLOOR_S)
        processor_s = self._processor_clock() - before_s
        self._computed_s += processor_s
        self._observer.spent(DECISION, processor_s)
        self._observer.decided(self._clock() - snapshot.now_s)
        if self._watch is not None:
            try:
                self._watch(snapshot, decision)
            except Exception as error:
                self._note(CALLBACK, "a decision could not be told", error)
        match decision:
            case Merge():
                self._merge(decision)
                return True  # its time counts towards the run that follows
            case Run():
                self._run(decision)
            case ShedRequests():
                self._shed(decision)
            case Conclude():
                self._keep_rows(self._state.apply(decision))
                self._jobs.conclude(decision.requests)
            case Wait():
                self._wake_s = min(decision.until_s, self._state.next_expiry_s)
        self._step_started_s = None
        return not isinstance(decision, Wait)

    def _fail_all(self, kind: str, what: str, error: Exception) -> None:
        """End everybody inside as failed by ``error``, and begin anew."""
        self._note(kind, what, error)
        for batch in self._batches.values():
            with contextlib.suppress(Exception):
                self._runner.release(batch)
        self._batches.clear()
        self._state = EngineState(self._max_waiting)
        self._step_started_s = None
        self._jobs.fail_all(error)

    def _take_in(self) -> None:
        """Let new requests wait, and end those that were cancelled or concluded, or that expire."""
        with self._changed:
            arrived, self._inbox = self._inbox, []
            self._num_rechecks = 0 if arrived else self._num_rechecks
            cancelled, self._cancelled = self._cancelled, set()
            concluded, self._concluded = self._concluded, set()
            self._jobs.add(arrived)
            arrivals = self._state.add([(job.request, job.submitted_s) for job in arrived])
        self._jobs.supersede(arrivals.superseded)
        self._jobs.conclude(arrivals.concluded)
        gone = self._jobs.known(cancelled | concluded)
        if gone:
            self._keep_rows(self._state.remove([job.request for job in gone]))
            for job in gone:
                self._jobs.withdraw(job, with_answer=job.request.id not in cancelled)
        self._jobs.conclude(self._state.expire(self._clock()))

    def _merge(self, decision: Merge) -> None:
        """Make the cohorts of ``decision`` one, on the device too.

        If that fails, so do their requests.
        """
        parts = [self._state.cohort(id) for id in decision.cohorts]
        try:
            batch = self._runner.merge([self._batches[part.id] for part in parts])
        except Exception as error:  # whatever a runtime raises must not end the loop
            self._note(MERGE, "cohorts could not be merged", error)
            requests = tuple(request for part in parts for request in part.requests)
            self._keep_rows(self._state.remove(requests))
            self._jobs.fail(requests, error)
            return
        for part in parts:
            self._runner.release(self._batches.pop(part.id))
        self._state.apply(decision)
        self._batches[parts[0].id] = batch

    def _shed(self, decision: ShedRequests) -> None:
        """End the requests of ``decision`` as shed."""
        self._keep_rows(self._state.apply(decision))
        self._jobs.shed(decision.requests, decision.reason, decision.retry_after_s)

    def _run(self, decision: Run) -> None:
        """Run the segment of ``decision``, hand its output over, and learn from it."""
        jobs = self._jobs.of(decision.requests)
        predicted_s = self._latency.predict(decision.segment, len(jobs))
        for job in jobs:
            job.predicted_s += predicted_s
        self._state.apply(decision)
        batch = output = None
        self._expect_run(predicted_s)
        try:
            batch = self._input(decision, jobs)
            output = self._timed(decision.segment, batch, jobs)
            detections = self._boxes(output, len(jobs)) if decision.segment.head else None
        except Exception as error:  # whatever a runtime raises must not end the loop
            self._note(RUN, f"segment {decision.segment.name} failed", error)
            if batch is not None:
                self._release_input(decision, batch)
            if output is not None:
                self._runner.release(output)
            self._keep_rows(self._state.fail(decision))
            self._jobs.fail(decision.requests, error)
            return
        self._back()
        self._expect(STALL_FLOOR_S)
        if self._trace is not None:
            try:
                self._trace(self._traced(decision, predicted_s))
            except Exception as error:
                self._note(CALLBACK, "a run could not be traced", error)
        if detections is None:
            self._advance(decision, batch, output)
        else:
            self._answer(decision, batch, output, jobs, detections)
        self._learn(decision.segment, len(jobs), predicted_s)

    def _expect_run(self, predicted_s: float) -> None:
        """Say that a run ought to be over after a multiple of what it seldom exceeds."""
        self._expect(max(STALL_FLOOR_S, STALL_FACTOR * predicted_s))

    def _boxes(self, output: Any, size: int) -> list[Detections]:
        """Return what a head gave for a batch. Raises BackendError unless that is a row each."""
        detections = self._runner.detections(output)
        if len(detections) != size:
            raise nonsense(f"there are {len(detections)} rows of boxes for {size} images")
        return detections

    def _traced(self, decision: Run, predicted_s: float) -> SegmentRun:
        """Return a record of the run that has just ended."""
        assert self._step_started_s is not None, "nothing ran"
        cohort, now_s = self._state.cohort_of(decision), self._clock()
        return SegmentRun(
            decision.segment, decision.requests, cohort, self._step_started_s, now_s, predicted_s
        )

    def _input(self, decision: Run, jobs: list[Job]) -> Any:
        """Return the batch that the segment takes; the cohort keeps its own."""
        if decision.cohort is None:
            return self._runner.load([job.image for job in jobs])
        everybody, batch = (
            self._state.cohort(decision.cohort).requests,
            self._batches[decision.cohort],
        )
        rows = [everybody.index(request) for request in decision.requests]
        return batch if len(rows) == len(everybody) else self._runner.select(batch, rows)

    def _release_input(self, decision: Run, batch: Any) -> None:
        """Release the batch that a segment took, unless it is the cohort's own."""
        if decision.cohort is None or batch is not self._batches[decision.cohort]:
            self._runner.release(batch)

    def _timed(self, segment: segments.Segment, batch: Any, jobs: Sequence[Job]) -> Any:
        """Run ``segment`` on ``batch``, and count its seconds towards each of ``jobs``."""
        started_s, before_s = self._clock(), self._processor_clock()
        output = self._runner.run(segment, batch)
        seconds = self._clock() - started_s
        self._computed_s += self._processor_clock() - before_s
        for job in jobs:
            job.started_s = job.started_s or started_s
            job.engine_s += seconds
        if jobs:
            self._state.charge([job.request for job in jobs], seconds)
        return output

    def _learn(self, segment: segments.Segment, size: int, predicted_s: float) -> None:
        """Teach the latency model what this step took, from its decision on.

        Deciding, loading and handing over belong to the cost of a boundary, and a plan that left
        them out would be late.
        """
        assert self._step_started_s is not None, "nothing ran"
        now_s = self._clock()
        seconds = now_s - self._step_started_s
        self._latency.observe(segment, size, seconds)
        self._learnt_s = now_s
        self._observer.ran(segment, size, predicted_s, seconds)
        self._account()
        if now_s - self._published_s > PUBLISH_EVERY_S:
            self._publish()

    def _advance(self, decision: Run, batch: Any, output: Any) -> None:
        """Keep the features that came out, as a new cohort's or a deeper one's."""
        self._runner.release(batch)
        completion = self._state.complete(decision, self._clock())
        assert completion.cohort is not None
        self._batches[completion.cohort.id] = output
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
        self._release_input(decision, batch)
        completion = self._state.complete(decision, self._clock())
        ended = self._jobs.answer(decision.segment, jobs, detections, completion)
        # After the answers, so that rows which cannot be kept end with the one they have just had.
        self._keep_rows(completion.changes)
        if ended:
            self._keep_rows(self._state.remove(ended))

    def _account(self) -> None:
        """Tell the observer what this thread computed outside decisions and runs."""
        now_s = self._processor_clock()
        self._observer.spent(EXECUTOR, now_s - self._accounted_s - self._computed_s)
        self._accounted_s, self._computed_s = now_s, 0.0

    # -- bookkeeping -----------------------------------------------------------------------------

    def _keep_rows(self, changes: Iterable[CohortChange]) -> None:
        """Keep of the batches on the device only the rows that are left.

        If that fails, so do their requests.
        """
        for change in changes:
            batch = self._batches.pop(change.cohort)
            if change.rows:
                try:
                    self._batches[change.cohort] = self._runner.select(batch, change.rows)
                except Exception as error:  # whatever a runtime raises must not end the loop
                    self._note(SELECT, "rows could not be kept", error)
                    lost = self._state.cohort(change.cohort).requests
                    self._state.remove(lost)
                    self._jobs.fail(lost, error)
            self._runner.release(batch)

    def _left(self) -> None:
        """Count a request that has ended, and tell whoever waits for all to end."""
        with self._changed:
            self._num_open -= 1
            self._changed.notify_all()


@lru_cache(_NUM_REMEMBERED)
def _soonest(exits_s: _ExitSeconds, depth: int) -> float:
    """Return the seconds to exit ``depth`` of whichever model that has one is there first."""
    return min(seconds[depth - 1] for seconds in exits_s if len(seconds) >= depth)
