"""Accuracy by exit, through the exported segments on the runtime that serves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from builder.data import AveragePrecision, Dataset, Detections, average_precision
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.letterbox import Letterbox
from serving.core.ports import Image, SegmentRunner

LoadImage = Callable[[bytes, int, int], tuple[Image, Letterbox]]
"""``ServingTools.load_image``."""


def evaluate(
    runner: SegmentRunner, catalog: Catalog, dataset: Dataset, load_image: LoadImage
) -> dict[int, AveragePrecision]:
    """COCO metrics of every exit: each image takes the way of a request, from its encoded bytes to
    boxes in its own pixels. Raises ValueError if the data set has other classes."""
    if dataset.classes != catalog.classes:
        raise ValueError(f"the model finds {catalog.classes}, the data set has {dataset.classes}")
    found: dict[int, list[Detections]] = {entry.depth: [] for entry in catalog.exits}
    for sample in tqdm(dataset.samples, unit="image"):
        image, placement = load_image(
            sample.path.read_bytes(), catalog.input_width, catalog.input_height
        )
        images = runner.load([image])
        features = runner.run(segments.STEM, images)
        runner.release(images)
        for depth, of_exit in found.items():
            deeper = runner.run(segments.stack(depth), features)
            runner.release(features)
            features = deeper
            boxes = runner.run(segments.head(depth), features)
            (detections,) = runner.detections(boxes)
            runner.release(boxes)
            of_exit.append(
                Detections(
                    placement.to_original(detections.boxes_xyxy_input),
                    detections.scores,
                    detections.labels.astype(np.int64),
                )
            )
        runner.release(features)
    return {depth: average_precision(dataset, rows) for depth, rows in found.items()}
