"""An engine: runners, warmed up, each under an executor with the policy that serves.

Whoever hosts the executor (the gateway, Triton's Python backend) starts it here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.core.errors import BackendError, Overloaded, RequestCancelled, ServingError, ShedReason
from serving.core.family import Family
from serving.core.latency import LatencyModel
from serving.core.observing import Trace
from serving.core.policy import Policy
from serving.core.ports import Clock, CreatePolicy, Observer, Pause, SegmentRunner, no_pause
from serving.core.request import Cancelled, Failed, Shed, Superseded
from serving.core.scheduling.deadline_policy import DeadlinePolicy
from serving.core.streams import superseded
from serving.core.timing import warm_up
from serving.execution.executor import Executor, Watch
from serving.execution.group import ExecutorGroup
from serving.execution.request_executor import RequestExecutor

WARM_UP_ROUNDS = 8
"""Number of rounds in which everything is run at first: enough for a median that one hiccup does
not move."""

SWITCH_INTERVAL_S = 0.0005
"""Seconds after which a process that hosts an engine has the interpreter handed over. The engine's
thread must get it back within a fraction of a segment after each call into its runtime; with the
default of 5 ms every boundary could cost that much."""

_SHED_DETAILS = {
    ShedReason.REJECTED_SATURATED: "The server's queue is full.",
    ShedReason.REJECTED_OVERLOAD: "The requests ahead leave no time for this one's budget.",
    ShedReason.REJECTED_SHARE: "The places that are left in the queue are for others.",
    ShedReason.REJECTED_EXPIRED: "The budget ran out before the engine could start.",
    ShedReason.REJECTED_DRAINING: "The server is shutting down.",
    ShedReason.EVICTED_EXPIRED: "The budget ran out before the first exit was reached.",
    ShedReason.EVICTED_SHARE: "Others, who had less than their share, needed the place.",
}
"""Sentences that tell clients why they were shed."""


@dataclass(frozen=True)
class Engine:
    """Runners, each with the executor that owns it, started."""

    runners: tuple[SegmentRunner, ...]
    executor: RequestExecutor
    latencies: tuple[LatencyModel, ...]
    """What is known of the run times of each, for the engine that takes its place."""
    pause: Pause = no_pause
    """What is called before each part of freeing it that holds up the rest of the process."""

    def stop(self, grace_s: float) -> None:
        """Drain for up to ``grace_s`` seconds, then free the device, unless a thread hangs."""
        if self.executor.stop(grace_s):
            for runner in self.runners:
                runner.close(self.pause)

    def abort(self) -> None:
        """Let calls into the runtime return, if that can be done; from any thread."""
        for runner in self.runners:
            runner.abort()


def start_engine(
    runners: Sequence[SegmentRunner],
    family: Family,
    *,
    clock: Clock,
    observer: Observer,
    max_waiting: int,
    max_cohorts: int,
    create_policy: CreatePolicy | None = None,
    watch: Watch | None = None,
    trace: Trace | None = None,
    latencies: Sequence[LatencyModel] | None = None,
    pause: Pause = no_pause,
) -> Engine:
    """Warm each of ``runners`` up, and start their executors.

    Of several, each runs beside the others, and has its share of the ``max_waiting`` requests.
    ``create_policy`` makes another policy than the one that serves; ``watch`` is told of each
    decision, ``trace`` of each run of a segment; ``pause`` is called between runs of the warm-up,
    and between what is freed at the end, beside others that are not to suffer from it.

    Predictions begin with what the warm-up took, which runs everything that can be scheduled. A
    profile of another machine would be taken for what this one could do, were it not slow. With
    ``latencies``, which another such engine has learnt here, one round of it is enough.
    """
    shape = (family.input_height, family.input_width, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    first, *others = family.accuracies
    rounds = WARM_UP_ROUNDS if latencies is None else 0
    latencies = latencies or [LatencyModel(None) for _ in runners]
    executors = []
    for runner, latency in zip(runners, latencies, strict=True):
        sizes = runner.batch_sizes
        warm_up(runner, latency, noise, family.num_exits, clock, rounds, pause)
        if create_policy is None:
            policy: Policy = DeadlinePolicy(
                runner.segments, first, sizes, max_cohorts, others, family.ladder.merged
            )
        else:
            policy = create_policy(runner.segments, family.ladder, sizes, max_cohorts)
        one = Executor(
            runner,
            policy,
            latency,
            clock,
            observer,
            math.ceil(max_waiting / len(runners)),
            probe_image=noise,
            watch=watch,
            trace=trace,
            merge_answers=family.merge,
            find_fault=family.find_fault,
        )
        executors.append(one)
    executor: RequestExecutor = executors[0]
    if len(executors) > 1:
        executor = ExecutorGroup(executors)
    executor.start()
    return Engine(tuple(runners), executor, tuple(latencies), pause)


def error_of(result: Shed | Failed | Cancelled | Superseded) -> ServingError:
    """Return the error that tells the sender of a request why it got no boxes."""
    match result:
        case Shed(reason=reason, retry_after_s=retry_after_s):
            return Overloaded(_SHED_DETAILS[reason], reason, retry_after_s)
        case Failed(error=BackendError() as error):
            return error
        case Failed(error=error):
            failure = BackendError("The engine failed on this request.")
            failure.__cause__ = error
            return failure
        case Superseded():
            return superseded()
        case Cancelled():
            return RequestCancelled("The request was cancelled.")
