"""Which of several models is better without annotations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builder.measuring.accuracy import Answers
from builder.measuring.agreement import (
    about_agreement,
    annotated_by,
    in_order,
    without_annotations,
)
from builder.measuring.evaluation import evaluate
from serving.core.catalog import Evaluation
from serving.core.family import Family
from serving.core.letterbox import stretch
from serving.core.model_entry import ModelEntry
from serving.core.request import Detections
from tests.builder.measuring.test_evaluation import ENTRY, SIDE, sized

THERE, ALSO = (10.0, 10.0, 90.0, 90.0), (120.0, 20.0, 180.0, 80.0)


def finds(*boxes, scores):
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.zeros(len(boxes), np.int32)
    return Detections(corners, np.array(scores, np.float32), labels)


def answers(of_small, of_large) -> Answers:
    dataset = without_annotations([Path("a.jpg"), Path("b.jpg")], ENTRY.catalogs[0].classes)
    family = Family((ModelEntry((sized(100), sized(SIDE))),))
    placement = stretch(2 * SIDE, SIDE, SIDE, SIDE)  # the images are twice as wide as the input
    found = {(0, 1): (of_small,) * 2, (1, 1): (of_large,) * 2}
    return Answers(family, dataset, (placement,) * 2, found)


def test_agreement_is_ap_with_the_boxes_of_the_largest_for_objects():
    large = finds(THERE, ALSO, (0, 0, 9, 9), scores=(0.9, 0.5, 0.2))
    given = answers(finds(THERE, scores=(0.9,)), large)
    annotated = annotated_by(given, 0.3)
    assert [len(sample.labels) for sample in annotated.samples] == [2, 2]
    assert annotated.samples[0].size == (SIDE, 2 * SIDE)
    assert annotated.samples[0].boxes_xyxy[0] == pytest.approx((20.0, 10.0, 180.0, 90.0))
    assert annotated.samples[0].areas[0] == pytest.approx(160.0 * 80.0)
    found = evaluate(Answers(given.family, annotated, given.placements, given.found))
    about = about_agreement("photos", 2, "large@200x200/1", "fake 1", "2026-01-01")
    (small, same) = found.into(given.family.entries[0], about).catalogs
    # One of two objects, which is all of what it finds: precision 1 up to recall .5.
    assert small.exits[0].ap == pytest.approx(51 / 101, abs=1e-4)
    assert same.exits[0].ap == 1.0
    assert small.evaluation == about
    assert about.measure == "agreement"


def test_a_stated_order_is_one_of_all_points():
    small, large = (ModelEntry((replace(sized(100, 2), name=name),)) for name in ("small", "large"))
    ordered = in_order((small, large), "2026-01-01")
    assert [[each.ap for each in entry.catalogs[0].exits] for entry in ordered] == [
        [0.25, 0.5],
        [0.75, 1.0],
    ]
    about = ordered[0].catalogs[0].evaluation
    assert about is not None
    assert (about.measure, about.reference) == ("order", "small < large")
    assert Family(ordered).measure == "order"


def test_the_measure_is_kept_and_said():
    about = about_agreement("photos", 2, "large@200x200/1", "fake 1", "2026-01-01")
    entry = ModelEntry((replace(sized(100), evaluation=about),))
    assert ModelEntry.from_json(entry.to_json()) == entry
    plain = ModelEntry((replace(sized(100), evaluation=Evaluation("a", "b", 1, 0, "r", "d")),))
    (size,) = plain.to_json()["sizes"]
    assert "measure" not in size["evaluation"], "catalogues of before stay as they are"
    with pytest.raises(ValueError, match="'measure' is one of AP, agreement, order"):
        replace(about, measure="guess")


def test_figures_of_different_measures_are_not_compared():
    about = about_agreement("photos", 2, "large@200x200/1", "fake 1", "2026-01-01")
    measured = Evaluation("things", "val", 9, 0, "fake 1", "2026-01-01")
    entries = tuple(
        ModelEntry((replace(sized(100), name=name, evaluation=evaluation),))
        for name, evaluation in (("one", about), ("other", measured))
    )
    with pytest.raises(ValueError, match="what is known of them is not alike: AP, agreement"):
        Family(entries)
