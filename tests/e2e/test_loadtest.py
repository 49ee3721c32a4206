"""The load test against a real server process: whatever happens, every request is accounted for, by
the client and by the server alike."""

from __future__ import annotations

from pathlib import Path

from loadtest.load.open_loop import LoadResult, LoadSettings, run_load
from loadtest.load.outcomes import Outcome
from loadtest.load.summary import summarise
from loadtest.load.target import Target
from loadtest.workload.arrivals import parse_arrivals
from loadtest.workload.budgets import parse_budgets
from loadtest.workload.images import read_images
from tests.e2e.process import Server

PICTURES = read_images(sorted(Path("tests/data/bccd/JPEGImages").glob("*.jpg")))
OUTCOMES = ("ok", "degraded", "infeasible", "rejected", "evicted", "late", "error")


def served(server: Server) -> float:
    """Requests that have ended, by the server's own count."""
    return sum(server.metric(f'punctual_requests_total{{outcome="{name}"}}') for name in OUTCOMES)


def run(server: Server, target: Target, budgets: str, rate_hz: float = 100.0) -> LoadResult:
    return run_load(
        LoadSettings(
            url=server.url,
            images=PICTURES,
            arrivals=parse_arrivals("gamma:4"),
            rate_hz=rate_hz,
            duration_s=1.0,
            budgets=parse_budgets(budgets),
            full_depth_s=0.02,
            target=target,
            grace_s=60.0,
            warm_up=1,
        )
    )


def test_every_request_is_accounted_for(server: Server) -> None:
    before = served(server)
    result = run(server, Target(), "0.1,50,10000")
    summary = summarise(result)
    assert sum(summary.outcomes.values()) == summary.count == len(result.schedule)
    assert summary.outcomes["in time"] > 0
    assert summary.reasons["refused"]["budget-infeasible"] > 0  # a tenth of a millisecond
    assert [summary.outcomes[name] for name in ("HTTP error", "connection error", "unsent")] == [
        0
    ] * 3
    assert served(server) - before == summary.count + 1  # and one to warm up
    assert summary.model == "cells 1"
    assert all(row.depth == 3 for row in result.outcomes if row.is_answer)
    assert set(summary.points) == {"128x96/3"}


def test_an_engine_that_is_slower_than_the_budget(server: Server) -> None:
    slow = Target(path="/v1/detect?max_depth=2")
    result = run(server, slow, "100", rate_hz=10.0)
    assert {row.outcome for row in result.outcomes} == {Outcome.REFUSED}
    reasons = {row.reason for row in result.outcomes}
    # The other, where the machine stood still for a tenth of a second.
    assert {"deadline-exceeded"} <= reasons <= {"deadline-exceeded", "body-timeout"}
    assert all(row.latency_s >= 0.1 for row in result.outcomes)
