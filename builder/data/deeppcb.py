"""DeepPCB (github.com/tangsanli5201/DeepPCB): defects on printed circuit boards.

images/NAME.jpg    labels/NAME.txt: lines ``x1 y1 x2 y2 type``    SPLIT.txt: one NAME a line
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from builder.data.dataset import Dataset, collect, make_sample

CLASSES = ("open", "short", "mousebite", "spur", "copper", "pin-hole")
"""Types 1..6 of the label files."""


def _objects(path: Path) -> Iterator[tuple[tuple[float, ...], int]]:
    """((x1, y1, x2, y2), label) of each line of a file."""
    for line in path.read_text().splitlines():
        *corners, kind = map(int, line.split())
        if not 1 <= kind <= len(CLASSES):
            raise ValueError(f"{path.name}: unknown type {kind}")
        yield tuple(map(float, corners)), kind - 1


def read_deeppcb(root: Path, split: str) -> Dataset:
    """Splits trainval and test."""
    names = (root / f"{split}.txt").read_text().split()
    return collect(
        CLASSES,
        (
            make_sample(
                name,
                root / "images" / f"{name}.jpg",
                _objects(root / "labels" / f"{name}.txt"),
            )
            for name in names
        ),
    )
