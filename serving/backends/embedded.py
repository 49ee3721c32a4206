"""Embedded backend: executors in the gateway's process, segments on a CPU runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from serving.backends.in_process import InProcessBackend
from serving.backends.threads import in_daemon_thread
from serving.core.errors import BackendError
from serving.core.family import Family
from serving.core.latency import LatencyModel
from serving.core.ports import SegmentRunner
from serving.execution.engine import Engine


class StartEngine(Protocol):
    """Type of ``engine.start_engine`` with all given but its runners and what is known of times."""

    def __call__(
        self, runners: Sequence[SegmentRunner], latencies: Sequence[LatencyModel] | None
    ) -> Engine: ...


class EmbeddedBackend(InProcessBackend):
    """``Backend`` over executors and their runners in this process."""

    def __init__(
        self,
        family: Family,
        open_runners: Callable[[], Sequence[SegmentRunner]],
        start_engine: StartEngine,
    ) -> None:
        super().__init__(family, lambda latencies: start_engine(open_runners(), latencies))

    async def start(self) -> None:
        """Compile and warm up in a thread, so that the process stays alive to its probes."""
        try:
            await in_daemon_thread(self._supervisor.start)
        except Exception as error:
            raise BackendError(f"the engine did not start: {error}") from error

    async def stop(self, grace_s: float) -> None:
        """Drain for up to ``grace_s`` seconds, then free the engine."""
        self._stopping = True
        await in_daemon_thread(lambda: self._supervisor.stop(grace_s))
