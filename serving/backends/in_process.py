"""Backends whose executor runs in the gateway's own process, whatever its segments run on."""

from __future__ import annotations

import asyncio

from serving.core.catalog import Catalog
from serving.core.errors import BackendUnavailable
from serving.core.ports import Image
from serving.core.request import Answered, Request, Result
from serving.engine import Engine, error_of


class InProcessBackend:
    """All of ``Backend`` but its start and its stop; a subclass sets ``_engine``."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._engine: Engine | None = None
        self._stopping = False

    @property
    def ready(self) -> bool:
        """Warmed up and not stopping."""
        return self._engine is not None and not self._stopping

    @property
    def num_waiting(self) -> int:
        """Requests that no segment has run for."""
        return self._engine.executor.num_waiting if self._engine else 0

    @property
    def num_in_flight(self) -> int:
        """Requests with features on the device."""
        return self._engine.executor.num_in_flight if self._engine else 0

    def predicted_s(self, depth: int) -> float:
        """Engine seconds from image to exit ``depth`` by the quickest path, at batch 1. Raises
        BackendUnavailable before the engine is ready."""
        return self._started().executor.predicted_s(depth)

    async def detect(self, image: Image, request: Request) -> Answered:
        """Boxes for one image; see ``Backend.detect``."""
        executor = self._started().executor
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Result] = loop.create_future()

        def resolve(result: Result) -> None:
            if not ended.done():  # the client may have gone meanwhile
                ended.set_result(result)

        def done(result: Result) -> None:
            loop.call_soon_threadsafe(resolve, result)

        executor.submit(request, image, done)
        try:
            result = await ended
        except asyncio.CancelledError:
            executor.cancel(request.id)
            raise
        if isinstance(result, Answered):
            return result
        raise error_of(result)

    def _started(self) -> Engine:
        if self._engine is None:
            raise BackendUnavailable("The engine is not ready yet.")
        return self._engine
