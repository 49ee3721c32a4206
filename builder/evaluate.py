"""Accuracy by exit, through the exported segments on the runtime that serves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from builder.data import Dataset, Detections, resampled_ap
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.letterbox import Letterbox
from serving.core.ports import Image, SegmentRunner

LoadImage = Callable[[bytes, int, int], tuple[Image, Letterbox]]
"""``ServingTools.load_image``."""


def detect_all(
    runner: SegmentRunner, catalog: Catalog, dataset: Dataset, load_image: LoadImage
) -> dict[int, list[Detections]]:
    """What every exit finds in every image: each takes the way of a request, from its encoded bytes
    to boxes in its own pixels. Raises ValueError if the data set has other classes."""
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
    return found


def rises(
    dataset: Dataset, found: dict[int, list[Detections]], num_resamples: int
) -> dict[int, tuple[float, float, float]]:
    """By how much each exit's AP lies above that of the first one: the middle and the ends of the
    95 % interval over images drawn with replacement, the same ones for both exits."""
    aps = {depth: resampled_ap(dataset, rows, num_resamples, 0) for depth, rows in found.items()}
    first = aps[min(aps)]
    middle, low, high = 50, 2.5, 97.5
    return {
        depth: tuple(np.percentile(of_exit - first, (middle, low, high)).tolist())
        for depth, of_exit in aps.items()
    }
