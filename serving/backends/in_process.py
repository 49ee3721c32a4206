"""Backends whose executor runs in the gateway's own process, whatever its segments run on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial

from serving.backends.answers import MAX_UNREAD, Mailbox
from serving.core.errors import BackendUnavailable
from serving.core.family import Family
from serving.core.ports import Clock, Image
from serving.core.request import Answered, Request, Result
from serving.execution.engine import Engine, error_of
from serving.execution.supervisor import OpenEngine, Supervisor


class InProcessBackend:
    """All of a ``Backend`` but start and stop, over the engine that ``open_engine`` opens."""

    def __init__(
        self, family: Family, open_engine: OpenEngine, clock: Clock = time.monotonic
    ) -> None:
        self.family = family
        self._supervisor = Supervisor(open_engine, clock)
        self._stopping = False

    @property
    def _engine(self) -> Engine | None:
        return self._supervisor.engine

    @property
    def alive(self) -> bool:
        """Whether there is an engine, or may yet be one."""
        return self._supervisor.is_alive

    @property
    def absence(self) -> BackendUnavailable:
        """Error of a request that comes while there is no engine."""
        return BackendUnavailable("The engine is not ready.")

    @property
    def ready(self) -> bool:
        """Whether the engine is warmed up and not stopping."""
        return self._engine is not None and not self._stopping

    @property
    def num_waiting(self) -> int:
        """Number of requests that no segment has run for."""
        return engine.executor.num_waiting if (engine := self._engine) else 0

    @property
    def num_in_flight(self) -> int:
        """Number of requests with features on the device."""
        return engine.executor.num_in_flight if (engine := self._engine) else 0

    @property
    def num_held(self) -> int:
        """Number of requests with an answer in hand that may have a better one."""
        return engine.executor.num_held if (engine := self._engine) else 0

    @property
    def num_instances(self) -> int:
        """Number of runs that may be under way at a time."""
        return len(self._engine.runners) if self._engine else 1

    def predicted_s(self, depth: int, model: int | None = None) -> float:
        """Return the engine seconds from image to exit ``depth``, by the quickest path, at batch 1.

        The exit is that of ``model``, or of whichever is there first. Raises BackendUnavailable
        before the engine is ready.
        """
        return self._started().executor.predicted_s(depth, model)

    def tail_s(self, depth: int, model: int | None = None) -> float:
        """Return the engine seconds to exit ``depth`` that are seldom exceeded now, at batch 1.

        The exit is that of ``model``, or of whichever is there first. Raises BackendUnavailable
        before the engine is ready.
        """
        return self._started().executor.tail_s(depth, model)

    async def stream(self, image: Image, request: Request) -> AsyncGenerator[Answered, None]:
        """Yield each answer to one image as it comes; see ``Backend.stream``."""
        executor = self._started().executor
        loop = asyncio.get_running_loop()
        results: Mailbox[tuple[Result, bool]] = Mailbox(MAX_UNREAD)

        def deliver(result: Result, last: bool) -> None:
            loop.call_soon_threadsafe(results.put, (result, last))

        executor.submit(request, image, partial(deliver, last=True), partial(deliver, last=False))
        answer: Answered | None = None
        last = False
        try:
            while not last:
                if answer is None:
                    result, last = await results.get()
                else:
                    following = await results.get_by(request.conclude_by_s, executor.clock)
                    if following is None:  # so that it is the best there will be in time
                        last = True
                        executor.conclude(request.id)
                        return
                    result, last = following
                if not isinstance(result, Answered):
                    raise error_of(result)
                if result is not answer:
                    answer = result
                    yield replace(answer, family=self.family)
        finally:
            if not last:
                executor.cancel(request.id)

    def _started(self) -> Engine:
        engine = self._engine
        if engine is None:
            raise self.absence
        return engine
