"""What those who watch an executor share: the gateway exports to Prometheus, Triton on its own
page, and traces are made of segment runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serving.core.request import Answered, Cancelled, Failed, Request, Result, Shed
from serving.core.segment import Segment

MARGIN_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""From "just in time" to "nearly the whole budget was left"."""

RESULT_NAMES: dict[type[Result], str] = {
    Answered: "answered",
    Shed: "shed",
    Cancelled: "cancelled",
    Failed: "failed",
}
"""How a request left the engine."""


@dataclass(frozen=True, slots=True)
class SegmentRun:
    """One run of a segment. Instants are seconds of the executor's clock."""

    segment: Segment
    requests: tuple[Request, ...]
    """For whom it ran, as one batch."""
    cohort: int | None
    """The cohort that they are, or became; None of a run from the image to the boxes."""
    started_s: float
    """When the executor began to decide on it."""
    finished_s: float
    predicted_s: float
    """What it had been predicted not to exceed."""


Trace = Callable[[SegmentRun], None]
"""Told of each run in the executor's thread, before the requests learn what came of it; must be
quick and must not raise."""
