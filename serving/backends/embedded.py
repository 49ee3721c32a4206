"""Embedded backend: executors in the gateway's process, segments on a CPU runtime."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from serving.backends.in_process import InProcessBackend
from serving.core.errors import BackendError
from serving.core.family import Family
from serving.core.ports import SegmentRunner
from serving.engine import Engine

StartEngine = Callable[[Sequence[SegmentRunner]], Engine]
"""Type of ``serving.engine.start_engine`` with all but its runners given."""


class EmbeddedBackend(InProcessBackend):
    """``Backend`` over executors and their runners in this process."""

    def __init__(
        self,
        family: Family,
        open_runners: Callable[[], Sequence[SegmentRunner]],
        start_engine: StartEngine,
    ) -> None:
        super().__init__(family)
        self._open_runners = open_runners
        self._start_engine = start_engine
        self._lifecycle = threading.Lock()

    async def start(self) -> None:
        """Compile and warm up in a thread, so that the process stays alive to its probes."""
        try:
            await asyncio.to_thread(self._start)
        except Exception as error:
            raise BackendError(f"the engine did not start: {error}") from error

    def _start(self) -> None:
        engine = self._start_engine(self._open_runners())
        with self._lifecycle:
            if self._stopping:  # told to stop while it was starting
                engine.stop(0.0)
            else:
                self._engine = engine

    async def stop(self, grace_s: float) -> None:
        """Drain for up to ``grace_s`` seconds, then free the engine."""
        with self._lifecycle:
            self._stopping = True
        if self._engine is not None:
            await asyncio.to_thread(self._engine.stop, grace_s)
