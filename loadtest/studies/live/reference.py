"""Measurement of the reference: the capacity that loads are shares of, and what budgets are of.

Budgets are multiples of the time at the most accurate operating point. Both are measured on servers
that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from loadtest.environment.segment_times import segments_now
from loadtest.load.closed_loop import run_closed_loop
from loadtest.load.target import Target, describe_server
from loadtest.servers.processes import StudyError
from loadtest.studies.live.report import Reference
from loadtest.studies.live.subject import LiveSubject
from loadtest.studies.live.systems import System
from loadtest.workload.budgets import parse_budgets
from serving.core.quantiles import quantile

CONCURRENCY = 8
"""Number of clients at once that show what a server can do at most: two of its largest batches."""
WINDOWS = 3
"""Number of windows of each kind, taken in turns.

There are windows of many clients at once, and of one that finds the server idle.
"""
NUM_BUDGETS = 1001
"""Number of budgets that are drawn to find the median budget."""


def find_reference(
    subject: LiveSubject, quickest: System, best: System, say: Callable[[str], None]
) -> Reference:
    """Measure the reference on gateways of the quickest and of the most accurate operating point.

    Raises StudyError.
    """
    say("timing segments")
    settings = subject.settings
    profile = segments_now(subject.folder, settings.runtime, settings.segment_rounds)
    engine = subject.profile(profile)
    say("measuring capacity at the quickest point and the time at the most accurate one")
    window_s = settings.reference_s
    rates_hz, alone_s = [], []
    for _ in range(WINDOWS):
        with quickest.running():
            many = run_closed_loop(
                quickest.server.url, subject.images, CONCURRENCY, window_s, Target()
            )
        with best.running():
            one = run_closed_loop(best.server.url, subject.images, 1, window_s, Target())
            reserve_s = reserve_of(describe_server(best.server.url))
        rates_hz.append(many.rate_hz)
        alone_s.append(one.p50_s)
    full_depth_s = quantile(alone_s, 0.5)
    rng = np.random.default_rng(settings.seed)
    budgets_s = parse_budgets(settings.budgets).sample_s(NUM_BUDGETS, full_depth_s, rng)
    capacity_hz = quantile(rates_hz, 0.5)
    return Reference(
        capacity_hz=capacity_hz,
        load_hz=1.0 if settings.rates_hz else capacity_hz,
        capacities_hz=tuple(rates_hz),
        engine_capacity_hz=engine.capacity_hz,
        full_depth_s=full_depth_s,
        full_depths_s=tuple(alone_s),
        engine_full_depth_s=engine.full_depth_s,
        reserve_s=reserve_s,
        peer_timeout_s=quantile(budgets_s.tolist(), 0.5),
        profile=profile,
    )


def reserve_of(model: Mapping[str, object] | None) -> float:
    """Return the seconds that a gateway keeps of a budget for decoding and sending.

    Its /v1/models has it. Raises StudyError.
    """
    try:
        return float(model["reserve_ms"]) / 1e3  # type: ignore[index, arg-type]
    except (LookupError, TypeError, ValueError) as error:
        raise StudyError("the gateway does not say what it keeps of a budget") from error
