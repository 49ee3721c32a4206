"""Load tests that have ended, made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from loadtest.load.open_loop import LoadResult, LoadSettings, Schedule
from loadtest.load.outcomes import Outcome, RequestOutcome
from loadtest.workload.arrivals import parse_arrivals
from loadtest.workload.budgets import parse_budgets
from loadtest.workload.images import AnnotatedImage, AnnotatedObject, ServedDetections

CIRCLE = AnnotatedObject((10, 10, 20, 20), "circle", 400, False)
PICTURE = AnnotatedImage("a.jpg", b"a", "image/jpeg", (CIRCLE,))
RIGHT = ServedDetections(
    np.array([[10, 10, 30, 30]], np.float32), np.array([0.9], np.float32), np.array([0])
)
SETTINGS = LoadSettings(
    url="http://server",
    images=(PICTURE,),
    arrivals=parse_arrivals("poisson"),
    rate_hz=5.0,
    duration_s=2.0,
    budgets=parse_budgets("40,80"),
    full_depth_s=0.02,
    classes=("circle", "square"),
)


def answer(
    scheduled_s: float, latency_s: float, budget_s: float = 0.04, depth: int | None = 3
) -> RequestOutcome:
    outcome = Outcome.IN_TIME if latency_s <= budget_s else Outcome.LATE
    ap = None if depth is None else depth / 10
    sent_s, finished_s = scheduled_s + 0.001, scheduled_s + latency_s
    return RequestOutcome(
        scheduled_s, sent_s, finished_s, budget_s, 0, outcome, "", depth, ap, RIGHT
    )


def failure(
    scheduled_s: float, outcome: Outcome, reason: str = "why", budget_s: float = 0.04
) -> RequestOutcome:
    times = (scheduled_s, scheduled_s + 0.001, scheduled_s + 0.002)
    return RequestOutcome(*times, budget_s, 0, outcome, reason)


def result(outcomes: Sequence[RequestOutcome], **changes) -> LoadResult:
    """A run that ended with these."""
    return LoadResult(
        settings=replace(SETTINGS, **changes),
        schedule=Schedule(
            np.array([row.scheduled_s for row in outcomes]),
            np.array([row.budget_s for row in outcomes]),
            np.array([row.image for row in outcomes]),
        ),
        outcomes=tuple(outcomes),
        started="2026-01-02T03:04:05Z",
        wall_s=2.0,
        cpu_s=0.001 * len(outcomes),
        is_real_time=False,
        peak_connections=2,
        server={"name": "cells", "version": "7"},
    )


ROWS = (
    answer(0.0, 0.010, depth=1),
    answer(0.5, 0.030, depth=3),
    answer(0.6, 0.070, budget_s=0.08, depth=3),
    answer(1.0, 0.050),
    failure(1.1, Outcome.REFUSED, "rejected-overload", 0.08),
    failure(1.2, Outcome.REFUSED, "budget-infeasible"),
    failure(1.3, Outcome.REFUSED, "budget-infeasible"),
    failure(1.4, Outcome.HTTP_ERROR, "internal"),
    failure(1.5, Outcome.CONNECTION_ERROR, "closed"),
    failure(1.6, Outcome.TIMEOUT, "no-reply-in-time"),
)
"""One or more of every outcome that does not make a run invalid."""
