"""Backends whose executor runs in the gateway's own process, whatever its segments run on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial

from serving.backends.answers import deepest
from serving.core.errors import BackendUnavailable
from serving.core.family import Family
from serving.core.ports import Image
from serving.core.request import Answered, Request, Result
from serving.engine import Engine, error_of


class InProcessBackend:
    """All of a ``Backend`` but its start and its stop; a subclass sets ``_engine``."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._engine: Engine | None = None
        self._stopping = False

    @property
    def ready(self) -> bool:
        """Whether the engine is warmed up and not stopping."""
        return self._engine is not None and not self._stopping

    @property
    def num_waiting(self) -> int:
        """Number of requests that no segment has run for."""
        return self._engine.executor.num_waiting if self._engine else 0

    @property
    def num_in_flight(self) -> int:
        """Number of requests with features on the device."""
        return self._engine.executor.num_in_flight if self._engine else 0

    def predicted_s(self, depth: int, model: int | None = None) -> float:
        """Return the engine seconds from image to exit ``depth``, by the quickest path, at batch 1.

        The exit is that of ``model``, or of whichever is there first. Raises BackendUnavailable
        before the engine is ready.
        """
        return self._started().executor.predicted_s(depth, model)

    async def detect(self, image: Image, request: Request) -> Answered:
        """Return the boxes for one image; see ``Backend.detect``."""
        return await deepest(self.stream(image, request))

    async def stream(self, image: Image, request: Request) -> AsyncGenerator[Answered, None]:
        """Yield the boxes for one image, of each exit that answers it; see ``Backend.stream``."""
        executor = self._started().executor
        loop = asyncio.get_running_loop()
        # Never full: an answer from each exit, and then the end.
        results: asyncio.Queue[tuple[Result, bool]] = asyncio.Queue(self.family.num_exits + 1)

        def deliver(result: Result, last: bool) -> None:
            loop.call_soon_threadsafe(results.put_nowait, (result, last))

        on_exit = partial(deliver, last=False) if request.streaming else None
        executor.submit(request, image, partial(deliver, last=True), on_exit)
        last = False
        try:
            while not last:
                result, last = await results.get()
                if not isinstance(result, Answered):
                    raise error_of(result)
                if not (last and request.streaming):  # then it is the answer before, once more
                    yield result
        finally:
            if not last:
                executor.cancel(request.id)

    def _started(self) -> Engine:
        if self._engine is None:
            raise BackendUnavailable("The engine is not ready yet.")
        return self._engine
