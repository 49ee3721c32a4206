"""Served AP: against figures that can be told by hand, and against plain pycocotools."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from loadtest.load.served_accuracy import Evaluator, ServedAp
from loadtest.workload.images import (
    NOTHING,
    AnnotatedImage,
    AnnotatedObject,
    ServedDetections,
    read_data,
)

CLASSES = ("circle", "square")
BCCD_CLASSES = ("RBC", "WBC", "Platelets")

near: Any = pytest.approx
"""In the place of a float in a record."""


def holding(*objects: tuple[tuple[float, float, float, float], str]) -> AnnotatedImage:
    entries = (AnnotatedObject(box, name, box[2] * box[3], False) for box, name in objects)
    return AnnotatedImage("x.jpg", b"", "image/jpeg", tuple(entries))


def found(*rows: tuple[tuple[float, float, float, float], float, int]) -> ServedDetections:
    return ServedDetections(
        np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([label for _, _, label in rows], np.int64),
    )


CIRCLE = holding(((10, 10, 20, 20), "circle"))
RIGHT = found(((10, 10, 30, 30), 0.9, 0))


def test_right_and_wrong():
    evaluator = Evaluator([CIRCLE], CLASSES)
    assert evaluator.ap([(0, RIGHT)]).ap == pytest.approx(1.0)
    wrong_class = found(((10, 10, 30, 30), 0.9, 1))
    assert evaluator.ap([(0, wrong_class)]).ap == 0.0
    # An IoU of .61: found at .5, .55 and .6, out of ten thresholds.
    shifted = found(((10, 10, 30, 42.5), 0.9, 0))
    assert evaluator.ap([(0, shifted)]) == ServedAp(near(0.3), near(1.0), 1)


def test_each_request_is_an_image_of_its_own():
    evaluator = Evaluator([CIRCLE], CLASSES)
    half = evaluator.ap([(0, RIGHT), (0, NOTHING)])
    assert half.num_requests == 2
    # Recall reaches one half at full precision: 51 of COCO's 101 recall points.
    assert half.ap == pytest.approx(51 / 101)
    assert evaluator.ap([(0, RIGHT), (0, RIGHT)]).ap == pytest.approx(1.0)


def test_nothing():
    evaluator = Evaluator([CIRCLE, holding()], CLASSES)
    assert evaluator.ap([]) == ServedAp(0.0, 0.0, 0)
    assert evaluator.ap([(0, NOTHING)]) == ServedAp(0.0, 0.0, 1)
    assert evaluator.ap([(1, RIGHT)]) == ServedAp(0.0, 0.0, 1)  # there is nothing to find


def test_a_class_may_go_by_another_name():
    """Of what is seen, the sofa is right, whatever of both names it goes by."""
    box = (10, 10, 20, 20)
    for annotated, known in (("sofa", "couch"), ("couch", "sofa")):
        evaluator = Evaluator([holding((box, annotated))], ("cat", known))
        assert evaluator.ap([(0, found(((10, 10, 30, 30), 0.9, 1)))]).ap == pytest.approx(1.0)
        assert evaluator.ap([(0, found(((10, 10, 30, 30), 0.9, 0)))]).ap == 0.0


def test_annotations_must_fit_the_model():
    with pytest.raises(ValueError, match="have circle, which the model does not find; it finds a"):
        Evaluator([CIRCLE], ("a",))
    with pytest.raises(ValueError, match="others have none"):
        Evaluator([CIRCLE, AnnotatedImage("y", b"", "image/png")], CLASSES)


def noisy(image: AnnotatedImage, rng: np.random.Generator, spread: float) -> ServedDetections:
    """Every object, off by some pixels, some of them twice and some of the wrong class."""
    rows = []
    for item in (*(image.objects or ()), *(image.objects or ())[::2]):
        x, y, width, height = item.box_xywh
        box = np.array([x, y, x + width, y + height]) + rng.normal(0, spread, 4)
        label = BCCD_CLASSES.index(item.class_name) if rng.random() < 0.9 else 0
        rows.append((tuple(box), float(rng.random()), label))
    return found(*rows)


def plainly(
    images: tuple[AnnotatedImage, ...], answers: list[tuple[int, ServedDetections]]
) -> np.ndarray:
    """AP and AP50 by pycocotools as its own documentation uses it: every request written out."""
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": number} for number in range(len(answers))],
        "categories": [{"id": label} for label in range(1, 4)],
        "annotations": [
            {
                "image_id": number,
                "category_id": BCCD_CLASSES.index(item.class_name) + 1,
                "bbox": list(item.box_xywh),
                "area": item.area,
                "iscrowd": 0,
            }
            for number, (image, _) in enumerate(answers)
            for item in images[image].objects or ()
        ],
    }
    for number, annotation in enumerate(truth.dataset["annotations"], start=1):
        annotation["id"] = number
    rows = [
        {
            "image_id": number,
            "category_id": int(label) + 1,
            "bbox": [float(x1), float(y1), float(x2) - float(x1), float(y2) - float(y1)],
            "score": float(score),
        }
        for number, (_, answer) in enumerate(answers)
        for (x1, y1, x2, y2), score, label in zip(
            answer.boxes_xyxy, answer.scores, answer.labels, strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:2]


def test_it_is_what_pycocotools_says_of_all_requests_written_out():
    images = read_data(Path("tests/data/bccd"), "test")
    rng = np.random.default_rng(0)
    known = [[noisy(image, rng, s) for s in (1, 4, 9)] + [NOTHING] for image in images]
    answers = [
        (image, known[image][way])
        for image, way in rng.integers(0, (len(images), 4), (200, 2)).tolist()
    ]
    evaluator = Evaluator(images, BCCD_CLASSES)
    evaluator.ap(answers[:50])  # what it remembers must not matter
    served = evaluator.ap(answers)
    assert (served.ap, served.ap50) == pytest.approx(plainly(images, answers), abs=1e-12)
    part = evaluator.ap(answers[50:90])
    assert (part.ap, part.ap50) == pytest.approx(plainly(images, answers[50:90]), abs=1e-12)
