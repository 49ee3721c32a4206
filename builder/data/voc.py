"""Annotations in the XML format of Pascal VOC.

    Annotations/NAME.xml    JPEGImages/NAME.jpg    ImageSets/Main/SPLIT.txt: one NAME a line

Corners are taken as they stand: pixels are areas here, and the data sets at hand do not say
whether they count from 0 or 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from builder.data.dataset import Dataset, collect, make_sample

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _objects(path: Path, index: dict[str, int]) -> Iterator[tuple[tuple[float, ...], int]]:
    """((xmin, ymin, xmax, ymax), label) of each object in a file."""
    for item in ElementTree.parse(path).getroot().iter("object"):
        name = item.findtext("name", default="")
        if name not in index:
            raise ValueError(f"{path.name}: unknown class {name!r}")
        yield tuple(float(item.findtext(f"bndbox/{key}", "nan")) for key in _CORNERS), index[name]


def read_voc(root: Path, split: str, classes: tuple[str, ...]) -> Dataset:
    """A split of a VOC folder, in the order of its list."""
    index = {name: label for label, name in enumerate(classes)}
    names = (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
    return collect(
        classes,
        (
            make_sample(
                name,
                root / "JPEGImages" / f"{name}.jpg",
                _objects(root / "Annotations" / f"{name}.xml", index),
            )
            for name in names
        ),
    )


def read_bccd(root: Path, split: str) -> Dataset:
    """Blood cells (github.com/Shenggan/BCCD_Dataset): splits train, val, trainval, test."""
    return read_voc(root, split, ("RBC", "WBC", "Platelets"))
