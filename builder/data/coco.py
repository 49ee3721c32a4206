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


def _evaluate(
    dataset: Dataset, detections: Sequence[ScoredBoxes], *, by_size: bool = True
) -> COCOeval | None:
    """Return the matches of one detection record for each sample; None without detections.

    Without ``by_size``, they are those of objects of all sizes alone, in a quarter of the time.
    """
    rows = [
        {
            "image_id": index,
            "category_id": int(label) + 1,
            "bbox": _xywh(box),
            "score": float(score),
        }
        for index, (sample, found) in enumerate(
            zip(dataset.samples, detections, strict=True), start=1
        )
        for box, score, label in zip(found.boxes_xyxy, found.scores, found.labels, strict=True)
        if label not in sample.unlabelled
    ]
    if not rows:
        return None
    truth = _ground_truth(dataset)
    evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
    if not by_size:
        del evaluation.params.areaRng[_ALL_SIZES + 1 :], evaluation.params.areaRngLbl[1:]
    evaluation.evaluate()
    return evaluation


def average_precision(
    dataset: Dataset, detections: Sequence[ScoredBoxes], *, by_size: bool = True
) -> AveragePrecision:
    """Return the average precision of detections, one record for each sample of ``dataset``.

    The records are in the order of the samples. What is found of classes that an image has no
    labels of does not count. Without ``by_size``, figures by size are nan, and it takes a quarter
    of the time. Raises DatasetError if there is no object to be found.
    """
    if not dataset.has_objects:
        raise DatasetError("there is no object in these images: no accuracy can be measured")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluate(dataset, detections, by_size=by_size)
        if evaluation is None:
            nothing = (
                {name: 0.0 if count else math.nan for name, count in counts.items()}
                for counts in count_objects(dataset)
            )
            return AveragePrecision(0.0, 0.0, *nothing)
        evaluation.accumulate()
    # (IoU thresholds, recalls, classes, areas, detection limits); -1 where there is no truth
    precision = evaluation.eval["precision"][:, :, :, :, -1]
    of_all = precision[:, :, :, _ALL_SIZES]
    of_sizes = np.moveaxis(precision, 3, 0)[_ALL_SIZES + 1 :]
    return AveragePrecision(
        _mean(of_all),
        _mean(of_all[evaluation.params.iouThrs == 0.5]),
        dict(zip(dataset.classes, map(_mean, np.moveaxis(of_all, 2, 0)), strict=True)),
        dict(zip(SIZES, map(_mean, of_sizes) if by_size else [math.nan] * len(SIZES), strict=True)),
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
    """Return (num_resamples, 2): AP and AP50 over images drawn with replacement (bootstrap).

    As many images are drawn as there are; the figures tell how far AP would move with other images
    of the same kind. Draws without an object are left out. The same seed draws the same images, so
    that two detectors can be compared in pairs.
    """
    random = np.random.default_rng(seed)
    num_images = len(dataset.samples)
    draws = random.integers(0, num_images, (num_resamples, num_images))
    has_objects = np.array([len(sample.labels) > 0 for sample in dataset.samples])
    draws = draws[has_objects[draws].any(axis=1)]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluate(dataset, detections)
    if evaluation is None:
        return np.zeros((len(draws), 2))
    # One record for each (class, area range, image); None where there is nothing of the class.
    shape = (len(evaluation.params.catIds), len(evaluation.params.areaRng), num_images)
    records = np.array(evaluation.evalImgs, dtype=object).reshape(shape)[:, _ALL_SIZES]
    classes = [_ClassMatches.of(of_class) for of_class in records]
    recalls = evaluation.params.recThrs
    aps = []
    for draw in draws:
        times = np.bincount(draw, minlength=num_images)
        by_class = [matches.precision(times, recalls) for matches in classes]
        mean = np.mean([found for found in by_class if found is not None], axis=0)
        aps.append([mean.mean(), mean[0]])
    return np.array(aps).reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class _ClassMatches:
    """Matches of one class's detections in all images, best first, for every IoU threshold."""

    images: npt.NDArray[np.int64]
    """Number of the image of each detection, (D,)."""
    right: npt.NDArray[np.bool_]
    """Whether a detection is right, (thresholds, D)."""
    wrong: npt.NDArray[np.bool_]
    """Whether it is wrong: one of a crowd is neither."""
    num_objects: npt.NDArray[np.int64]
    """Number of objects to be found in each image."""

    @classmethod
    def of(cls, records: Sequence[Mapping[str, npt.NDArray[np.float64]] | None]) -> _ClassMatches:
        """Return what pycocotools' ``records`` of one class say, one for each image."""
        held = [(image, record) for image, record in enumerate(records) if record is not None]
        num_objects = np.zeros(len(records), np.int64)
        for image, record in held:
            num_objects[image] = np.count_nonzero(np.asarray(record["gtIgnore"]) == 0)
        scores = np.concatenate([[], *(record["dtScores"] for _, record in held)])
        order = np.argsort(-scores, kind="stable")
        images = np.repeat([image for image, _ in held], [len(r["dtScores"]) for _, r in held])
        matched, ignored = (
            np.concatenate([record[key] for _, record in held], axis=1)[:, order] != 0
            if held
            else np.zeros((1, 0), bool)
            for key in ("dtMatches", "dtIgnore")
        )
        return cls(
            images.astype(np.int64)[order], matched & ~ignored, ~matched & ~ignored, num_objects
        )

    def precision(
        self, times: npt.NDArray[np.int64], recalls: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64] | None:
        """Return the precision by IoU threshold, as a mean over the recalls, or None.

        Image i counts ``times[i]`` times. None: there is nothing of this class to be found.
        """
        num_objects = int(times @ self.num_objects)
        if not num_objects:
            return None
        weights = times[self.images]
        right = np.cumsum(self.right * weights, axis=1)
        wrong = np.cumsum(self.wrong * weights, axis=1)
        precision = right / (right + wrong + np.spacing(1))
        # No more wrong ones are to be taken than it takes to reach a recall.
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = [np.searchsorted(row / num_objects, recalls) for row in right]
        padded = np.pad(precision, ((0, 0), (0, 1)))  # recalls that are not reached
        return np.take_along_axis(padded, np.array(reached), axis=1).mean(axis=1)
