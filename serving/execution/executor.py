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

Whatever is raised (by the runtime, the policy, whoever is told, or the executor itself) ends the
requests concerned, and the loop goes on. What is not raised but hangs is for another thread to see:
each step says by when it ought to be over (``liveness``), and ``abandon`` ends everybody inside and
leaves the thread to itself.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable

from serving.core.errors import BackendUnavailable, ShedReason
from serving.core.fair_shares import refusal
from serving.core.latency import LatencyModel
from serving.core.observing import CALLBACK, DEFECT, LOST, POLICY, RUN, STALLED, Trace
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
from serving.core.request import Failed, Request, Shed
from serving.core.scheduling.paths import paths_of
from serving.execution.engine_actions import EngineActions
from serving.execution.exit_times import ExitTimes
from serving.execution.failures import Failures
from serving.execution.inbox import Inbox
from serving.execution.jobs import Done, Job, Jobs, MergeAnswers, OnExit
from serving.execution.liveness import Abandoned, Liveness
from serving.execution.probe import Probe
from serving.execution.segment_runs import SegmentRuns
from serving.execution.thread_time import ThreadTime

STOP_WITHIN_S = 2.0
"""Seconds that the step under way is given to end when the executor is stopped."""

Watch = Callable[[Snapshot, Decision], None]
"""Function that is told of each decision, in the executor's thread, before it is carried out."""


