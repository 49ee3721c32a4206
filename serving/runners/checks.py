"""What every runner refuses, in the same words."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from serving.core.ports import Image
from serving.core.segment import Segment


def check_images(images: Sequence[Image], shape: tuple[int, ...], max_batch: int) -> None:
    """Raises ValueError unless there are 1 to ``max_batch`` uint8 images of ``shape``."""
    if not 1 <= len(images) <= max_batch:
        raise ValueError(f"a batch has 1 to {max_batch} images, not {len(images)}")
    for image in images:
        if image.shape != shape or image.dtype != np.uint8:
            raise ValueError(f"an image is uint8 {shape}, not {image.dtype} {image.shape}")


def check_rows(rows: Sequence[int], size: int) -> None:
    """Raises ValueError unless ``rows`` names at least one row, each of a batch of ``size``."""
    if not rows or not all(0 <= row < size for row in rows):
        raise ValueError(f"rows {list(rows)} of a batch of {size}")


def check_segment(segment: Segment, depth: int, available: Collection[Segment]) -> None:
    """Raises ValueError unless ``segment`` is available and takes a batch of ``depth``."""
    if segment not in available:
        raise ValueError(f"no segment {segment.name} here")
    if depth != segment.start:
        raise ValueError(f"{segment.name} does not take a batch of depth {depth}")
