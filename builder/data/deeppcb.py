"""DeepPCB (github.com/tangsanli5201/DeepPCB): defects on printed circuit boards.

    SPLIT.txt              as published: ``FOLDER/NAME.jpg OTHER/NAME.txt`` a line
    FOLDER/NAME_test.jpg   the board; NAME_temp.jpg, without defects, is not read
    OTHER/NAME.txt         its defects, ``x1 y1 x2 y2 type`` a line

or, flat: one NAME a line, images/NAME.jpg and labels/NAME.txt.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from builder.data.dataset import (
    Annotation,
    Collector,
    Dataset,
    Lines,
    find_image,
    is_file,
    read_names,
)

CLASSES = ("open", "short", "mousebite", "spur", "copper", "pin-hole")
"""Classes of the defects: types 1..6 of the label files."""


def read_deeppcb(root: Path, split: str) -> Dataset:
    """Read a split of DeepPCB, which has trainval and test."""
    found = Collector(root, CLASSES)
    for line in read_names(root, root / f"{split}.txt"):
        name, image, labels = _files(root, line)
        if not is_file(labels):
            found.report(found.where(labels), "there is no such file of labels")
        elif (size := found.measure(image)) is not None and (
            lines := found.lines(labels)
        ) is not None:
            found.add(name, image, size, _annotations(found, lines))
    return found.dataset()


def _files(root: Path, line: str) -> tuple[str, Path, Path]:
    """Return the name, the image and the file of labels of a line in a split's list."""
    published, *labels = line.split()
    if not labels or not labels[-1].endswith(".txt"):
        return line, find_image(root / "images", line), root / "labels" / f"{line}.txt"
    image = root / published
    board = image.parent / f"{image.stem}_test{image.suffix}"
    return image.stem, board, root / labels[-1]


def _annotations(found: Collector, lines: Lines) -> Iterator[Annotation]:
    for where, fields in lines:
        try:
            *corners, kind = map(int, fields)
            x1, y1, x2, y2 = map(float, corners)
        except (ValueError, OverflowError):
            found.report(where, f"expected five whole numbers, not {' '.join(fields)!r}")
            continue
        if 1 <= kind <= len(CLASSES):
            yield Annotation(where, (x1, y1, x2, y2), kind - 1)
        else:
            found.report(where, f"type {kind} is not one of 1 to {len(CLASSES)}")