class Executor:
    """A ``RequestExecutor`` over one runner; ``step`` is for one thread only."""

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
        self._policy = policy
        self._latency = latency
        self._clock = clock
        self._observer = observer
        self._max_waiting = max_waiting
        self._watch = watch
        models = paths_of(runner.segments)
        # For any thread:
        self._exit_times = ExitTimes(latency, models, clock)
        self._failures = Failures(clock, observer)
        self._inbox = Inbox()
        self._liveness = Liveness(clock, self._inbox.changed)
        # For the loop's thread, but for what they say themselves:
        self._jobs = Jobs(
            clock, observer, self._failures, merge_answers, find_fault, self._inbox.left
        )
        self._thread_time = ThreadTime(processor_clock, observer)
        self._runs = SegmentRuns(
            runner, latency, clock, observer, self._exit_times, self._thread_time
        )
        self._actions = EngineActions(
            runner,
            latency,
            clock,
            max_waiting,
            jobs=self._jobs,
            runs=self._runs,
            failures=self._failures,
            liveness=self._liveness,
            trace=trace,
        )
        self._probe = Probe(
            models[0].to(1)[0],
            probe_image,
            runner,
            latency,
            runs=self._runs,
            exit_times=self._exit_times,
            inbox=self._inbox,
            liveness=self._liveness,
        )
        self._wake_s = math.inf

    # -- from any thread ----------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def num_waiting(self) -> int:
        return len(self._inbox.arrived) + self._actions.state.num_waiting

    @property
    def num_in_flight(self) -> int:
        return self._actions.state.num_in_flight

    @property
    def num_held(self) -> int:
        return self._actions.state.num_held

    def predicted_s(self, depth: int, model: int | None = None) -> float:
        return self._exit_times.typical_s(depth, model)

    def tail_s(self, depth: int, model: int | None = None) -> float:
        return self._exit_times.tail_s(depth, model)

    def submit(
        self, request: Request, image: Image, done: Done, on_exit: OnExit | None = None
    ) -> None:
        with self._inbox.changed:
            refused = self._refusal(request)
            if refused is None:
                self._inbox.put(Job(request, image, done, on_exit, self._clock()))
                return
        self._observer.ended(refused)
        done(refused)

    def _refusal(self, request: Request) -> Shed | Failed | None:
        """Return how a request ends that cannot be taken now; None if it can."""
        now_s = self._clock()
        if self._liveness.given_up is not None:
            return Failed(request, self._liveness.given_up, now_s)
        reason: ShedReason | None = ShedReason.REJECTED_DRAINING
        if not (self._inbox.is_draining or self._inbox.is_stopping):
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
        key = request.stream_key
        arrived = any(job.request.stream_key == key for job in tuple(self._inbox.arrived))
        return arrived or self._actions.state.is_awaited(request)

    def _num_waiting_of(self, principal: str) -> int:
        """Return how many requests of ``principal`` no segment has run for."""
        arrived = sum(job.request.principal == principal for job in self._inbox.arrived)
        return arrived + self._actions.state.num_waiting_of(principal)

    def cancel(self, request_id: int) -> None:
        self._inbox.cancel(request_id)

    def conclude(self, request_id: int) -> None:
        self._inbox.conclude(request_id)

    def start(self) -> None:
        self._liveness.start(self._loop)

    def stop(self, grace_s: float) -> bool:
        self._inbox.close(grace_s)
        ended = self._liveness.join(STOP_WITHIN_S)
        with self._inbox.changed:
            if not ended and self._liveness.given_up is None:
                self._liveness.given_up = BackendUnavailable("The engine hung when it was to stop.")
            self._jobs.add(self._inbox.take().arrived)
        for job in self._jobs.all():
            self._jobs.give_up(job, ShedReason.REJECTED_DRAINING, 0.0)
        if ended:
            self._actions.forget()
        return ended

    # -- a thread that hangs -----------------------------------------------------------------------

    @property
    def is_stalled(self) -> bool:
        dead = self._liveness.has_ended and not self._inbox.is_stopping
        return dead or self.is_lost or self._liveness.is_overdue

    @property
    def is_lost(self) -> bool:
        return self._failures.is_lost

    @property
    def is_running(self) -> bool:
        return self._liveness.is_running

    def abandon(self, error: Exception) -> bool:
        with self._inbox.changed:
            if not self.is_stalled or self._liveness.given_up is not None:
                return False
            self._failures.note(LOST if self.is_lost else STALLED, "it was given up", error)
            self.give_up(error)
        return True

    def give_up(self, error: Exception) -> None:
        """Do as ``abandon`` does, whether or not the thread hangs."""
        with self._inbox.changed:
            self._liveness.given_up = self._liveness.given_up or error
            self._jobs.add(self._inbox.take().arrived)
            self._inbox.changed.notify_all()
        self._jobs.fail_all(error)

    # -- the loop ------------------------------------------------------------------------------

    def _loop(self) -> None:
        """Take steps until told to stop; in between, wait for requests and probe the engine."""
        with contextlib.suppress(Abandoned):
            self._take_steps()

    def _take_steps(self) -> None:
        while not self._inbox.is_stopping:
            if self.step():
                continue
            waits = not self._actions.state.is_empty
            patience_s = (self._wake_s if waits else self._probe.due_s) - self._clock()
            with self._inbox.changed:
                woken = self._inbox.changed.wait_for(
                    self._is_called,
                    None if patience_s == math.inf else max(0.0, patience_s),
                )
            # Also with somebody there: an engine that refuses everybody would never know better.
            if not waits and (not woken or self._clock() >= self._probe.due_s):
                self._probe_safely()

    def _is_called(self) -> bool:
        """Return whether another thread has anything for the loop to do."""
        inbox = self._inbox
        return not inbox.is_empty or inbox.is_stopping or self._liveness.given_up is not None

    def probe(self) -> None:
        """Show the latency model the engine as it is now. Raises whatever a runtime does."""
        self._probe.run()

    def _probe_safely(self) -> None:
        """Probe the engine, and log what that raises."""
        self._liveness.expect()
        try:
            self.probe()
        except Exception as error:  # whatever a runtime raises must not end the loop
            self._failures.note(RUN, "the idle engine failed a probe", error)
            self._runs.end()
            self._runs.learnt_s = self._clock()  # nothing, but the next one is as far away
        self._liveness.back()

    def step(self) -> bool:
        """Take in what arrived, decide, act. Returns False if there was nothing to do.

        What it raises ends everybody inside: what they are to each other is then no longer known.
        """
        self._liveness.expect()
        try:
            acted = self._step()
        except Exception as error:
            self._fail_all(DEFECT, "the executor failed", error)
            acted = True
        self._liveness.back()
        return acted

    def _step(self) -> bool:
        self._runs.begin()
        if self._actions.take_in(self._inbox):
            self._probe.allow_rechecks()
        if self._actions.state.is_empty:
            self._runs.end()
            return False
        snapshot = self._actions.state.snapshot(self._clock())
        before_s = self._thread_time.clock()
        try:
            decision = self._policy.decide(snapshot, self._latency)
        except Exception as error:  # it may have failed for the sake of any of those it was shown
            self._fail_all(POLICY, "the policy failed", error)
            return True
        self._liveness.back()
        self._liveness.expect()
        self._thread_time.decided(before_s)
        self._observer.decided(self._clock() - snapshot.now_s)
        if self._watch is not None:
            try:
                self._watch(snapshot, decision)
            except Exception as error:
                self._failures.note(CALLBACK, "a decision could not be told", error)
        match decision:
            case Merge():
                self._actions.merge(decision)
                return True  # its time counts towards the run that follows
            case Run():
                self._actions.run(decision)
            case ShedRequests():
                self._actions.shed(decision)
            case Conclude():
                self._actions.conclude(decision)
            case Wait():
                self._wake_s = min(decision.until_s, self._actions.state.next_expiry_s)
        self._runs.end()
        return not isinstance(decision, Wait)

    def _fail_all(self, kind: str, what: str, error: Exception) -> None:
        """End everybody inside as failed by ``error``, and begin anew."""
        self._failures.note(kind, what, error)
        self._actions.reset()
        self._runs.end()
        self._jobs.fail_all(error)
