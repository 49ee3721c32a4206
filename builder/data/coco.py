"""Average precision as COCO defines it, for any data set: a wrapper around pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from builder.data.dataset import Dataset, DatasetError

SIZES = {"small": 0.0, "medium": 32.0**2, "large": 96.0**2}
"""Sizes of objects: name -> the fewest pixels of the image that objects of this size cover."""

_ALL_SIZES = 0
"""Index of pycocotools' area range that holds every object; those of SIZES follow."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredBoxes:
    """One image's detections, as a detector scored them."""

    boxes_xyxy: npt.NDArray[np.float32]
    """Boxes, (N, 4) xyxy in pixels of the original image."""
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """One detector's average precision on a data set.

    Figures are means over classes, of at most 100 detections an image.
    """

    ap: float
    """Mean AP over the IoU thresholds .5, .55, ..., .95."""
    ap50: float
    ap_by_class: Mapping[str, float]
    """AP of each class, as in ``ap``; nan where the data set has no object of it."""
    ap_by_size: Mapping[str, float]
    """AP of the objects of each of SIZES, as in ``ap``; nan where the data set has none."""


def _xywh(box: npt.NDArray[np.float32]) -> list[float]:
    x1, y1, x2, y2 = map(float, box)
    return [x1, y1, x2 - x1, y2 - y1]


def _ground_truth(dataset: Dataset) -> COCO:
    """Return the data set as pycocotools wants it; ids count from 1."""
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [
            {"id": index, "width": sample.size[1], "height": sample.size[0]}
            for index, sample in enumerate(dataset.samples, start=1)
        ],
        "categories": [
            {"id": label, "name": name} for label, name in enumerate(dataset.classes, start=1)
        ],
        "annotations": [
            {
                "image_id": index,
                "category_id": int(label) + 1,
                "bbox": _xywh(box),
                "area": float(area),
                "iscrowd": crowd,
            }
            for index, sample in enumerate(dataset.samples, start=1)
            for crowd, boxes, labels, areas in (
                (0, sample.boxes_xyxy, sample.labels, sample.areas),
                (1, sample.crowds_xyxy, sample.crowd_labels, np.zeros(len(sample.crowds_xyxy))),
            )
            for box, label, area in zip(boxes, labels, areas, strict=True)
        ],
    }
    for annotation_id, annotation in enumerate(coco.dataset["annotations"], start=1):
        annotation["id"] = annotation_id
    coco.createIndex()
    return coco


def _evaluate(dataset: Dataset, detections: Sequence[ScoredBoxes]) -> COCOeval | None:
    """Return the matches of one detection record for each sample; None without detections."""
    rows = [
        {
            "image_id": index,
            "category_id": int(label) + 1,
            "bbox": _xywh(box),
            "score": float(score),
        }
        for index, (_, found) in enumerate(zip(dataset.samples, detections, strict=True), start=1)
        for box, score, label in zip(found.boxes_xyxy, found.scores, found.labels, strict=True)
    ]
    if not rows:
        return None
    truth = _ground_truth(dataset)
    evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
    evaluation.evaluate()
    return evaluation


def average_precision(dataset: Dataset, detections: Sequence[ScoredBoxes]) -> AveragePrecision:
    """Return the average precision of detections, one record for each sample of ``dataset``.

    The records are in the order of the samples. Raises DatasetError if there is no object to be
    found.
    """
    if not dataset.has_objects:
        raise DatasetError("there is no object in these images: no accuracy can be measured")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluate(dataset, detections)
        if evaluation is None:
            nothing = (
                {name: 0.0 if count else math.nan for name, count in counts.items()}
                for counts in count_objects(dataset)
            )
            return AveragePrecision(0.0, 0.0, *nothing)
        evaluation.accumulate()
        evaluation.summarize()
    # (IoU thresholds, recalls, classes, areas, detection limits); -1 where there is no truth
    precision = evaluation.eval["precision"][:, :, :, :, -1]
    of_classes = np.moveaxis(precision[:, :, :, _ALL_SIZES], 2, 0)
    of_sizes = np.moveaxis(precision, 3, 0)[_ALL_SIZES + 1 :]
    return AveragePrecision(
        float(evaluation.stats[0]),
        float(evaluation.stats[1]),
        dict(zip(dataset.classes, map(_mean, of_classes), strict=True)),
        dict(zip(SIZES, map(_mean, of_sizes), strict=True)),
    )


def _mean(precision: npt.NDArray[np.float64]) -> float:
    """Return the mean over what there was something to find of; nan if there was nothing."""
    return float(precision[precision > -1].mean()) if (precision > -1).any() else math.nan


def count_objects(dataset: Dataset) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many objects there are of each class, and of each of SIZES."""
    labels = np.concatenate([sample.labels for sample in dataset.samples])
    areas = np.concatenate([sample.areas for sample in dataset.samples])
    sizes = np.searchsorted(list(SIZES.values()), areas, side="right") - 1
    by_class = np.bincount(labels, minlength=len(dataset.classes)).tolist()
    by_size = np.bincount(sizes, minlength=len(SIZES)).tolist()
    return (
        dict(zip(dataset.classes, by_class, strict=True)),
        dict(zip(SIZES, by_size, strict=True)),
    )


def resampled_ap(
    dataset: Dataset, detections: Sequence[ScoredBoxes], num_resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Return (num_resamples,) APs, each over as many images drawn with replacement (bootstrap).

    They tell how far AP would move with other images of the same kind. Draws without an object are
    left out. The same seed draws the same images, so that two detectors can be compared in pairs.
    """
    random = np.random.default_rng(seed)
    draws = random.integers(0, len(dataset.samples), (num_resamples, len(dataset.samples)))
    has_objects = np.array([len(sample.labels) > 0 for sample in dataset.samples])
    draws = draws[has_objects[draws].any(axis=1)]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluate(dataset, detections)
        if evaluation is None:
            return np.zeros(len(draws))
        # One record for each (class, area range, image); objects of all sizes come first.
        shape = (len(evaluation.params.catIds), len(evaluation.params.areaRng), -1)
        records = np.array(evaluation.evalImgs, dtype=object).reshape(shape)
        aps = []
        for draw in draws:
            evaluation.evalImgs = records[:, :, draw].ravel().tolist()
            evaluation.accumulate()
            precision = evaluation.eval["precision"][:, :, :, 0, -1]
            aps.append(precision[precision > -1].mean())
    return np.array(aps)
