"""A real executor over segments that run only when a test lets them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from serving.backends.embedded import EmbeddedBackend
from serving.core.catalog import Exit
from serving.core.family import Family
from serving.core.latency import LatencyModel
from serving.core.model_entry import Merging, ModelEntry
from serving.core.observing import Trace
from serving.core.ports import Clock, CreatePolicy, Observer, SegmentRunner
from serving.core.request import Detections
from serving.core.segment import Segment
from serving.execution.engine import Engine, start_engine
from serving.execution.executor import Executor
from tests.serving.fakes import CATALOG, family_of
from tests.serving.world import ACCURACY, FakeBatch, FakeClock, FakeRunner

GATED_CATALOG = replace(
    CATALOG, exits=tuple(Exit(depth, ap, ap, {}) for depth, ap in enumerate(ACCURACY, start=1))
)


GATED_FAMILY = family_of(GATED_CATALOG)


@dataclass
class GatedRunner(FakeRunner):
    """Unit segments only. What warms up or probes the engine runs at once and leaves no trace; a
    request's segment is noted in ``runs``, and then waits to be let."""

    clock: FakeClock = field(default_factory=FakeClock)
    fused: bool = False
    runs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._permits = 0.0
        self._blank: object = None

    def load(self, images):
        if self._blank is None:
            self._blank = images[0]
        return super().load(images)

    def run(self, segment: Segment, batch: FakeBatch) -> FakeBatch:
        if batch.rows[0] is not self._blank:
            with self._changed:
                self.runs.append(segment.name)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._permits > 0)
                self._permits -= 1
        return super().run(segment, batch)

    def detections(self, batch: FakeBatch) -> list[Detections]:
        """Scored by the image's first number, as a share of the largest."""
        return [
            replace(row, scores=row.scores / np.float32(255)) for row in super().detections(batch)
        ]

    def let(self, count: float = 1) -> None:
        """Let so many runs go on, those that have begun first."""
        with self._changed:
            self._permits += count
            self._changed.notify_all()

    def wait_for(self, *runs: str) -> None:
        """Wait until just these have begun, in this order, and the last of them waits."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.runs) >= len(runs))
            assert self.runs == list(runs)


SIZES = Family(
    (
        ModelEntry(
            (replace(GATED_CATALOG, input_width=64, input_height=48), GATED_CATALOG),
            merging=Merging(border_side=32.0, iou_threshold=0.6),
        ),
    )
)
"""The same at two input sizes, for ``sized_runner``."""


def sized_runner(clock: FakeClock | None = None) -> GatedRunner:
    """A runner of both sizes, of whole models only."""
    exits = (GATED_CATALOG.num_exits,) * 2
    return GatedRunner(clock or FakeClock(), fused=True, units=False, exits=exits)


def gated_backend(
    runner: GatedRunner,
    observer: Observer,
    trace: Trace | None = None,
    clock: Clock = time.monotonic,
    create_policy: CreatePolicy | None = None,
    family: Family = GATED_FAMILY,
) -> EmbeddedBackend:
    """The embedded backend over ``runner``, not started. Nothing there is overdue, however long a
    test lets it wait."""

    def start(runners: Sequence[SegmentRunner], latencies: Sequence[LatencyModel] | None) -> Engine:
        engine = start_engine(
            runners,
            family,
            clock=clock,
            observer=observer,
            max_waiting=64,
            max_cohorts=4,
            trace=trace,
            create_policy=create_policy,
            latencies=latencies,
        )
        assert isinstance(engine.executor, Executor)
        engine.executor._liveness.expect = lambda seconds=0.0: None  # type: ignore[method-assign]
        return engine

    return EmbeddedBackend(family, lambda: [runner], start)
