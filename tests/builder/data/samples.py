"""Samples made of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from builder.data.dataset import Sample


def make_sample(
    path: Path,
    image: np.ndarray,
    boxes: Sequence[Sequence[float]] = (),
    labels: Sequence[int] = (),
    crowds: Sequence[Sequence[float]] = (),
) -> Sample:
    """Write ``image`` (PNG: without loss) and say that there are ``boxes`` on it; crowds are of
    class 0."""
    Image.fromarray(image).save(path)
    corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Sample(
        path.stem,
        path,
        image.shape[:2],
        corners,
        np.array(labels, dtype=np.int64),
        (corners[:, 2:] - corners[:, :2]).prod(axis=1),
        np.array(crowds, dtype=np.float32).reshape(-1, 4),
        np.zeros(len(crowds), dtype=np.int64),
    )
