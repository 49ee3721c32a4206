"""Accuracy of images that are looked at in tiles, against that of each as a whole."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from builder.data import AveragePrecision, Dataset, ScoredBoxes, average_precision
from builder.data.class_names import in_names_of, relabelled
from builder.data.coco import SIZES
from builder.measuring.accuracy import every_exit
from builder.measuring.images import LoadImage, UnreadableImage
from serving.core.family import Family
from serving.core.ladder import PointId
from serving.core.ports import SegmentRunner
from serving.core.tiling import ImageDetections, Region, grid, merge_tiles
from serving.imaging.pixels import open_stored, orientation, to_rgb, upright

WHOLE, TILES, BOTH = WAYS = ("whole", "tiles", "tiles and whole")
"""Ways to look at an image."""


@dataclass(frozen=True, slots=True)
class TileGrid:
    """A grid of tiles that share ``overlap`` of their sides."""

    rows: int
    columns: int
    overlap: float


def tile_accuracies(
    runner: SegmentRunner,
    family: Family,
    dataset: Dataset,
    load_image: LoadImage,
    tiles: TileGrid,
) -> Mapping[tuple[PointId, str], AveragePrecision]:
    """Return the accuracy of every operating point for each of ``WAYS``.

    Tiles are cut, and their boxes merged, as the server does it. Raises DatasetError for a class
    that the family does not know, and UnreadableImage.
    """
    dataset = in_names_of(family.classes, dataset)
    found: dict[tuple[PointId, str], list[ScoredBoxes]] = {}
    for sample in tqdm(dataset.samples, unit="image"):
        try:
            with open_stored(sample.path.read_bytes()) as stored:
                turned = orientation(stored)
                image = to_rgb(stored)
                image.load()
                image = upright(image, turned)
        except (OSError, ValueError) as error:
            raise UnreadableImage(f"{sample.path} cannot be used: {error}") from error
        width, height = image.size
        whole = Region(0, 0, width, height)
        regions = [*grid(width, height, tiles.rows, tiles.columns, tiles.overlap), whole]
        by_point: dict[PointId, list[tuple[Region, ImageDetections]]] = {}
        for region in regions:
            buffer = io.BytesIO()
            image.crop(region).save(buffer, "PNG", compress_level=1)
            for point, boxes in _points(runner, family, load_image, buffer.getvalue(), region):
                by_point.setdefault(point, []).append((region, boxes))
        for point, parts in by_point.items():
            most = len(parts) * family.catalogs[point[0]].max_detections
            for way, chosen in ((TILES, parts[:-1]), (BOTH, parts)):
                merged = merge_tiles(chosen, width, height, most)
                found.setdefault((point, way), []).append(_scored(merged, family, dataset))
            found.setdefault((point, WHOLE), []).append(_scored(parts[-1][1], family, dataset))
    return {key: average_precision(dataset, rows) for key, rows in found.items()}


def _points(
    runner: SegmentRunner, family: Family, load_image: LoadImage, data: bytes, region: Region
) -> Iterator[tuple[PointId, ImageDetections]]:
    """Yield what each operating point finds in a region, in pixels of the image that it is of."""
    pixels, placement = load_image(data, family.input, family.scaled_inputs)
    offset = np.array([region.x1, region.y1] * 2, np.float32)
    images = runner.load([pixels])
    for model, catalog in enumerate(family.catalogs):
        for depth, batch in enumerate(every_exit(runner, images, model, catalog.num_exits), 1):
            (boxes,) = runner.detections(batch)
            runner.release(batch)
            original = placement.to_original(boxes.boxes_xyxy_input) + offset
            yield (model, depth), ImageDetections(original, boxes.scores, boxes.labels)
    runner.release(images)


def _scored(found: ImageDetections, family: Family, dataset: Dataset) -> ScoredBoxes:
    scored = ScoredBoxes(found.boxes_xyxy, found.scores, found.labels.astype(np.int64))
    return relabelled(scored, family.classes, dataset)


def table(
    family: Family, accuracies: Mapping[tuple[PointId, str], AveragePrecision]
) -> Sequence[str]:
    """Return lines of text: the figures of each operating point, way by way."""
    label = family.ladder.label
    width = max(len(label(point)) for point, _ in accuracies)
    sizes = "".join(f"{name:>8}" for name in SIZES)
    lines = [f"{'point':{width}}  {'looked at':16}      AP    AP50{sizes}"]
    for (point, way), average in sorted(
        accuracies.items(), key=lambda item: (item[0][0], WAYS.index(item[0][1]))
    ):
        by_size = "".join(f"{average.ap_by_size[name]:8.4f}" for name in SIZES)
        lines.append(
            f"{label(point):{width}}  {way:16}  {average.ap:.4f}  {average.ap50:.4f}{by_size}"
        )
    return lines
