"""DeepPCB (github.com/tangsanli5201/DeepPCB): defects on printed circuit boards.

images/NAME.jpg    labels/NAME.txt: lines ``x1 y1 x2 y2 type``    SPLIT.txt: one NAME a line
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from builder.data.dataset import Annotation, Collector, Dataset, find_image, read_names

CLASSES = ("open", "short", "mousebite", "spur", "copper", "pin-hole")
"""Types 1..6 of the label files."""


def read_deeppcb(root: Path, split: str) -> Dataset:
    """Splits trainval and test."""
    found = Collector(root, CLASSES)
    for name in read_names(root, root / f"{split}.txt"):
        image, labels = find_image(root / "images", name), root / "labels" / f"{name}.txt"
        if not labels.is_file():
            found.report(found.where(labels), "there is no such file of labels")
        elif (size := found.measure(image)) is not None:
            found.add(name, image, size, _annotations(found, labels))
    return found.dataset()


def _annotations(found: Collector, path: Path) -> Iterator[Annotation]:
    for where, fields in found.lines(path):
        try:
            x1, y1, x2, y2, kind = map(int, fields)
        except ValueError:
            found.report(where, f"expected five whole numbers, not {' '.join(fields)!r}")
            continue
        if 1 <= kind <= len(CLASSES):
            yield Annotation(where, (x1, y1, x2, y2), kind - 1)
        else:
            found.report(where, f"type {kind} is not one of 1 to {len(CLASSES)}")
