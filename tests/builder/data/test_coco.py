"""Average precision on cases small enough to know the answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builder.data.coco import ScoredBoxes, average_precision, count_objects, resampled_ap
from builder.data.dataset import Dataset, DatasetError, Sample

BOXES = np.array([[0, 0, 40, 40], [50, 50, 90, 90]], dtype=np.float32)
AREAS = np.array([900, 1600], dtype=np.float32)
DATASET = Dataset(
    ("x", "y"),
    tuple(
        Sample(name, Path(name), (100, 100), BOXES, np.array([0, 1], dtype=np.int64), AREAS)
        for name in "ab"
    ),
)


def found(boxes: np.ndarray, scores: list[float], labels: list[int]) -> ScoredBoxes:
    return ScoredBoxes(
        boxes.astype(np.float32), np.array(scores, np.float32), np.array(labels, np.int64)
    )


def test_perfect() -> None:
    rows = [found(BOXES, [0.9, 0.8], [0, 1])] * 2
    result = average_precision(DATASET, rows)
    assert (result.ap, result.ap50) == (pytest.approx(1.0), pytest.approx(1.0))


def test_boxes_at_iou_three_quarters() -> None:
    """A box cut to 30 of 40 pixels counts at six of the ten thresholds (.5 to .75)."""
    boxes = BOXES.copy()
    boxes[:, 2] -= 10
    result = average_precision(DATASET, [found(boxes, [0.9, 0.8], [0, 1])] * 2)
    assert result.ap == pytest.approx(0.6)
    assert result.ap50 == pytest.approx(1.0)


def test_nothing_found() -> None:
    result = average_precision(DATASET, [found(BOXES[:0], [], [])] * 2)
    assert (result.ap, result.ap50) == (0.0, 0.0)
    assert result.ap_by_class == {"x": 0.0, "y": 0.0}
    assert (result.ap_by_size["small"], result.ap_by_size["medium"]) == (0.0, 0.0)
    assert np.isnan(result.ap_by_size["large"])


def test_nothing_to_be_found() -> None:
    empty = replace(
        DATASET.samples[0], boxes_xyxy=BOXES[:0], labels=np.zeros(0, np.int64), areas=AREAS[:0]
    )
    rows = [found(BOXES, [0.9, 0.8], [0, 1])]
    with pytest.raises(DatasetError, match="no object in these images"):
        average_precision(replace(DATASET, samples=(empty,)), rows)
    # Half of the draws of two images, one of them empty, hold something; no other counts.
    both = replace(DATASET, samples=(DATASET.samples[0], empty))
    aps = resampled_ap(both, [*rows, found(BOXES[:0], [], [])], 40, seed=0)
    assert 0 < len(aps) < 40
    np.testing.assert_allclose(aps, 1.0)


def test_classes_may_be_called_as_sizes_are() -> None:
    named = replace(DATASET, classes=("small", "large"))
    assert count_objects(named) == (
        {"small": 2, "large": 2},
        {"small": 2, "medium": 2, "large": 0},
    )


def test_by_class() -> None:
    """Class x perfectly found, class y not at all."""
    result = average_precision(DATASET, [found(BOXES[:1], [0.9], [0])] * 2)
    assert result.ap_by_class == {"x": pytest.approx(1.0), "y": pytest.approx(0.0)}
    assert result.ap == pytest.approx(0.5)


def test_by_size() -> None:
    """Class x counts as small, by the area it covers; class y is medium and not found."""
    result = average_precision(DATASET, [found(BOXES[:1], [0.9], [0])] * 2)
    assert result.ap_by_size["small"] == pytest.approx(1.0)
    assert result.ap_by_size["medium"] == pytest.approx(0.0)
    assert np.isnan(result.ap_by_size["large"])


def test_what_is_found_of_unlabelled_classes_does_not_count() -> None:
    """In the second image nobody labelled x: what is found there is neither right nor wrong."""
    rows = [found(BOXES[1:], [0.8], [1]), found(BOXES, [0.9, 0.8], [0, 1])]
    first, second = DATASET.samples
    without = replace(second, boxes_xyxy=BOXES[1:], labels=np.array([1]), areas=AREAS[1:])
    missed = Dataset(("x", "y"), (first, without))
    partly = Dataset(("x", "y"), (first, replace(without, unlabelled=np.array([0]))))
    both = [*rows[:1], found(BOXES, [0.5, 0.8], [0, 1])]
    seen = [found(BOXES, [0.6, 0.8], [0, 1]), found(BOXES, [0.9, 0.8], [0, 1])]
    assert average_precision(missed, seen).ap_by_class["x"] == pytest.approx(0.5)
    assert average_precision(partly, seen).ap_by_class["x"] == pytest.approx(1.0)
    assert average_precision(partly, both).ap_by_class == {"x": 0.0, "y": pytest.approx(1.0)}


def test_nothing_is_wrong_in_a_crowd() -> None:
    """Three boxes found where there is one object: the others only count outside the crowd."""
    boxes = np.array([[0, 0, 40, 40], [50, 50, 60, 60], [70, 50, 80, 60]], dtype=np.float32)
    rows = [found(boxes, [0.5, 0.9, 0.8], [0, 0, 0])]
    one = np.zeros(1, dtype=np.int64)
    alone = Sample("a", Path("a"), (100, 100), BOXES[:1], one, AREAS[:1])
    beside = replace(alone, crowds_xyxy=BOXES[1:], crowd_labels=one)
    assert average_precision(Dataset(("x",), (alone,)), rows).ap == pytest.approx(1 / 3)
    assert average_precision(Dataset(("x",), (beside,)), rows).ap == pytest.approx(1.0)


def test_resampling_moves_ap_between_its_extremes() -> None:
    """Of two images one is perfect and one is empty: draws of (perfect, perfect), both mixtures,
    and (empty, empty)."""
    rows = [found(BOXES, [0.9, 0.8], [0, 1]), found(BOXES[:0], [], [])]
    aps = resampled_ap(DATASET, rows, num_resamples=40, seed=0)
    assert aps.max() == pytest.approx(1.0)
    assert aps.min() == pytest.approx(0.0)
    mixed = average_precision(DATASET, rows).ap
    assert set(np.round(aps[:, 0], 6)) == {0.0, round(mixed, 6), 1.0}


def test_resampling_is_a_function_of_its_seed() -> None:
    rows = [found(BOXES, [0.9, 0.8], [0, 1]), found(BOXES[:1], [0.5], [0])]
    first, again = (resampled_ap(DATASET, rows, 5, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_resampling_nothing() -> None:
    assert resampled_ap(DATASET, [found(BOXES[:0], [], [])] * 2, 3, seed=0).tolist() == [[0, 0]] * 3


def random_case(num_images: int) -> tuple[Dataset, list[ScoredBoxes]]:
    """Objects of three classes, and detections near them, of which some are wrong; crowds too."""
    random = np.random.default_rng(0)
    samples, rows = [], []
    for index in range(num_images):
        corners = random.uniform(0, 60, (6, 2))
        boxes = np.concatenate([corners, corners + random.uniform(10, 40, (6, 2))], axis=1)
        labels = random.integers(0, 3, 6)
        objects, crowds = boxes[:4].astype(np.float32), boxes[4:5].astype(np.float32)
        areas = (objects[:, 2] - objects[:, 0]) * (objects[:, 3] - objects[:, 1])
        samples.append(
            Sample(
                *(str(index), Path("x"), (100, 100), objects, labels[:4], areas),
                *(crowds, labels[4:5]),
            )
        )
        moved = boxes + random.normal(0, 3, boxes.shape)
        guessed = np.where(random.random(6) < 0.2, (labels + 1) % 3, labels)
        rows.append(found(moved, random.random(6).tolist(), guessed.tolist()))
    return Dataset(("x", "y", "z"), tuple(samples)), rows


def test_a_draw_is_worth_what_its_images_are() -> None:
    """Each resample has the AP of a data set that holds its images as often as they were drawn."""
    dataset, rows = random_case(5)
    aps = resampled_ap(dataset, rows, 20, seed=1)
    draws = np.random.default_rng(1).integers(0, 5, (20, 5))
    for (ap, ap50), draw in zip(aps, draws, strict=True):
        drawn = replace(dataset, samples=tuple(dataset.samples[index] for index in draw))
        again = average_precision(drawn, [rows[index] for index in draw])
        assert ap == pytest.approx(again.ap)
        assert ap50 == pytest.approx(again.ap50)
    assert len(np.unique(aps[:, 0])) > 10
