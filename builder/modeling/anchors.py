"""Anchor boxes: the reference rectangles that predictions are relative to, declared once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from builder.config.detector import DetectorConfig


def level_anchors(
    size: tuple[int, int],
    stride: int,
    scale: float,
    octave_scales: tuple[float, ...],
    aspect_ratios: tuple[float, ...],
    offset: float,
) -> npt.NDArray[np.float32]:
    """Return the anchors of one feature map of ``size`` (height, width).

    Returns (height * width * len(octave_scales) * len(aspect_ratios), 4) float32 xyxy in pixels of
    the input; not clipped to it. Rows go over y, x, octave scale, aspect ratio. Cell (i, j) is
    centred on ((j + offset) * stride, (i + offset) * stride); an aspect ratio is width over height
    and leaves the area unchanged.
    """
    sides = scale * stride * np.asarray(octave_scales)[:, None]  # (octaves, 1)
    roots = np.sqrt(np.asarray(aspect_ratios))[None, :]  # (1, ratios)
    half = np.stack([sides * roots, sides / roots], axis=-1).reshape(-1, 2) / 2  # (anchors, wh)
    height, width = size
    y, x = np.meshgrid(
        (np.arange(height) + offset) * stride, (np.arange(width) + offset) * stride, indexing="ij"
    )
    centres = np.stack([x, y], axis=-1).reshape(-1, 1, 2)  # (cells, 1, xy)
    boxes = np.concatenate([centres - half, centres + half], axis=-1)  # (cells, anchors, xyxy)
    return boxes.reshape(-1, 4).astype(np.float32)


def make_anchors(config: DetectorConfig) -> npt.NDArray[np.float32]:
    """Return all anchors of a detector, (A, 4) float32 xyxy in input pixels, level by level."""
    return np.concatenate(
        [
            level_anchors(
                size,
                stride,
                config.anchor_scale,
                config.octave_scales,
                config.aspect_ratios,
                config.anchor_offset,
            )
            for size, stride in zip(config.feature_sizes, config.strides, strict=True)
        ]
    )


def anchors_per_level(config: DetectorConfig) -> tuple[int, ...]:
    """Return how many rows of ``make_anchors`` belong to each level."""
    return tuple(
        height * width * config.anchors_per_location for height, width in config.feature_sizes
    )
