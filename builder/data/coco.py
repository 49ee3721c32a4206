"""Average precision as COCO defines it, for any data set: a wrapper around pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from builder.data.dataset import Dataset


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What a detector found in one image."""

    boxes_xyxy: npt.NDArray[np.float32]
    """(N, 4) in pixels of the original image."""
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """Means over classes, at most 100 detections an image."""

    ap: float
    """Mean over the IoU thresholds .5, .55, ..., .95."""
    ap50: float
    ap_by_class: Mapping[str, float]
    """``ap`` of each class; nan where the data set has none of it."""


def _xywh(box: npt.NDArray[np.float32]) -> list[float]:
    x1, y1, x2, y2 = map(float, box)
    return [x1, y1, x2 - x1, y2 - y1]


def _ground_truth(dataset: Dataset) -> COCO:
    """The data set as pycocotools wants it; ids count from 1."""
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [
            {"id": index, "width": sample.image.shape[1], "height": sample.image.shape[0]}
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
                "area": float((box[2] - box[0]) * (box[3] - box[1])),
                "iscrowd": 0,
            }
            for index, sample in enumerate(dataset.samples, start=1)
            for box, label in zip(sample.boxes_xyxy, sample.labels, strict=True)
        ],
    }
    for annotation_id, annotation in enumerate(coco.dataset["annotations"], start=1):
        annotation["id"] = annotation_id
    coco.createIndex()
    return coco


def _evaluate(dataset: Dataset, detections: Sequence[Detections]) -> COCOeval | None:
    """Matches of one detection record for each sample; None if nothing at all was detected."""
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


def average_precision(dataset: Dataset, detections: Sequence[Detections]) -> AveragePrecision:
    """AP and AP50 of one detection record for each sample of ``dataset``, in its order."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluate(dataset, detections)
        if evaluation is None:
            return AveragePrecision(0.0, 0.0, dict.fromkeys(dataset.classes, 0.0))
        evaluation.accumulate()
        evaluation.summarize()
    # (IoU thresholds, recalls, classes, areas, detection limits); -1 where there is no truth
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    by_class = {
        name: float(values[values > -1].mean()) if (values > -1).any() else float("nan")
        for name, values in zip(dataset.classes, np.moveaxis(precision, 2, 0), strict=True)
    }
    return AveragePrecision(float(evaluation.stats[0]), float(evaluation.stats[1]), by_class)


def resampled_ap(
    dataset: Dataset, detections: Sequence[Detections], num_resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """(num_resamples,) APs, each over as many images drawn with replacement (bootstrap): how far
    AP would move with other images of the same kind. The same seed draws the same images, so that
    two detectors can be compared in pairs."""
    random = np.random.default_rng(seed)
    draws = random.integers(0, len(dataset.samples), (num_resamples, len(dataset.samples)))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluate(dataset, detections)
        if evaluation is None:
            return np.zeros(num_resamples)
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
