"""Checks of what every runner refuses, in the same words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np

from serving.core.ports import Image
from serving.core.segment import Segment


class Rows(Protocol):
    """A batch, as far as it must be known before its rows are copied."""

    @property
    def size(self) -> int:
        """Number of rows that are meant."""

    @property
    def depth(self) -> int:
        """Depth of the features."""

    @property
    def features(self) -> bool:
        """True if they are features: neither images nor detections."""


def check_images(images: Sequence[Image], shape: tuple[int, ...], max_batch: int) -> None:
    """Raise ValueError unless there are 1 to ``max_batch`` uint8 images of ``shape``."""
    if not 1 <= len(images) <= max_batch:
        raise ValueError(f"a batch has 1 to {max_batch} images, not {len(images)}")
    for image in images:
        if image.shape != shape or image.dtype != np.uint8:
            raise ValueError(f"an image is uint8 {shape}, not {image.dtype} {image.shape}")


def check_select(batch: Rows, rows: Sequence[int], max_batch: int) -> None:
    """Raise ValueError unless ``rows`` names 1 to ``max_batch`` rows of a batch of features."""
    if not batch.features:
        raise ValueError("rows can be selected of features only")
    if not all(0 <= row < batch.size for row in rows):
        raise ValueError(f"rows {list(rows)} of a batch of {batch.size}")
    _check_size(len(rows), max_batch)


def check_merge(batches: Sequence[Rows], max_batch: int) -> None:
    """Raise ValueError unless these batches can be merged.

    They must be two or more batches of features, all at one depth, of ``max_batch`` rows or fewer
    together.
    """
    if len(batches) <= 1:
        raise ValueError(f"two batches or more can be merged, not {len(batches)}")
    if not all(batch.features for batch in batches):
        raise ValueError("features only can be merged")
    depths = sorted({batch.depth for batch in batches})
    if len(depths) > 1:
        raise ValueError(f"batches of depths {depths} cannot be merged")
    _check_size(sum(batch.size for batch in batches), max_batch)


def _check_size(size: int, max_batch: int) -> None:
    if not 1 <= size <= max_batch:
        raise ValueError(f"a batch has 1 to {max_batch} rows, not {size}")


def check_segment(segment: Segment, depth: int, available: Collection[Segment]) -> None:
    """Raise ValueError unless ``segment`` is available and takes a batch of ``depth``."""
    if segment not in available:
        raise ValueError(f"no segment {segment.name} here")
    if depth != segment.start:
        raise ValueError(f"{segment.name} does not take a batch of depth {depth}")
