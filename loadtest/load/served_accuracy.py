"""Average precision of what a server answered under load, from the boxes that came back.

Every request counts as an image of its own, however often the same image was sent, so that an image
answered from exit 1 at one time and from exit 7 at another counts once each. Two figures:

    in time        over the requests that were answered in time: how good the answers were
    with misses    over all requests, where one that was not answered in time found nothing

COCO AP as pycocotools computes it, at most 100 detections an image. Matching boxes to truth depends
on one image alone, and a server gives the same image the same boxes whenever it leaves from the
same exit. So each distinct pair of image and answer is matched once, which makes ten thousand
requests as quick as a hundred; that the result is the same is tested.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from loadtest.workload.images import AnnotatedImage, ServedDetections
from serving.core.class_names import known_names
from serving.core.command_errors import InvalidArgument

MAX_DETECTIONS = 100
Answer = tuple[int, ServedDetections]
"""An answer: the number of an image, and what was found in it."""


@dataclass(frozen=True, slots=True)
class ServedAp:
    """COCO AP over a number of requests."""

    ap: float
    """Mean AP over classes and the IoU thresholds .5, .55, ..., .95."""
    ap50: float
    num_requests: int


class Evaluator:
    """An evaluator that matches answers to annotated objects, each distinct answer once."""

    def __init__(self, images: Sequence[AnnotatedImage], classes: Sequence[str]) -> None:
        """Take the images and the model's classes.

        Objects may go by any name that a class of the model is known by. Raises ValueError if an
        image has no annotations, or if an object is of no class of the model.
        """
        names = known_names(classes)
        annotated = {item.class_name for image in images for item in image.objects or ()}
        unknown = annotated - names.keys()
        if unknown:
            raise InvalidArgument(
                f"the annotations have {', '.join(sorted(unknown))}, which the model does not "
                f"find; it finds {', '.join(classes)}"
            )
        if any(image.objects is None for image in images):
            raise InvalidArgument("some pictures have annotations and others have none")
        self._images = images
        self._classes = tuple(classes)
        self._numbers: dict[tuple[int, bytes], int] = {}
        self._pairs: list[Answer] = []
        self._matches: Any = None

    def ap(self, answers: Iterable[Answer]) -> ServedAp:
        """Return the AP over these answers, whatever their order.

        It is 0 for no answers at all, and where there is nothing to find.
        """
        chosen = [self._number(image, found) for image, found in answers]
        if not chosen:
            return ServedAp(0.0, 0.0, 0)
        if self._matches is None:
            self._matches = _match(self._images, self._classes, self._pairs)
        return _accumulate(self._matches, chosen)

    def _number(self, image: int, found: ServedDetections) -> int:
        """Return the number of this pair of image and answer; a new one is kept to be matched."""
        number = self._numbers.setdefault((image, found.key()), len(self._pairs))
        if number == len(self._pairs):
            self._pairs.append((image, found))
            self._matches = None
        return number


def _match(
    images: Sequence[AnnotatedImage], classes: Sequence[str], pairs: Sequence[Answer]
) -> Any:
    """Match each pair on an image of its own: a COCOeval after ``evaluate``.

    It is for objects of all sizes alone.
    """
    ids: Callable[[], int] = itertools.count(1).__next__
    names = known_names(classes)
    label_of = {name: label for label, name in enumerate(classes, start=1)}
    truth, found = COCO(), COCO()
    truth.dataset = {
        "images": [{"id": number} for number in range(len(pairs))],
        "categories": [{"id": label, "name": name} for name, label in label_of.items()],
        "annotations": [
            {
                "id": ids(),
                "image_id": number,
                "category_id": label_of[names[item.class_name]],
                "bbox": list(item.box_xywh),
                "area": item.area,
                "iscrowd": int(item.is_crowd),
            }
            for number, (image, _) in enumerate(pairs)
            for item in images[image].objects or ()
        ],
    }
    # The form that COCO.loadRes gives to results; it refuses to do so where there are none.
    found.dataset = {
        "images": truth.dataset["images"],
        "categories": truth.dataset["categories"],
        "annotations": [
            {
                "id": ids(),
                "image_id": number,
                "category_id": int(label) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "score": float(score),
            }
            for number, (_, answer) in enumerate(pairs)
            for (x1, y1, x2, y2), score, label in zip(
                answer.boxes_xyxy.tolist(), answer.scores, answer.labels, strict=True
            )
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        matches = COCOeval(truth, found, "bbox")
        matches.params.areaRng, matches.params.areaRngLbl = [[0, 1e10]], ["all"]
        matches.params.maxDets = [MAX_DETECTIONS]
        matches.evaluate()
    return matches


def _accumulate(matches: Any, chosen: Sequence[int]) -> ServedAp:
    """Return the AP over matched images, each given as often as it counts.

    Compare a bootstrap over images.
    """
    records = np.array(matches.evalImgs, dtype=object).reshape(len(matches.params.catIds), -1)
    images = list(range(len(chosen)))
    before = matches.evalImgs, matches.params.imgIds, matches._paramsEval.imgIds
    matches.evalImgs = records[:, list(chosen)].ravel().tolist()
    matches.params.imgIds = matches._paramsEval.imgIds = images
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            matches.accumulate()
    finally:
        matches.evalImgs, matches.params.imgIds, matches._paramsEval.imgIds = before
    # (IoU thresholds, recalls, classes, 1, 1); -1 where there is nothing to find
    precision = matches.eval["precision"][..., 0, 0]
    known = precision[precision > -1]
    known50 = precision[0][precision[0] > -1]
    if not known.size:
        return ServedAp(0.0, 0.0, len(chosen))
    return ServedAp(float(known.mean()), float(known50.mean()), len(chosen))
