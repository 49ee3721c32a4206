"""Latency and accuracy through a runner whose times and boxes are known."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from builder.data import Dataset
from builder.data.dataset import Sample
from builder.measuring.accuracy import accuracy_of, detect_all
from builder.measuring.latency import (
    compare_paths,
    compare_runners,
    measure_decision,
    measure_segments,
)
from serving.core import segment as segments
from serving.core.catalog import Catalog, Exit
from serving.core.family import Family
from serving.core.model_entry import Merging, ModelEntry
from serving.core.request import Detections
from tests.serving.world import FUSED_GAIN, NUM_EXITS, FakeClock, FakeRunner, cost_s, unit_s

CATALOG = Catalog(
    name="toy",
    version="1",
    description="",
    license="",
    flavour="google",
    classes=("x",),
    input_height=2,
    resize="letterbox",
    input_width=2,
    max_detections=1,
    score_threshold=0.0,
    exits=tuple(Exit(depth, 0.0, 0.0, {}) for depth in range(1, NUM_EXITS + 1)),
    evaluation=None,
    segments={},
    profiles={},
    command="",
)


FAMILY = Family((ModelEntry((CATALOG,)),))
SMALL = dataclasses.replace(CATALOG, input_width=1, exits=CATALOG.exits[:2])
OF_SIZES = Family((ModelEntry((SMALL, CATALOG), merging=Merging(1.0, 0.5)),))
"""Two input sizes, of which the smaller one has two exits."""


def test_profile_has_the_time_of_every_segment_and_batch_size():
    clock = FakeClock()
    runner = FakeRunner(clock)
    (profile,) = measure_segments(runner, FAMILY, 3, clock, "2026-01-01", threads=2)
    assert set(profile.table) == {(s, b) for s in runner.segments for b in runner.batch_sizes}
    for (segment, batch), quantiles in profile.table.items():
        assert quantiles.p50_s == pytest.approx(cost_s(segment, batch))
        assert quantiles.p99_s == pytest.approx(cost_s(segment, batch))
    assert profile.runtime == "fake 1"
    assert all(batch.released for batch in runner.batches)


def test_unit_and_fused_paths_are_compared_within_rounds():
    clock = FakeClock()
    runner = FakeRunner(clock)
    rows = compare_paths(runner, FAMILY, [(0, 1), (0, NUM_EXITS)], 4, clock)
    assert [row.point for row in rows] == [(0, 1), (0, NUM_EXITS)]
    for row in rows:
        assert row.unit_s == pytest.approx(unit_s(row.point[1]))
        assert row.ratio_p50 == pytest.approx(1 / FUSED_GAIN)
    assert all(batch.released for batch in runner.batches)


def test_runners_are_compared_within_rounds():
    clock = FakeClock()
    this = FakeRunner(clock, cost=lambda segment, batch: 0.8 * cost_s(segment, batch))
    other = FakeRunner(clock)
    rows = compare_runners(this, other, FAMILY, [(0, 1), (0, NUM_EXITS)], 3, clock)
    assert [(row.size, row.fused, row.point[1]) for row in rows] == [
        (size, fused, depth)
        for size in (1, 4)
        for fused in (False, True)
        for depth in (1, NUM_EXITS)
    ]
    for row in rows:
        assert (row.ratio_p10, row.ratio_p50, row.ratio_p90) == pytest.approx((0.8,) * 3)
    assert rows[1].other_s == pytest.approx(unit_s(NUM_EXITS))
    assert rows[-1].this_s == pytest.approx(0.8 * cost_s(segments.fused_exit(NUM_EXITS), 4))
    assert all(batch.released for runner in (this, other) for batch in runner.batches)


class Oracle(FakeRunner):
    """Finds the one box of each image at depths from 2 on; its detections are in input pixels."""

    def detections(self, batch):
        boxes = np.array([[0, 0, 1, 1]], np.float32) if batch.depth >= 2 else np.zeros((0, 4))
        count = len(boxes)
        return [
            Detections(boxes.astype(np.float32), np.ones(count, np.float32), np.zeros(count, int))
            for _ in batch.rows
        ]


def test_accuracy_of_every_exit_in_original_pixels(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"encoded")
    box = np.array([[0, 0, 20, 20]], np.float32)  # of 40 x 40 pixels, which become 2 x 2
    area = np.array([400], np.float32)
    sample = Sample("a", path, (40, 40), box, np.zeros(1, np.int64), area)
    runner = Oracle(FakeClock())

    def load_image(data, model_input, inputs=()):
        assert data == b"encoded"
        assert model_input == CATALOG.input
        pixels = np.zeros((model_input.height, model_input.width, 3), np.uint8)
        return pixels, model_input.place(40, 40)

    dataset = Dataset(("x",), (sample,))
    answers = detect_all(runner, FAMILY, dataset, load_image)
    found = [accuracy_of(answers, rows, 3) for rows in answers.found.values()]
    assert [round(each.average.ap, 6) for each in found] == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert found[0].above(found[0]) == (0.0, (0.0, 0.0))
    assert found[1].above(found[0]) == (pytest.approx(1.0), pytest.approx((1.0, 1.0)))
    assert found[1].ap_interval == pytest.approx((1.0, 1.0))
    assert found[1].ap50_interval == pytest.approx((1.0, 1.0))
    assert accuracy_of(answers, answers.found[0, 1]).ap_interval is None
    assert runner.log[0] == (segments.STEM.name, 1)
    assert all(batch.released for batch in runner.batches)
    fused = Oracle(FakeClock(), units=False)
    again = detect_all(fused, FAMILY, dataset, load_image)
    assert accuracy_of(again, again.found[0, 2]).average == found[1].average
    assert [name for name, _ in fused.log] == [f"exit_{depth}" for depth in range(1, 6)]
    assert all(batch.released for batch in fused.batches)


def test_other_classes_are_refused():
    other = dataclasses.replace(CATALOG, classes=("y",))
    load_image: Any = None  # no image is read
    family = Family((ModelEntry((other,)),))
    with pytest.raises(ValueError, match="data set has"):
        detect_all(Oracle(FakeClock()), family, Dataset(("x",), ()), load_image)


def test_a_decision_is_timed_in_a_crowd():
    clock = FakeClock()
    runner = FakeRunner(clock)
    (profile,) = measure_segments(runner, FAMILY, 1, clock, "2026-01-01", threads=2)
    ticks = iter(range(100))
    assert measure_decision(FAMILY, profile, 3, lambda: float(next(ticks))) == 1.0


def test_every_input_size_is_timed_in_every_round():
    clock = FakeClock()
    runner = FakeRunner(clock, exits=(2, NUM_EXITS))
    small, large = measure_segments(runner, OF_SIZES, 2, clock, "2026-01-01", threads=2)
    assert {segment for segment, _ in small.table} == set(segments.every_segment(2))
    assert {segment for segment, _ in large.table} == set(segments.every_segment(NUM_EXITS))
    points = [(0, 2), (1, NUM_EXITS)]
    runner.log.clear()
    rows = compare_paths(runner, OF_SIZES, points, 1, clock)
    assert [row.point for row in rows] == points
    ends = [name for name, _ in runner.log if name in ("exit_2", f"exit_{NUM_EXITS}@1")]
    assert ends == ["exit_2", f"exit_{NUM_EXITS}@1"] * (len(ends) // 2)


def test_a_decision_without_unit_segments():
    clock = FakeClock()
    runner = FakeRunner(clock, units=False, exits=(1, 1))
    family = Family((ModelEntry((dataclasses.replace(SMALL, exits=CATALOG.exits[:1]),)),))
    (profile,) = measure_segments(
        FakeRunner(clock, units=False, exits=(1,)), family, 1, clock, "2026-01-01", threads=2
    )
    assert {segment for segment, _ in profile.table} == {segments.fused_exit(1)}
    ticks = iter(range(100))
    assert measure_decision(family, profile, 3, lambda: float(next(ticks))) == 1.0
    rows = compare_runners(runner, runner, OF_SIZES, [(0, 1), (1, 1)], 1, clock)
    assert {(row.point, row.fused) for row in rows} == {((0, 1), True), ((1, 1), True)}
