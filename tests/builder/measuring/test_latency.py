"""Latency and accuracy through a runner whose times and boxes are known."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from builder.data import Dataset, average_precision
from builder.data.dataset import Sample
from builder.measuring.accuracy import detect_all, rises
from builder.measuring.latency import (
    compare_paths,
    compare_runners,
    measure_decision,
    measure_segments,
)
from serving.core import segment as segments
from serving.core.catalog import Catalog, Exit
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


def test_profile_has_the_time_of_every_segment_and_batch_size():
    clock = FakeClock()
    runner = FakeRunner(clock)
    profile = measure_segments(runner, CATALOG, 3, clock, "2026-01-01", threads=2)
    assert set(profile.table) == {(s, b) for s in runner.segments for b in runner.batch_sizes}
    for (segment, batch), quantiles in profile.table.items():
        assert quantiles.p50_s == pytest.approx(cost_s(segment, batch))
        assert quantiles.p99_s == pytest.approx(cost_s(segment, batch))
    assert profile.runtime == "fake 1"
    assert all(batch.released for batch in runner.batches)


def test_unit_and_fused_paths_are_compared_within_rounds():
    clock = FakeClock()
    runner = FakeRunner(clock)
    rows = compare_paths(runner, CATALOG, [1, NUM_EXITS], 4, clock)
    assert [row.depth for row in rows] == [1, NUM_EXITS]
    for row in rows:
        assert row.unit_s == pytest.approx(unit_s(row.depth))
        assert row.ratio_p50 == pytest.approx(1 / FUSED_GAIN)
    assert all(batch.released for batch in runner.batches)


def test_runners_are_compared_within_rounds():
    clock = FakeClock()
    this = FakeRunner(clock, cost=lambda segment, batch: 0.8 * cost_s(segment, batch))
    other = FakeRunner(clock)
    rows = compare_runners(this, other, CATALOG, [1, NUM_EXITS], 3, clock)
    assert [(row.size, row.fused, row.depth) for row in rows] == [
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

    def load_image(data, model_input):
        assert data == b"encoded"
        assert model_input == CATALOG.input
        pixels = np.zeros((model_input.height, model_input.width, 3), np.uint8)
        return pixels, model_input.place(40, 40)

    dataset = Dataset(("x",), (sample,))
    found = detect_all(runner, CATALOG, dataset, load_image)
    aps = [average_precision(dataset, rows).ap for rows in found.values()]
    assert [round(ap, 6) for ap in aps] == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert rises(dataset, found, 3)[1] == (0.0, 0.0, 0.0)
    assert rises(dataset, found, 3)[2] == pytest.approx((1.0, 1.0, 1.0))
    assert runner.log[0] == (segments.STEM.name, 1)
    assert all(batch.released for batch in runner.batches)


def test_other_classes_are_refused():
    other = dataclasses.replace(CATALOG, classes=("y",))
    load_image: Any = None  # no image is read
    with pytest.raises(ValueError, match="data set has"):
        detect_all(Oracle(FakeClock()), other, Dataset(("x",), ()), load_image)


def test_a_decision_is_timed_in_a_crowd():
    clock = FakeClock()
    runner = FakeRunner(clock)
    profile = measure_segments(runner, CATALOG, 1, clock, "2026-01-01", threads=2)
    ticks = iter(range(100))
    assert measure_decision(CATALOG, profile, 3, lambda: float(next(ticks))) == 1.0
