"""Augmentation of samples to training inputs: scale jitter, crop or pad, flips, grey levels.

Grey levels change in brightness and contrast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from builder.config.named import TrainConfig
from builder.data.dataset import Sample
from serving.core.letterbox import PAD_VALUE, fit

MIN_VISIBLE = 0.3
"""Share of its area that a box must keep through the crop."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A sample placed in the model's input: pixels and boxes."""

    image: npt.NDArray[np.uint8]
    """Pixels of the model's input, (height, width, 3) uint8 RGB."""
    boxes_xyxy: npt.NDArray[np.float32]
    """Boxes of the objects, (boxes, 4) xyxy in input pixels."""
    labels: npt.NDArray[np.int64]


def letterbox(sample: Sample, input_size: tuple[int, int]) -> Example:
    """Place a sample in the input as the server does."""
    return place(sample, input_size, 1.0, (0.0, 0.0))


def place(
    sample: Sample, input_size: tuple[int, int], zoom: float, position: tuple[float, float]
) -> Example:
    """Scale a sample to ``zoom`` times its letterboxed size and put it in the input.

    ``position`` (x, y) in 0..1 says where: which part is cut away on an axis where the picture is
    larger than the input, how the padding is split on one where it is smaller. Boxes are clipped;
    those that lose more than 1 - MIN_VISIBLE of their area are dropped.
    """
    input_height, input_width = input_size
    height, width = sample.size
    box = fit(width, height, input_width, input_height)
    resized = (max(1, round(box.resized_width * zoom)), max(1, round(box.resized_height * zoom)))
    room = np.array([input_width - resized[0], input_height - resized[1]])
    offset = np.rint(room * np.array(position)).astype(int)  # negative where it is cut

    picture = Image.fromarray(sample.image).resize(resized, Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (input_width, input_height), (PAD_VALUE,) * 3)
    canvas.paste(picture, (int(offset[0]), int(offset[1])))

    scale = np.array([resized[0] / width, resized[1] / height], dtype=np.float32)
    corners = sample.boxes_xyxy.reshape(-1, 2, 2) * scale + offset.astype(np.float32)
    clipped = np.clip(corners, 0, np.array([input_width, input_height], dtype=np.float32))
    area, visible = ((c[:, 1] - c[:, 0]).prod(axis=1) for c in (corners, clipped))
    keep = visible > MIN_VISIBLE * area
    boxes = clipped.reshape(-1, 4).astype(np.float32)
    return Example(np.asarray(canvas), boxes[keep], sample.labels[keep])


def flip(example: Example, axis: int) -> Example:
    """Mirror an example left to right (``axis`` 1) or top to bottom (0)."""
    size = example.image.shape[axis]
    low = 1 - axis  # column of x1 or y1
    boxes = example.boxes_xyxy.copy()
    boxes[:, low] = size - example.boxes_xyxy[:, low + 2]
    boxes[:, low + 2] = size - example.boxes_xyxy[:, low]
    return Example(np.flip(example.image, axis), boxes, example.labels)


def adjust(
    image: npt.NDArray[np.uint8], brightness: float, contrast: float
) -> npt.NDArray[np.uint8]:
    """Scale grey levels about 128 by ``contrast`` and shift them by ``brightness`` * 255."""
    levels = (np.arange(256) - 128) * contrast + 128 + brightness * 255
    table: npt.NDArray[np.uint8] = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return table[image]


def augment(
    sample: Sample, input_size: tuple[int, int], config: TrainConfig, random: np.random.Generator
) -> Example:
    """Return one random view of a sample; a function of its arguments and the generator's state."""
    zoom = random.uniform(*config.scale_jitter)
    example = place(sample, input_size, zoom, (random.random(), random.random()))
    for axis, enabled in ((1, config.horizontal_flip), (0, config.vertical_flip)):
        if random.random() < 0.5 and enabled:
            example = flip(example, axis)
    brightness = random.uniform(-1, 1) * config.brightness_jitter
    contrast = 1 + random.uniform(-1, 1) * config.contrast_jitter
    image = adjust(np.ascontiguousarray(example.image), brightness, contrast)
    return Example(image, example.boxes_xyxy, example.labels)
