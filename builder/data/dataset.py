"""What every data set looks like to the rest of the builder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One annotated image."""

    image_id: str
    path: Path
    """The encoded image."""
    image: npt.NDArray[np.uint8]
    """(height, width, 3) RGB."""
    boxes_xyxy: npt.NDArray[np.float32]
    """(boxes, 4) in pixels of the image, none degenerate."""
    labels: npt.NDArray[np.int64]
    """(boxes,) indices into the data set's classes."""


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A split of a data set, decoded and held in memory."""

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    dropped: tuple[str, ...] = ()
    """One line for each annotation that was not usable."""


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Decode to (height, width, 3) RGB."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def make_sample(
    image_id: str, path: Path, objects: Iterable[tuple[Sequence[float], int]]
) -> tuple[Sample, list[str]]:
    """A sample from an encoded image and (xyxy, label) pairs: boxes are clipped to the image; those
    left without area are dropped and described in the second result."""
    image = read_image(path)
    height, width = image.shape[:2]
    kept, labels, dropped = [], [], []
    for corners, label in objects:
        x1, y1, x2, y2 = np.clip(corners, 0, (width, height, width, height)).tolist()
        if x1 < x2 and y1 < y2:
            kept.append((x1, y1, x2, y2))
            labels.append(label)
        else:
            dropped.append(f"{image_id}: box {tuple(corners)} of class {label} has no area")
    boxes = np.array(kept, dtype=np.float32).reshape(-1, 4)
    return Sample(image_id, path, image, boxes, np.array(labels, dtype=np.int64)), dropped


def collect(classes: tuple[str, ...], parts: Iterable[tuple[Sample, list[str]]]) -> Dataset:
    """A data set from the results of ``make_sample``."""
    samples, dropped = [], []
    for sample, lines in parts:
        samples.append(sample)
        dropped.extend(lines)
    return Dataset(classes, tuple(samples), tuple(dropped))
