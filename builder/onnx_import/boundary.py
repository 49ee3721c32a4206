"""What crosses a boundary between two segments."""

from __future__ import annotations

from dataclasses import dataclass

PADDED_ROWS = 300
"""Number of rows that an output of a varying number of rows is brought to."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a graph at a boundary."""

    shape: tuple[int, ...]
    """Shape for one image, without the axis of images."""
    element_type: int
    """Type, by ONNX's number."""
    has_batch: bool = True
    """Whether the graph gives it with an axis of images; without, rows of all images follow each
    other."""
    rows_vary: bool = False
    """Whether it has another number of rows for each image, of which ``PADDED_ROWS`` are kept."""
