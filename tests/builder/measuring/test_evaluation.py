"""Accuracies of operating points and of merged answers: what is kept, printed and on a front."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builder.data import Dataset, Sample
from builder.measuring.accuracy import Answers
from builder.measuring.evaluation import Evaluated, evaluate
from builder.measuring.fronts import answers_of, on_no_front, table
from serving.core import segment as segments
from serving.core.catalog import Catalog, Evaluation
from serving.core.family import Family
from serving.core.latency_profile import LatencyProfile, Quantiles
from serving.core.letterbox import stretch
from serving.core.model_entry import Merging, ModelEntry
from serving.core.request import Detections
from tests.builder.measuring.test_latency import CATALOG

SIDE = 200
LARGE, SMALL = (0.0, 0.0, 160.0, 160.0), (170.0, 170.0, 190.0, 190.0)
"""An object that the smaller input finds, and one that the larger one does."""

ABOUT = Evaluation("things", "held", 2, 0, "fake 1", "2026-01-01")


def sized(side: int, num_exits: int = 1) -> Catalog:
    catalog = replace(CATALOG, classes=("sofa", "x"), max_detections=10)
    return replace(catalog, input_width=side, input_height=side, exits=CATALOG.exits[:num_exits])


ENTRY = ModelEntry((sized(100, 2), sized(SIDE)), merging=Merging(64.0, 0.6))


def finds(*boxes: tuple[float, ...]) -> Detections:
    scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(corners, scores, np.zeros(len(boxes), np.int32))


@pytest.fixture(scope="module")
def found() -> Evaluated:
    """Of two images with both objects, in all of which each size finds what it can."""
    boxes = np.array([LARGE, SMALL], np.float32)
    areas = np.array([160.0**2, 20.0**2], np.float32)
    samples = tuple(
        Sample(name, Path(name), (SIDE, SIDE), boxes, np.zeros(2, np.int64), areas) for name in "ab"
    )
    rows = {(0, 1): finds(), (0, 2): finds(LARGE), (1, 1): finds(SMALL)}
    answers = Answers(
        Family((ENTRY,)),
        Dataset(("sofa",), samples),
        (stretch(SIDE, SIDE, SIDE, SIDE),) * 2,
        {point: (each, each) for point, each in rows.items()},
    )
    return evaluate(answers, num_resamples=5)


def test_a_merged_answer_has_what_either_found(found: Evaluated) -> None:
    aps = {points: round(each.average.ap, 3) for points, each in found.accuracies.items()}
    half = aps[(0, 2),]
    assert 0.4 < half < 0.6
    assert aps == {
        ((0, 1),): 0.0,
        ((0, 2),): half,
        ((1, 1),): half,
        ((0, 1), (1, 1)): half,
        ((0, 2), (1, 1)): 1.0,
    }


def test_exits_to_merge_can_be_chosen(found: Evaluated) -> None:
    family = found.family
    answers = Answers(
        family,
        Dataset(("sofa",), (Sample("a", Path("a"), (SIDE, SIDE), np.array([LARGE], np.float32),
            np.zeros(1, np.int64), np.array([9.0], np.float32)),)),
        (stretch(SIDE, SIDE, SIDE, SIDE),),
        {point: (finds(LARGE),) for point in ((0, 1), (0, 2), (1, 1))},
    )  # fmt: skip
    pairs = [points for points in evaluate(answers, [1]).accuracies if len(points) == 2]
    assert pairs == [((0, 1), (1, 1))]


def test_what_is_kept_in_the_catalogue(found: Evaluated) -> None:
    kept = found.into(ENTRY, ABOUT)
    assert kept == ModelEntry.from_json(json.loads(json.dumps(kept.to_json())))
    small, large = kept.catalogs
    assert [each.ap for each in small.exits] == [0.0, large.exits[0].ap]
    assert large.exits[0].ap_by_class == {"sofa": large.exits[0].ap}
    assert small.evaluation == large.evaluation == ABOUT
    best = max(kept.merged, key=lambda each: each.ap)
    assert (best.first.size, best.first.depth, best.then.size) == ("100x100", 2, "200x200")
    assert (best.ap, best.ap50, len(kept.merged)) == (1.0, 1.0, 2)
    again = replace(found, family=Family((kept.at("int8"),))).into(kept, ABOUT)
    assert again.merged_in(None) == kept.merged
    assert [each.ap for each in again.merged_in("int8")] == [each.ap for each in kept.merged]
    assert found.into(again, ABOUT).merged_in("int8") == again.merged_in("int8")
    assert again.catalogs[0].precisions["int8"].evaluation == ABOUT


def test_what_is_printed(found: Evaluated) -> None:
    lines = found.table()
    (merged,) = (line for line in lines if line.startswith("100x100/2+200x200/1"))
    assert "1.0000  1.0000  AP (1.0000 .. 1.0000)  AP50 (1.0000 .. 1.0000)" in merged
    assert "against 200x200/1 (" in merged
    (deeper,) = (line for line in lines if line.startswith("100x100/2 "))
    assert "against 100x100/1 (" in deeper
    assert lines[-1].split() == ["sofa", "0.0000", *[f"{found.accuracies[p,].average.ap:.4f}" for
        p in ((0, 2), (1, 1))]]  # fmt: skip


def profiled(entry: ModelEntry, small_s: float, large_s: float) -> Family:
    """The entry with sizes whose every exit takes so long."""
    catalogs = []
    for catalog, seconds in zip(entry.catalogs, (small_s, large_s), strict=True):
        table = {
            (segment, 1): Quantiles(*[seconds] * 3)
            for segment in segments.fused_segments(catalog.num_exits)
        }
        profile = LatencyProfile("fake 1", "m", "d", 1, table)
        catalogs.append(replace(catalog, profiles={"fake": profile}))
    return Family((replace(entry, catalogs=tuple(catalogs)),))


def test_a_front_of_single_and_merged_answers(found: Evaluated) -> None:
    family = profiled(found.into(ENTRY, ABOUT), 0.01, 0.02)
    assert answers_of(Family((ENTRY,)), "fake") is None
    figures = answers_of(family, "fake")
    assert figures is not None
    on_it = {each.points: each.seconds for each in figures if each.better is None}
    assert on_it == {((0, 2),): 0.01, ((0, 2), (1, 1)): pytest.approx(0.03)}
    assert on_no_front(figures) == [(0, 1)], "the larger size is worth it as part of an answer"
    lines = table(family, figures)
    assert lines[-1] == "on no front: 100x100/1"
    (line,) = (line for line in lines if line.startswith("200x200/1 "))
    assert line.endswith("20.0  no better than 100x100/2")


def test_figures_as_json(found: Evaluated) -> None:
    family = profiled(found.into(ENTRY, ABOUT), 0.01, 0.02)
    data = found.to_json(ABOUT, answers_of(family, "fake"))
    assert data == json.loads(json.dumps(data, allow_nan=False))
    assert (data["dataset"], data["split"], data["num_images"]) == ("things", "held", 2)
    by_answer = {each["answer"]: each for each in data["answers"]}
    assert by_answer["100x100/2+200x200/1"]["on_front"] is True
    assert by_answer["100x100/1"]["on_front"] is False
    assert by_answer["200x200/1"]["ap_interval"] is not None
    assert by_answer["200x200/1"]["ap_by_size"].keys() == {"small", "large"}
    assert found.to_json(ABOUT, None)["answers"][0]["seconds"] is None
