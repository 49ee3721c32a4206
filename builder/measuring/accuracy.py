"""Accuracy by exit, through the exported segments on the runtime that serves."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from builder.data import Dataset, ScoredBoxes, resampled_ap
from builder.measuring.images import LoadImage, read_image
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.command_errors import InvalidArgument
from serving.core.ports import SegmentRunner


class OtherClasses(InvalidArgument):
    """Error of a model whose classes are not those of the data set."""


def detect_all(
    runner: SegmentRunner, catalog: Catalog, dataset: Dataset, load_image: LoadImage
) -> dict[int, list[ScoredBoxes]]:
    """Return what every exit finds in every image of ``dataset``: exit -> detections of each image.

    Each image takes the way of a request, from its encoded bytes to boxes in its own pixels. Raises
    OtherClasses, and UnreadableImage for a file that cannot be decoded.
    """
    if dataset.classes != catalog.classes:
        raise OtherClasses(
            f"the model {catalog.name} finds {', '.join(catalog.classes)}, the data set has "
            f"{', '.join(dataset.classes)}"
        )
    found: dict[int, list[ScoredBoxes]] = {entry.depth: [] for entry in catalog.exits}
    for sample in tqdm(dataset.samples, unit="image"):
        image, placement = read_image(sample.path, catalog.input, load_image)
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
                ScoredBoxes(
                    placement.to_original(detections.boxes_xyxy_input),
                    detections.scores,
                    detections.labels.astype(np.int64),
                )
            )
        runner.release(features)
    return found


def rises(
    dataset: Dataset, found: dict[int, list[ScoredBoxes]], num_resamples: int
) -> dict[int, tuple[float, float, float]]:
    """Return by how much each exit's AP lies above that of the first one.

    The three figures are the middle and the ends of the 95 % interval over images drawn with
    replacement, the same ones for both exits.
    """
    aps = {
        depth: resampled_ap(dataset, rows, num_resamples, 0)[:, 0] for depth, rows in found.items()
    }
    first = aps[min(aps)]
    middle, low, high = 50, 2.5, 97.5
    return {
        depth: tuple(np.percentile(of_exit - first, (middle, low, high)).tolist())
        for depth, of_exit in aps.items()
    }
