"""An engine as it is started."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.core import segment as segments
from serving.core.catalog import Exit
from serving.core.errors import (
    BackendError,
    EngineLost,
    FrameSuperseded,
    Overloaded,
    RequestCancelled,
    ShedReason,
)
from serving.core.latency_profile import LatencyProfile, Quantiles
from serving.core.request import Cancelled, Failed, Request, Shed, Superseded
from serving.core.segment import Segment
from serving.execution.engine import error_of, start_engine
from tests.serving.fakes import CATALOG, family_of
from tests.serving.world import (
    ACCURACY,
    NUM_EXITS,
    OFFERS,
    FakeClock,
    FakeRunner,
    Recorder,
    cost_s,
    unit_s,
)


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize("slower", [0.5, 2.0])
def test_predictions_are_of_this_machine_from_the_start(offer: dict[str, bool], slower: float):
    """Whatever machine the catalogue's profile is of."""
    clock = FakeClock()

    def cost(segment: Segment, batch: int = 1) -> float:
        return slower * cost_s(segment, batch)

    units, fused = offer.get("units", True), offer.get("fused", True)
    runner = FakeRunner(clock, cost, units=units, fused=fused)
    elsewhere = {
        (segment, batch): Quantiles(*[cost_s(segment, batch)] * 3)
        for segment in runner.segments
        for batch in runner.batch_sizes
    }
    profile = LatencyProfile("fake", "another", "2026-01-01", 1, elsewhere)
    exits = tuple(Exit(depth, ap, ap, {}) for depth, ap in enumerate(ACCURACY, start=1))
    catalog = replace(CATALOG, exits=exits, profiles={"fake": profile})
    engine = start_engine(
        [runner],
        family_of(catalog),
        clock=clock,
        observer=Recorder(),
        max_waiting=8,
        max_cohorts=4,
    )
    try:
        for depth in range(1, NUM_EXITS + 1):
            ways = {"units": unit_s(depth), "fused": cost_s(segments.fused_exit(depth))}
            quickest_s = min(s for kind, s in ways.items() if offer.get(kind, True))
            assert engine.executor.predicted_s(depth) == pytest.approx(slower * quickest_s)
    finally:
        engine.stop(0.0)


REQUEST = Request(1, 0.0, 1.0, 1, 1)


@pytest.mark.parametrize("reason", ShedReason)
def test_whoever_was_shed_is_told_why_and_when_to_come_again(reason: ShedReason) -> None:
    error = error_of(Shed(REQUEST, reason, 0.5, retry_after_s=2.0))
    assert isinstance(error, Overloaded)
    assert (error.reason, error.retry_after_s) == (reason, 2.0)
    assert error.detail.endswith(".")


def test_a_failure_is_the_engines_own_word_or_a_word_for_it() -> None:
    lost = EngineLost("The engine's process ended.")
    assert error_of(Failed(REQUEST, lost, 0.5)) is lost
    defect = ZeroDivisionError("a defect")
    error = error_of(Failed(REQUEST, defect, 0.5))
    assert type(error) is BackendError
    assert error.__cause__ is defect, "it is for the log, and not for the client"
    assert "defect" not in error.detail


def test_who_left_and_what_was_superseded_are_told_so() -> None:
    assert isinstance(error_of(Cancelled(REQUEST, 0.5)), RequestCancelled)
    assert isinstance(error_of(Superseded(REQUEST, 0.5)), FrameSuperseded)


def test_whoever_is_served_beside_it_is_waited_for_in_the_warm_up_and_at_the_end():
    clock, told = FakeClock(), []
    runner = FakeRunner(clock, exits=(CATALOG.num_exits,))
    engine = start_engine(
        [runner],
        family_of(CATALOG),
        clock=clock,
        observer=Recorder(),
        max_waiting=8,
        max_cohorts=4,
        pause=lambda: told.append(len(runner.log)),
    )
    assert len(set(told)) == len(told) > 1, "a run lies between any two"
    told.clear()
    engine.stop(0.0)
    assert told, "what is freed is freed when nobody minds"
