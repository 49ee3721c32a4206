"""Facts and names that all observers of an executor share.

The gateway exports to Prometheus, Triton on its own page, and traces are made of segment runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serving.core.request import (
    Answered,
    Cancelled,
    Failed,
    Request,
    Result,
    Shed,
    Superseded,
)
from serving.core.segment import Segment

MARGIN_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Bucket bounds, in seconds, of the time left at the end: from "just in time" to "nearly the whole
budget was left"."""

DECISION, EXECUTOR = "decision", "executor"
"""What an executor's thread spends processor time on outside the runs of segments: the policy's
decisions, and all else."""

POLICY, RUN, SELECT, MERGE, OUTPUT, CALLBACK, STALLED, LOST, DEFECT = FAULTS = (
    "policy",
    "run",
    "select",
    "merge",
    "output",
    "callback",
    "stalled",
    "lost",
    "defect",
)
"""Kinds of failures inside an engine, as metric labels have them: the policy raised; so did a run
of a segment, keeping some rows of a batch, joining batches or two answers, or whoever was told of
something; boxes were not such as a model has; a run did not end; the engine's own process did;
or the executor itself failed."""

RESULT_NAMES: dict[type[Result], str] = {
    Answered: "answered",
    Shed: "shed",
    Cancelled: "cancelled",
    Superseded: "superseded",
    Failed: "failed",
}
"""Names of the ways in which a request leaves the engine, as metric labels have them."""

COMPARED, BUSY, GAVE_WAY, ELSEWHERE, NO_ANSWER = SHADOW_ENDS = (
    "compared",
    "busy",
    "gave-way",
    "elsewhere",
    "failed",
)
"""Ends of answers that a shadow might give: it was compared; it was not begun, since somebody was
inside; it was given up, since somebody came; it came at another operating point; or there was
none."""

LOADED, UNCHANGED, UNLOADED, REFUSED = MODEL_CHANGES = (
    "loaded",
    "unchanged",
    "unloaded",
    "refused",
)
"""Ends of changes of the model that admins ask for."""


@dataclass(frozen=True, slots=True)
class SegmentRun:
    """One run of a segment. Instants are seconds of the executor's clock."""

    segment: Segment
    requests: tuple[Request, ...]
    """Requests for which it ran, as one batch."""
    cohort: int | None
    """Id of the cohort that they are, or became; None of a run from the image to the boxes."""
    started_s: float
    """Instant at which the executor began to decide on it."""
    finished_s: float
    """Instant at which its output was handed over."""
    predicted_s: float
    """Seconds that it had been predicted not to exceed."""


Trace = Callable[[SegmentRun], None]
"""Function that is told of each run in the executor's thread, before the requests learn what came
of it; must be quick and must not raise."""
