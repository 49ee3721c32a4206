"""When a quicker precision is taken: where it costs no accuracy, and gains on this CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from serving.core.catalog import Evaluation
from serving.core.model_entry import MergedAccuracy, Merging, ModelEntry, SizedExit
from serving.core.precision_choice import PrecisionChoice, choose_precision
from tests.serving.fakes import CATALOG

HELD = Evaluation("things", "held", 150, 0, "fake 1", "2026-01-01")
POINTS = SizedExit("64x96", 1), SizedExit("128x96", 1)


def entry(drop: float, merged_drop: float = 0.0, on: Evaluation | None = HELD) -> ModelEntry:
    """Two input sizes; in int8 the last exit of the larger one loses ``drop``, measured ``on``."""
    catalogs = []
    for width in (64, 128):
        own = replace(CATALOG, input_width=width, input_height=96, evaluation=HELD)
        *exits, last = own.exits
        lost = drop if width == 128 else 0.0
        int8 = replace(
            own.at("int8"), exits=(*exits, replace(last, ap=last.ap - lost)), evaluation=on
        )
        catalogs.append(own.with_figures(int8))
    merged = (
        MergedAccuracy(*POINTS, 0.7, 0.9),
        MergedAccuracy(*POINTS, 0.7 - merged_drop, 0.9, "int8"),
    )
    return ModelEntry(tuple(catalogs), merging=Merging(32.0, 0.5), merged=merged)


def choice(*entries: ModelEntry, ratios: Sequence[float] | None = None) -> PrecisionChoice:
    def measured() -> Sequence[float]:
        if ratios is None:
            pytest.fail("timed although accuracy speaks against it")
        return ratios

    return choose_precision(entries, "int8", measured)


def test_no_accuracy_lost_and_time_gained() -> None:
    taken = choice(entry(0.002, 0.002), entry(-0.1), ratios=[0.5, 0.6, 9.0])
    assert taken == PrecisionChoice(
        "int8", "int8 takes 0.60 of the time here and costs less than 0.003 AP"
    )


def test_too_little_gained() -> None:
    assert choice(entry(0.0), ratios=[0.89]).precision == "int8"
    assert choice(entry(0.0), ratios=[0.91]) == PrecisionChoice(
        None, "int8 takes 0.91 of the time here, too little gained"
    )


@pytest.mark.parametrize("losing", [entry(0.0031), entry(0.0, 0.0031)])
def test_accuracy_lost_at_any_point_or_in_any_merged_answer(losing: ModelEntry) -> None:
    assert choice(losing) == PrecisionChoice(None, "int8 costs up to 0.0031 AP")
    assert choice(entry(0.0), losing).precision is None


@pytest.mark.parametrize("on", [None, replace(HELD, split="test"), replace(HELD, num_images=9)])
def test_accuracies_that_cannot_be_compared(on: Evaluation | None) -> None:
    unknown = PrecisionChoice(None, "what int8 costs in accuracy was not measured")
    assert choice(entry(0.0, on=on)) == unknown
    assert choice(entry(0.0), ModelEntry((replace(CATALOG, evaluation=HELD),))) == unknown
