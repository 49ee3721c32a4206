"""Pictures in tiles, for objects that are small in them: where they are, and one answer of all.

A tile shows small objects as large as the detector likes them. What lies on a seam is seen by two
tiles or by four. Where they share all of it, it is found twice, and the better box is kept as for
any two boxes of one object (see ``merging``). Where none has all of it, each finds the part that it
sees. Such a box ends at an edge of its tile that is not one of the picture's:

* It is left out if a whole box of its class covers most of it.
* Parts of one class that face each other over a seam, and agree along it, are one object: the
  smallest box around them, with the best score of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from serving.core.merging import suppress

IOU_THRESHOLD = 0.5
"""Overlap above which of two boxes of one class the better one is kept."""
MAX_COVERED = 0.6
"""Share of a cut box above which a whole one that covers it is taken for the same object."""
MIN_AGREEMENT = 0.5
"""Overlap of two cut boxes along their seam, as a share of what both span, to be one object."""
EDGE_SHARE = 0.01
"""Share of a tile's side from its edge within which a box ends at it: boxes are not exact."""


class Region(NamedTuple):
    """A part of a picture, in its pixels: from x1, y1 up to x2, y2, which are not in it."""

    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.x2 - self.x1

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.y2 - self.y1

    @property
    def num_pixels(self) -> int:
        """Number of pixels in it."""
        return self.width * self.height


class ImageDetections(NamedTuple):
    """Boxes of one picture, or of a part of it, in the picture's pixels, best first."""

    boxes_xyxy: npt.NDArray[np.float32]  # (N, 4)
    scores: npt.NDArray[np.float32]  # (N,)
    labels: npt.NDArray[np.int32]  # (N,)

    def at(self, rows: Any) -> ImageDetections:
        """Return these rows of it: indices, a mask or a slice."""
        return ImageDetections(self.boxes_xyxy[rows], self.scores[rows], self.labels[rows])

    def beside(self, *others: ImageDetections) -> ImageDetections:
        """Return all boxes of this and of others, in their order."""
        every = (self, *others)
        return ImageDetections(
            np.concatenate([found.boxes_xyxy for found in every]),
            np.concatenate([found.scores for found in every]),
            np.concatenate([found.labels for found in every]),
        )


def grid(width: int, height: int, rows: int, columns: int, overlap: float) -> list[Region]:
    """Return the tiles of a picture, row by row, all as large to the pixel.

    Neighbours share the part ``overlap`` of a tile's side, in 0 .. 1 without 1.
    """
    across, down = _cells(width, columns, overlap), _cells(height, rows, overlap)
    return [Region(x1, y1, x2, y2) for y1, y2 in down for x1, x2 in across]


def _cells(length: int, count: int, overlap: float) -> list[tuple[int, int]]:
    side = length / (count - (count - 1) * overlap)
    starts = [index * (1.0 - overlap) * side for index in range(count)]
    return [(round(start), min(length, round(start + side))) for start in starts]


def merge_tiles(
    parts: Sequence[tuple[Region, ImageDetections]], width: int, height: int, max_detections: int
) -> ImageDetections:
    """Return one answer of those of a picture's tiles, best first: ``max_detections`` at most.

    A part may be the whole picture.
    """
    first, *others = [found for _, found in parts]
    every = first.beside(*others)
    cut = np.concatenate([_cut(region, found, width, height) for region, found in parts])
    is_cut = cut.any(axis=1)
    whole, fragments = _best(every.at(~is_cut)), every.at(is_cut)
    left = ~_covered(fragments, whole)
    joined = _joined(fragments.at(left), cut[is_cut][left])
    return _best(whole.beside(joined)).at(slice(max_detections))


def _cut(region: Region, found: ImageDetections, width: int, height: int) -> npt.NDArray[np.bool_]:
    """Return which boxes end at which edges of the tile that are inside the picture.

    ``(N, 4)``: left, top, right, bottom.
    """
    reach = np.array([region.width, region.height] * 2, np.float32) * np.float32(EDGE_SHARE)
    near = np.abs(found.boxes_xyxy - np.array(region, np.float32)) <= np.maximum(reach, 1.0)
    inside = np.array(
        [region.x1 > 0, region.y1 > 0, region.x2 < width, region.y2 < height], np.bool_
    )
    ends: npt.NDArray[np.bool_] = near & inside
    return ends


def _best(found: ImageDetections) -> ImageDetections:
    """Return the boxes without those that a better one of their class overlaps, best first."""
    order = np.argsort(-found.scores, kind="stable")
    kept = suppress(found.boxes_xyxy[order], found.labels[order], IOU_THRESHOLD)
    return found.at(order[kept])


def _covered(fragments: ImageDetections, whole: ImageDetections) -> npt.NDArray[np.bool_]:
    """Return which fragments some whole box of their class covers for the most part, ``(N,)``."""
    if not len(whole.scores):
        return np.zeros(len(fragments.scores), np.bool_)
    first, second = fragments.boxes_xyxy[:, None], whole.boxes_xyxy[None]
    shared = np.clip(
        np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2]),
        0.0,
        None,
    ).prod(axis=2)  # (fragments, whole)
    area = (fragments.boxes_xyxy[:, 2:] - fragments.boxes_xyxy[:, :2]).prod(axis=1)
    alike = fragments.labels[:, None] == whole.labels
    covered: npt.NDArray[np.bool_] = (alike & (shared > MAX_COVERED * area[:, None])).any(axis=1)
    return covered


def _joined(fragments: ImageDetections, cut: npt.NDArray[np.bool_]) -> ImageDetections:
    """Return the fragments with those joined that are of one object.

    ``cut`` is as ``_cut`` returns it.
    """
    facing = _facing(fragments, cut)
    groups = _groups(facing)
    boxes = [
        np.concatenate([members[:, :2].min(axis=0), members[:, 2:].max(axis=0)])
        for members in (fragments.boxes_xyxy[group] for group in groups)
    ]
    best = [group[int(np.argmax(fragments.scores[group]))] for group in groups]
    return ImageDetections(
        np.array(boxes, np.float32).reshape(-1, 4), fragments.scores[best], fragments.labels[best]
    )


def _facing(fragments: ImageDetections, cut: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which fragments go on in which others, ``(N, N)``: to the right or further down."""
    low, high = fragments.boxes_xyxy[:, :2], fragments.boxes_xyxy[:, 2:]
    goes_on = np.zeros((len(low), len(low)), np.bool_)
    for axis in (0, 1):
        # The first is cut at its far edge, the other at its near one, and they meet.
        meets = cut[:, 2 + axis, None] & cut[None, :, axis]
        meets &= high[:, axis, None] >= low[None, :, axis] - 1.0
        meets &= low[:, axis, None] <= low[None, :, axis]
        along = 1 - axis
        first, last = low[:, along], high[:, along]
        shared = np.minimum(last[:, None], last) - np.maximum(first[:, None], first)
        spanned = np.maximum(last[:, None], last) - np.minimum(first[:, None], first)
        goes_on |= meets & (shared > MIN_AGREEMENT * spanned)
    alike: npt.NDArray[np.bool_] = goes_on & (fragments.labels[:, None] == fragments.labels)
    return alike


def _groups(linked: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Return the indices that links hold together, each with all that it is held to."""
    group_of = list(range(len(linked)))
    for first, second in zip(*(places.tolist() for places in linked.nonzero()), strict=True):
        old, new = group_of[second], group_of[first]
        if old != new:
            group_of = [new if group == old else group for group in group_of]
    groups: dict[int, list[int]] = {}
    for index, group in enumerate(group_of):
        groups.setdefault(group, []).append(index)
    return list(groups.values())
