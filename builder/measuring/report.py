"""Facts about a model's exits, gathered for ``builder.measuring.report_page``."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from builder.data import (
    AveragePrecision,
    Dataset,
    Sample,
    ScoredBoxes,
    average_precision,
    count_objects,
)
from builder.measuring.accuracy import detect_all
from builder.measuring.images import LoadImage
from builder.measuring.onnx_cost import exit_macs
from serving.artifacts.model_folders import read_catalog
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.latency import LatencyProfile
from serving.core.ports import SegmentRunner

MAX_SIDE = 480
"""Longest side of an image on the page, in pixels."""

JPEG_QUALITY = 80


@dataclass(frozen=True, slots=True)
class ExitSummary:
    """One exit's accuracy, cost and latency."""

    depth: int
    accuracy: AveragePrecision
    macs: int
    """Multiply-accumulates per image, from the image out of this exit."""
    p50_ms: float | None
    """Milliseconds of one image on the way out of this exit; None where nothing was measured.

    They are medians of the unit segments, added up.
    """


@dataclass(frozen=True, slots=True, eq=False)
class ReportImage:
    """One image of the report, what is on it, and what each exit finds."""

    name: str
    jpeg: bytes
    size: tuple[int, int]
    """Size of the image that boxes are on, (height, width) in pixels; ``jpeg`` may be smaller."""
    boxes_xyxy: npt.NDArray[np.float32]
    found: Mapping[int, ScoredBoxes]


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One model's figures on one data set."""

    catalog: Catalog
    runtime: str
    profile: LatencyProfile | None
    exits: tuple[ExitSummary, ...]
    num_of_class: Mapping[str, int]
    """Number of objects of each class in the data set."""
    num_of_size: Mapping[str, int]
    images: tuple[ReportImage, ...]


def gather(
    runner: SegmentRunner,
    runtime: str,
    folder: Path,
    dataset: Dataset,
    load_image: LoadImage,
    num_images: int,
) -> ModelSummary:
    """Run every exit of the model in ``folder`` over a data set, and look up the rest of its facts.

    The runner is one of ``runtime``. Raises ValueError if the data set has other classes, OSError
    without the segments.
    """
    catalog = read_catalog(folder)
    found = detect_all(runner, catalog, dataset, load_image)
    profile = catalog.profiles.get(runtime)
    exits = tuple(
        ExitSummary(depth, average_precision(dataset, rows), macs, _path_ms(profile, depth))
        for (depth, rows), macs in zip(found.items(), exit_macs(catalog, folder), strict=True)
    )
    images = tuple(
        _report_image(dataset.samples[index], {depth: rows[index] for depth, rows in found.items()})
        for index in spread(len(dataset.samples), num_images)
    )
    return ModelSummary(catalog, runner.runtime, profile, exits, *count_objects(dataset), images)


def spread(count: int, wanted: int) -> Sequence[int]:
    """Return ``wanted`` of ``count`` positions, evenly spaced; all, if there are fewer.

    Even spacing means that nobody chose them.
    """
    wanted = min(count, wanted)
    return [(2 * index + 1) * count // (2 * wanted) for index in range(wanted)]


def _path_ms(profile: LatencyProfile | None, depth: int) -> float | None:
    keys = [(segment, 1) for segment in segments.unit_path(depth)]
    if profile is None or not all(key in profile.table for key in keys):
        return None
    return 1e3 * sum(profile.table[key].p50_s for key in keys)


def _report_image(sample: Sample, found: Mapping[int, ScoredBoxes]) -> ReportImage:
    image, buffer = Image.fromarray(sample.image), io.BytesIO()
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return ReportImage(sample.image_id, buffer.getvalue(), sample.size, sample.boxes_xyxy, found)
