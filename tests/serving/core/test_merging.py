from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serving.core.family import Family
from serving.core.merging import merge
from serving.core.model_entry import Merging, ModelEntry
from serving.core.request import Detections
from tests.serving.fakes import CATALOG

Row = tuple[tuple[float, float, float, float], float, int]

MERGING = Merging(border_side=128.0, iou_threshold=0.5)


def found(*rows: Row) -> Detections:
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(scores, dtype=np.float32),
        np.array(labels, dtype=np.int32),
    )


def rows_of(answer: Detections) -> list[tuple[object, ...]]:
    assert [array.dtype for array in (answer.boxes_xyxy_input, answer.scores, answer.labels)] == [
        np.float32,
        np.float32,
        np.int32,
    ]
    rows = zip(answer.boxes_xyxy_input.tolist(), answer.scores.tolist(), answer.labels, strict=True)
    return [(box, round(score, 3), int(label)) for box, score, label in rows]


def merged(
    smaller: Detections, larger: Detections, *, scale: float = 1.0, most: int = 10
) -> list[tuple[object, ...]]:
    return rows_of(merge(smaller, larger, MERGING, scale=scale, max_detections=most))


def test_large_objects_are_the_smaller_inputs_and_small_ones_the_larger_inputs() -> None:
    smaller = found(((0, 0, 300, 300), 0.6, 0), ((320, 320, 360, 360), 0.9, 1))
    larger = found(((0, 0, 310, 310), 0.8, 0), ((320, 320, 360, 360), 0.5, 2))
    assert merged(smaller, larger) == [
        ([0, 0, 300, 300], 0.6, 0),
        ([320, 320, 360, 360], 0.5, 2),
    ]


def test_the_border_is_in_pixels_of_the_larger_input() -> None:
    """Of a frame twice as large each way, boxes are twice as large."""
    smaller = found(((0, 0, 240, 240), 0.6, 0))
    larger = found(((0, 0, 240, 240), 0.5, 0))
    assert [row[1] for row in merged(smaller, larger)] == [0.6]
    halved = merge(smaller, larger, MERGING, scale=0.4, max_detections=10)
    assert [row[1] for row in rows_of(halved)] == [0.5]


def test_about_the_border_the_better_of_both_is_kept() -> None:
    smaller = found(((0, 0, 128, 128), 0.6, 0))
    larger = found(((0, 0, 130, 128), 0.7, 0), ((0, 0, 128, 128), 0.4, 1))
    assert [row[1:] for row in merged(smaller, larger)] == [(0.7, 0), (0.4, 1)]
    equal = merged(smaller, found(((0, 0, 130, 128), 0.6, 0)))
    assert equal == [([0, 0, 128, 128], 0.6, 0)]


def test_what_a_suppressed_box_would_suppress_is_kept() -> None:
    chain = [((20.0 * i, 0.0, 20.0 * i + 100, 100.0), 0.9 - 0.1 * i, 0) for i in range(5)]
    assert [row[1] for row in merged(found(), found(*chain))] == pytest.approx([0.9, 0.7, 0.5])


def test_suppression_is_that_of_one_box_after_the_other() -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 300, (200, 2))
    boxes = np.hstack([corners, corners + random.uniform(20, 100, (200, 2))]).astype(np.float32)
    scores = np.sort(random.uniform(0, 1, 200))[::-1].astype(np.float32)
    labels = random.integers(0, 2, 200).astype(np.int32)
    answer = merge(
        found(), Detections(boxes, scores, labels), MERGING, scale=1.0, max_detections=200
    )
    kept: list[int] = []
    for index in range(200):
        rivals = [k for k in kept if labels[k] == labels[index]]
        if all(overlap(boxes[k], boxes[index]) <= 0.5 for k in rivals):
            kept.append(index)
    assert 20 < len(kept) < 180
    assert answer.scores.tolist() == scores[kept].tolist()


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    extent = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.clip(extent, 0, None).prod())
    return shared / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared)


def test_no_more_than_asked_for_and_best_first() -> None:
    rows = [((10.0 * i, 0.0, 10.0 * i + 8, 8.0), 0.1 * i, 0) for i in range(1, 9)]
    scores = [row[1] for row in merged(found(), found(*rows), most=3)]
    assert scores == pytest.approx([0.8, 0.7, 0.6])


def test_nothing_and_nothing_is_nothing() -> None:
    assert merged(found(), found()) == []


class TestFamily:
    """What is merged of a family's answers, whose boxes are in pixels of its largest input."""

    SIZES = tuple(
        replace(CATALOG, input_width=side, input_height=side, max_detections=2)
        for side in (150, 300, 600)
    )
    BOXES = (
        found(((0, 0, 300, 300), 0.6, 0)),
        found(((0, 0, 40, 40), 0.9, 0), ((50, 50, 90, 90), 0.5, 1), ((0, 50, 40, 90), 0.4, 1)),
    )

    def test_sizes_of_one_entry(self) -> None:
        family = Family((ModelEntry(self.SIZES, merging=MERGING),))
        answer = family.merge((0, self.BOXES[0]), (2, self.BOXES[1]))
        assert answer is not None
        assert [row[1] for row in rows_of(answer)] == [0.9, 0.6]
        # A side of 300 in the frame is 150 in the middle input, and about its border of 128.
        large = found(((0, 0, 300, 300), 0.7, 0))
        answer = family.merge((0, self.BOXES[0]), (1, large))
        assert answer is not None
        assert [row[1] for row in rows_of(answer)] == [0.7]

    def test_what_is_not_merged(self) -> None:
        entry = ModelEntry(self.SIZES, merging=MERGING)
        family = Family((entry, ModelEntry((replace(CATALOG, name="other", input_width=900),))))
        first, then = self.BOXES
        assert family.merge((1, first), (0, then)) is None, "the later one is smaller"
        assert family.merge((1, first), (1, then)) is None
        assert family.merge((1, first), (3, then)) is None, "of another entry"
        alone = Family((ModelEntry(self.SIZES),))
        assert alone.merge((0, first), (1, then)) is None
