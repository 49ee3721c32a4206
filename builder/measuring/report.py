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
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.family import Family
from serving.core.latency_profile import LatencyProfile
from serving.core.model_entry import ModelEntry
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

    They are medians of the unit segments, added up, or of the fused one, where there is no other.
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

    name: str
    """Name of the model; of several input sizes, also that of the size."""
    catalog: Catalog
    runtime: str
    profile: LatencyProfile | None
    exits: tuple[ExitSummary, ...]
    num_of_class: Mapping[str, int]
    """Number of objects of each class in the data set."""
    num_of_size: Mapping[str, int]
    classes: tuple[str, ...]
    """Classes of the data set, which labels of boxes count in."""
    images: tuple[ReportImage, ...]


def gather(
    runner: SegmentRunner,
    runtime: str,
    folder: Path,
    entry: ModelEntry,
    dataset: Dataset,
    load_image: LoadImage,
    num_images: int,
) -> list[ModelSummary]:
    """Run every exit of the model in ``folder`` over a data set, and look up the rest of its facts.

    Each input size of ``entry`` has a summary of its own. The runner is one of ``runtime`` over all
    of them. Raises ValueError if the data set has classes that the model does not know, OSError
    without the segments.
    """
    answers = detect_all(runner, Family((entry,)), dataset, load_image)
    dataset, summaries = answers.dataset, []
    for model, catalog in enumerate(entry.catalogs):
        found = {
            depth: answers.scored(rows)
            for (other, depth), rows in answers.found.items()
            if other == model
        }
        profile = catalog.profiles.get(runtime)
        exits = tuple(
            ExitSummary(depth, average_precision(dataset, rows), macs, _path_ms(profile, depth))
            for (depth, rows), macs in zip(found.items(), exit_macs(catalog, folder), strict=True)
        )
        images = tuple(
            _report_image(
                dataset.samples[index], {depth: rows[index] for depth, rows in found.items()}
            )
            for index in evenly_spaced(len(dataset.samples), num_images)
        )
        name = f"{catalog.name} {catalog.size}" if catalog.one_of_several else catalog.name
        counts = count_objects(dataset)
        summaries.append(
            ModelSummary(
                name, catalog, runner.runtime, profile, exits, *counts, dataset.classes, images
            )
        )
    return summaries


def evenly_spaced(count: int, wanted: int) -> Sequence[int]:
    """Return ``wanted`` of ``count`` positions, evenly spaced; all, if there are fewer.

    Even spacing means that nobody chose them.
    """
    wanted = min(count, wanted)
    return [(2 * index + 1) * count // (2 * wanted) for index in range(wanted)]


def _path_ms(profile: LatencyProfile | None, depth: int) -> float | None:
    if profile is None:
        return None
    for path in (segments.unit_path(depth), (segments.fused_exit(depth),)):
        keys = [(segment, 1) for segment in path]
        if all(key in profile.table for key in keys):
            return 1e3 * sum(profile.table[key].p50_s for key in keys)
    return None


def _report_image(sample: Sample, found: Mapping[int, ScoredBoxes]) -> ReportImage:
    image, buffer = Image.fromarray(sample.image), io.BytesIO()
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return ReportImage(sample.image_id, buffer.getvalue(), sample.size, sample.boxes_xyxy, found)
