"""The embedded backend: an executor thread in the gateway's process, segments on a CPU runtime."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import numpy as np

from serving.core.catalog import Catalog
from serving.core.deadline_policy import DeadlinePolicy
from serving.core.errors import (
    BackendError,
    BackendUnavailable,
    Cancelled,
    Overloaded,
    ShedReason,
)
from serving.core.latency import LatencyModel
from serving.core.ports import Clock, Image, Observer, SegmentRunner
from serving.core.request import Answered, Failed, Request, Result, Shed
from serving.executor import Executor, warm_up

WARM_UP_ROUNDS = 8
"""Enough for the latency model to stop consulting a profile from elsewhere."""

_SHED_DETAILS = {
    ShedReason.REJECTED_SATURATED: "The server's queue is full.",
    ShedReason.REJECTED_OVERLOAD: "The requests ahead leave no time for this one's budget.",
    ShedReason.REJECTED_EXPIRED: "The budget ran out before the engine could start.",
    ShedReason.REJECTED_DRAINING: "The server is shutting down.",
    ShedReason.EVICTED_EXPIRED: "The budget ran out before the first exit was reached.",
}


class EmbeddedBackend:
    """``Backend`` over an ``Executor`` in this process."""

    def __init__(
        self,
        catalog: Catalog,
        open_runner: Callable[[], SegmentRunner],
        runtime: str,
        clock: Clock,
        observer: Observer,
        max_waiting: int,
        max_cohorts: int,
    ) -> None:
        self.catalog = catalog
        self._open_runner = open_runner
        self._clock = clock
        self._observer = observer
        self._max_waiting = max_waiting
        self._max_cohorts = max_cohorts
        self._latency = LatencyModel(catalog.profiles.get(runtime))
        self._runner: SegmentRunner | None = None
        self._executor: Executor | None = None
        self._stopping = False
        self._lifecycle = threading.Lock()

    @property
    def ready(self) -> bool:
        """Warmed up and not stopping."""
        return self._executor is not None and not self._stopping

    @property
    def num_waiting(self) -> int:
        """Requests that no segment has run for."""
        return self._executor.num_waiting if self._executor else 0

    @property
    def num_in_flight(self) -> int:
        """Requests with features on the device."""
        return self._executor.num_in_flight if self._executor else 0

    def predicted_s(self, depth: int) -> float:
        """Engine seconds from image to exit ``depth`` by the quickest path, at batch 1. Raises
        BackendUnavailable before the engine is ready."""
        if self._executor is None:
            raise BackendUnavailable("The engine is not ready yet.")
        return self._executor.predicted_s(depth)

    async def start(self) -> None:
        """Compile and warm up in a thread, so that the process stays alive to its probes."""
        try:
            await asyncio.to_thread(self._start)
        except Exception as error:
            raise BackendError(f"the engine did not start: {error}") from error

    def _start(self) -> None:
        runner = self._open_runner()
        catalog = self.catalog
        shape = (catalog.input_height, catalog.input_width, 3)
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        warm_up(runner, self._latency, noise, catalog.num_exits, self._clock, WARM_UP_ROUNDS)
        policy = DeadlinePolicy(
            runner.segments,
            [entry.ap for entry in catalog.exits],
            runner.batch_sizes,
            self._max_cohorts,
        )
        executor = Executor(
            runner,
            policy,
            self._latency,
            self._clock,
            self._observer,
            self._max_waiting,
            probe_image=noise,
        )
        with self._lifecycle:
            if self._stopping:  # told to stop while it was starting
                runner.close()
                return
            executor.start()
            self._runner, self._executor = runner, executor

    async def stop(self, grace_s: float) -> None:
        """Drain for up to ``grace_s`` seconds, then free the engine."""
        with self._lifecycle:
            self._stopping = True
        if self._executor is not None:
            await asyncio.to_thread(self._executor.stop, grace_s)
        if self._runner is not None:
            self._runner.close()

    async def detect(self, image: Image, request: Request) -> Answered:
        """Boxes for one image; see ``Backend.detect``."""
        if self._executor is None:
            raise BackendUnavailable("The engine is not ready yet.")
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Result] = loop.create_future()

        def resolve(result: Result) -> None:
            if not ended.done():  # the client may have gone meanwhile
                ended.set_result(result)

        def done(result: Result) -> None:
            loop.call_soon_threadsafe(resolve, result)

        self._executor.submit(request, image, done)
        try:
            result = await ended
        except asyncio.CancelledError:
            self._executor.cancel(request.id)
            raise
        match result:
            case Answered():
                return result
            case Shed(reason=reason, retry_after_s=retry_after_s):
                raise Overloaded(_SHED_DETAILS[reason], reason, retry_after_s)
            case Failed(error=error):
                raise BackendError("The engine failed on this request.") from error
            case _:
                raise Cancelled("The request was cancelled.")
