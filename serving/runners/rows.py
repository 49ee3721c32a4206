"""Rows of batches: where they are copied from, and the detections that a head gives for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, TypeVar

import numpy.typing as npt

from serving.core.request import Detections
from serving.runners.checks import Rows

Batch = TypeVar("Batch", bound=Rows)


def sizes_up_to(sizes: Sequence[int], most: int | None) -> tuple[int, ...]:
    """Return the batch sizes among ``sizes`` up to ``most``; None: all."""
    return tuple(size for size in sizes if most is None or size <= most)


def every_row(batches: Sequence[Batch]) -> list[tuple[Batch, int]]:
    """Return all rows that are meant, of one batch after the other."""
    return [(batch, row) for batch in batches for row in range(batch.size)]


def contiguous_rows(picked: Sequence[tuple[Batch, int]]) -> Iterator[tuple[Batch, int, int, int]]:
    """Yield how to copy the rows in ``picked`` to positions 0, 1, ... with few copies.

    That is ``(batch, row, position, num_rows)`` for each longest stretch that lies as it will lie.
    """

    def shift(item: tuple[int, tuple[Batch, int]]) -> tuple[int, int]:
        position, (batch, row) = item
        return id(batch), row - position

    for _, group in groupby(enumerate(picked), shift):
        stretch = list(group)
        position, (batch, row) = stretch[0]
        yield batch, row, position, len(stretch)


def copied_rows(
    boxes: npt.NDArray[Any],
    scores: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    counts: npt.NDArray[Any],
) -> list[Detections]:
    """Return the detections of a batch's rows, as copies of what a head gave.

    That is ``boxes`` of shape ``(B, K, 4)``, ``scores`` and ``labels`` of ``(B, K)``, and
    ``counts`` of ``(B,)``: how many of each row are copied. There may be fewer counts than rows:
    what is beyond is padding. Raises ValueError for a count of more boxes than there are, or of
    fewer than none.
    """
    if not all(0 <= n <= scores.shape[1] for n in counts):
        raise ValueError(f"a head counts {counts.tolist()} boxes of {scores.shape[1]}")
    return [
        Detections(boxes[row, :n].copy(), scores[row, :n].copy(), labels[row, :n].copy())
        for row, n in enumerate(counts)
    ]
