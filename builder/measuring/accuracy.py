"""Accuracy by operating point, through the exported segments on the runtime that serves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from builder.data import AveragePrecision, Dataset, ScoredBoxes, average_precision, resampled_ap
from builder.data.class_names import in_names_of, relabelled
from builder.measuring.images import LoadImage, read_image
from serving.core import segment as segments
from serving.core.family import Family
from serving.core.ladder import PointId
from serving.core.letterbox import Letterbox
from serving.core.ports import SegmentRunner
from serving.core.request import Detections

RESAMPLING_SEED = 0
"""Seed of the images that are drawn for intervals: the same ones for every point."""

INTERVAL = (2.5, 97.5)
"""Percentiles between which 95 % of the resamples lie."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What the operating points of a family find in every image of a data set."""

    family: Family
    dataset: Dataset
    """The data set, its classes called as the family's."""
    placements: tuple[Letterbox, ...]
    """Where each image lies in the common frame of the family."""
    found: Mapping[PointId, tuple[Detections, ...]]
    """Boxes by point and image, in pixels of the common frame."""

    def merged(self, first: PointId, then: PointId) -> tuple[Detections, ...] | None:
        """Return what clients get who have the answer of ``first`` in hand when ``then`` answers.

        None where the two are not merged.
        """
        pairs = zip(self.found[first], self.found[then], strict=True)
        rows = [self.family.merge((first[0], one), (then[0], other)) for one, other in pairs]
        return None if None in rows else tuple(row for row in rows if row is not None)

    def scored(self, rows: tuple[Detections, ...]) -> list[ScoredBoxes]:
        """Return boxes of each image in its own pixels, by the classes of the data set."""
        return [
            relabelled(
                ScoredBoxes(
                    placement.to_original(row.boxes_xyxy_input),
                    row.scores,
                    row.labels.astype(np.int64),
                ),
                self.family.classes,
                self.dataset,
            )
            for placement, row in zip(self.placements, rows, strict=True)
        ]


def detect_all(
    runner: SegmentRunner, family: Family, dataset: Dataset, load_image: LoadImage
) -> Answers:
    """Return what every exit of every input size finds in every image of ``dataset``.

    ``runner`` is one over all of ``family``. Each image takes the way of a request, from its
    encoded bytes to boxes. Raises DatasetError for a class that the family does not know, and
    UnreadableImage for a file that cannot be decoded.
    """
    dataset = in_names_of(family.classes, dataset)
    found: dict[PointId, list[Detections]] = {}
    placements = []
    for sample in tqdm(dataset.samples, unit="image"):
        image, placement = read_image(sample.path, family.input, load_image, family.scaled_inputs)
        placements.append(placement)
        images = runner.load([image])
        for model, catalog in enumerate(family.catalogs):
            boxes = every_exit(runner, images, model, catalog.num_exits)
            for depth, batch in enumerate(boxes, start=1):
                found.setdefault((model, depth), []).extend(runner.detections(batch))
                runner.release(batch)
        runner.release(images)
    return Answers(
        family,
        dataset,
        tuple(placements),
        {point: tuple(rows) for point, rows in found.items()},
    )


def every_exit(runner: SegmentRunner, images: Any, model: int, num_exits: int) -> Iterator[Any]:
    """Yield the boxes of each exit of a model: through unit segments, where the runner has them."""
    if segments.STEM.of(model) not in runner.segments:
        for fused in segments.fused_segments(num_exits):
            yield runner.run(fused.of(model), images)
        return
    features = runner.run(segments.STEM.of(model), images)
    for depth in range(1, num_exits + 1):
        deeper = runner.run(segments.stack(depth).of(model), features)
        runner.release(features)
        features = deeper
        yield runner.run(segments.head(depth).of(model), features)
    runner.release(features)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracy of an operating point, or of two whose answers are merged, on a data set."""

    average: AveragePrecision
    resamples: npt.NDArray[np.float64]
    """AP and AP50 over images drawn with replacement, (resamples, 2); none, if not asked for."""

    @property
    def ap_interval(self) -> tuple[float, float] | None:
        """Ends of the 95 % interval of AP; None without resamples."""
        return _interval(self.resamples[:, 0])

    @property
    def ap50_interval(self) -> tuple[float, float] | None:
        """Ends of the 95 % interval of AP50; None without resamples."""
        return _interval(self.resamples[:, 1])

    def above(self, other: Accuracy) -> tuple[float, tuple[float, float] | None]:
        """Return by how much the AP lies above that of ``other``, and the 95 % interval of that.

        The images of each resample are the same for both.
        """
        difference = self.resamples[:, 0] - other.resamples[:, 0]
        return self.average.ap - other.average.ap, _interval(difference)


def accuracy_of(answers: Answers, rows: tuple[Detections, ...], num_resamples: int = 0) -> Accuracy:
    """Return the accuracy of ``rows``, the boxes of each image in pixels of the common frame."""
    scored = answers.scored(rows)
    average = average_precision(answers.dataset, scored)
    if not num_resamples:
        return Accuracy(average, np.zeros((0, 2)))
    resamples = resampled_ap(answers.dataset, scored, num_resamples, RESAMPLING_SEED)
    return Accuracy(average, resamples)


def _interval(values: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    if not len(values):
        return None
    low, high = np.percentile(values, INTERVAL).tolist()
    return low, high
