"""Augmentation of samples to training inputs: scale jitter, crop or pad, flips, grey levels.

Grey levels change in brightness and contrast.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from builder.config.recipe import TrainConfig
from builder.data.dataset import Sample
from serving.core.letterbox import PAD_VALUE, Letterbox, fit

MIN_VISIBLE = 0.3
"""Share of its area that a box must keep through the crop."""


_NO_BOXES: npt.NDArray[np.float32] = np.zeros((0, 4), dtype=np.float32)
_NO_LABELS: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A sample placed in the model's input: pixels and boxes."""

    image: npt.NDArray[np.uint8]
    """Pixels of the model's input, (height, width, 3) uint8 RGB."""
    boxes_xyxy: npt.NDArray[np.float32]
    """Boxes of the objects, (boxes, 4) xyxy in input pixels."""
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    """Certainty of each label, (boxes,) from 0 to 1."""
    ignored_xyxy: npt.NDArray[np.float32] = field(default_factory=lambda: _NO_BOXES)
    """Regions where finding one of ``ignored_labels`` is neither right nor wrong.

    They are (regions, 4), in input pixels.
    """
    ignored_labels: npt.NDArray[np.int64] = field(default_factory=lambda: _NO_LABELS)
    unlabelled: npt.NDArray[np.int64] = field(default_factory=lambda: _NO_LABELS)
    """Classes about whose objects in the image nothing is known."""


Placement = Callable[[int, int, int, int], Letterbox]
"""Function that places an image in the input: one of ``serving.core.letterbox.PLACEMENTS``."""


def letterbox(sample: Sample, input_size: tuple[int, int], placement: Placement = fit) -> Example:
    """Place a sample in the input, of (height, width) pixels, as the server does."""
    box = _placement_of(sample, input_size, placement)
    return _put(
        sample, input_size, (box.resized_width, box.resized_height), np.array([box.left, box.top])
    )


def place(
    sample: Sample,
    input_size: tuple[int, int],
    zoom: float | tuple[float, float],
    position: tuple[float, float],
    placement: Placement = fit,
) -> Example:
    """Scale a sample to ``zoom`` times the size that the server gives it, and put it in the input.

    ``input_size`` is (height, width) in pixels. ``zoom`` is for both axes, or (x, y). ``position``
    (x, y) in 0..1 says where: which part is cut away on an axis where the image is larger than the
    input, how the padding is split on one where it is smaller. Boxes are clipped; those that lose
    more than 1 - MIN_VISIBLE of their area are dropped.
    """
    input_height, input_width = input_size
    box = _placement_of(sample, input_size, placement)
    zooms = zoom if isinstance(zoom, tuple) else (zoom, zoom)
    resized = (
        max(1, round(box.resized_width * zooms[0])),
        max(1, round(box.resized_height * zooms[1])),
    )
    room = np.array([input_width - resized[0], input_height - resized[1]])
    return _put(sample, input_size, resized, np.rint(room * np.array(position)).astype(int))


def _placement_of(sample: Sample, input_size: tuple[int, int], placement: Placement) -> Letterbox:
    (input_height, input_width), (height, width) = input_size, sample.size
    return placement(width, height, input_width, input_height)


def _put(
    sample: Sample,
    input_size: tuple[int, int],
    resized: tuple[int, int],
    offset: npt.NDArray[np.int64],
) -> Example:
    """Scale a sample to ``resized``, (width, height) in pixels, and put it in the input.

    ``offset`` (x, y) is where its corner comes to lie, negative where it is cut.
    """
    input_height, input_width = input_size
    height, width = sample.size
    picture = Image.fromarray(sample.image).resize(resized, Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (input_width, input_height), (PAD_VALUE,) * 3)
    canvas.paste(picture, (int(offset[0]), int(offset[1])))

    scale = np.array([resized[0] / width, resized[1] / height], dtype=np.float32)
    limit = np.array([input_width, input_height], dtype=np.float32)

    def seen(
        boxes_xyxy: npt.NDArray[np.float32],
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        """Return the boxes that are still in the input, clipped, and which of all those are."""
        corners = boxes_xyxy.reshape(-1, 2, 2) * scale + offset.astype(np.float32)
        clipped = np.clip(corners, 0, limit)
        area, visible = ((c[:, 1] - c[:, 0]).prod(axis=1) for c in (corners, clipped))
        keep = visible > MIN_VISIBLE * area
        return clipped.reshape(-1, 4).astype(np.float32)[keep], keep

    boxes, keep = seen(sample.boxes_xyxy)
    ignored, keep_ignored = seen(sample.crowds_xyxy)
    scores = np.ones(len(keep), np.float32) if sample.scores is None else sample.scores
    return Example(
        np.asarray(canvas),
        boxes,
        sample.labels[keep],
        scores[keep],
        ignored,
        sample.crowd_labels[keep_ignored],
        sample.unlabelled,
    )


def flip(example: Example, axis: int) -> Example:
    """Mirror an example left to right (``axis`` 1) or top to bottom (0)."""
    size = example.image.shape[axis]
    low = 1 - axis  # column of x1 or y1

    def mirrored(boxes_xyxy: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        boxes = boxes_xyxy.copy()
        boxes[:, low] = size - boxes_xyxy[:, low + 2]
        boxes[:, low + 2] = size - boxes_xyxy[:, low]
        return boxes

    return replace(
        example,
        image=np.flip(example.image, axis),
        boxes_xyxy=mirrored(example.boxes_xyxy),
        ignored_xyxy=mirrored(example.ignored_xyxy),
    )


def adjust(
    image: npt.NDArray[np.uint8], brightness: float, contrast: float
) -> npt.NDArray[np.uint8]:
    """Scale grey levels about 128 by ``contrast`` and shift them by ``brightness`` * 255.

    They are those of an image of any shape, and stay within 0..255.
    """
    levels = (np.arange(256) - 128) * contrast + 128 + brightness * 255
    table: npt.NDArray[np.uint8] = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return table[image]


def augment(
    sample: Sample,
    input_size: tuple[int, int],
    config: TrainConfig,
    random: np.random.Generator,
    placement: Placement = fit,
) -> Example:
    """Return one random view of a sample; a function of its arguments and the generator's state."""
    zoom = random.uniform(*config.scale_jitter)
    # Drawn only where it counts, so that other recipes keep the views that they had.
    jitter = random.uniform(-1, 1) * config.aspect_jitter if config.aspect_jitter else 0.0
    zooms = (zoom * math.exp(jitter / 2), zoom * math.exp(-jitter / 2))
    example = place(sample, input_size, zooms, (random.random(), random.random()), placement)
    for axis, enabled in ((1, config.horizontal_flip), (0, config.vertical_flip)):
        if random.random() < 0.5 and enabled:
            example = flip(example, axis)
    brightness = random.uniform(-1, 1) * config.brightness_jitter
    contrast = 1 + random.uniform(-1, 1) * config.contrast_jitter
    image = adjust(np.ascontiguousarray(example.image), brightness, contrast)
    return replace(example, image=image)
