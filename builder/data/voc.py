"""Annotations in the XML format of Pascal VOC.

    Annotations/NAME.xml    JPEGImages/NAME.jpg    ImageSets/Main/SPLIT.txt: one NAME a line
    classes.txt: one class a line; without it, the twenty of Pascal VOC

Corners are taken as they stand: pixels are areas here, and the data sets at hand do not say
whether they count from 0 or 1. Objects marked as difficult count as any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from builder.data.dataset import (
    Annotation,
    Collector,
    Dataset,
    find_image,
    read_names,
)

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""Of Pascal VOC 2007 and 2012."""

BCCD_CLASSES = ("RBC", "WBC", "Platelets")

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_LINE = "line"
"""The attribute in which ``_parse`` notes where an element begins."""


def read_voc(root: Path, split: str) -> Dataset:
    """A split of a folder in the layout of Pascal VOC, in the order of its list."""
    listed = root / "classes.txt"
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else CLASSES
    return _read(root, split, tuple(line.strip() for line in lines if line.strip()))


def read_bccd(root: Path, split: str) -> Dataset:
    """Blood cells (github.com/Shenggan/BCCD_Dataset): splits train, val, trainval, test."""
    return _read(root, split, BCCD_CLASSES)


def _read(root: Path, split: str, classes: tuple[str, ...]) -> Dataset:
    found = Collector(root, classes)
    for name in read_names(root, root / "ImageSets" / "Main" / f"{split}.txt"):
        image, path = find_image(root / "JPEGImages", name), root / "Annotations" / f"{name}.xml"
        where = found.where(path)
        try:
            tree = _parse(path)
        except FileNotFoundError:
            found.report(where, "there is no such file of annotations")
            continue
        except expat.ExpatError as error:
            found.report(f"{where}:{error.lineno}", f"is not XML ({expat.ErrorString(error.code)})")
            continue
        size = found.measure(image)
        if size is None:
            continue
        stated = tree.findtext("size/height", "0"), tree.findtext("size/width", "0")
        if "0" not in stated and stated != tuple(map(str, size)):
            height, width = stated
            problem = (
                f"the annotations are of {width}x{height} pixels, the image has {size[1]}x{size[0]}"
            )
            found.report(where, problem)
            continue
        found.add(name, image, size, _annotations(found, where, tree))
    return found.dataset()


def _parse(path: Path) -> Element:
    """The tree of a file, with the line of each element as its attribute."""
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, {**attributes, _LINE: str(parser.CurrentLineNumber)})

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(path.read_bytes(), True)
    return builder.close()


def _annotations(found: Collector, name: str, tree: Element) -> Iterator[Annotation]:
    for item in tree.iter("object"):
        where = f"{name}:{item.get(_LINE)}"
        kind = item.findtext("name", "").strip()
        texts = [item.findtext(f"bndbox/{key}") for key in _CORNERS]
        if kind not in found.classes:
            found.report(where, f"class {kind!r} is not one of {', '.join(found.classes)}")
            continue
        try:
            x1, y1, x2, y2 = (float(text) for text in texts if text is not None)
        except ValueError:
            stated = ", ".join(f"{k} {t!r}" for k, t in zip(_CORNERS, texts, strict=True))
            found.report(where, f"expected four numbers in bndbox, not {stated}")
            continue
        yield Annotation(where, (x1, y1, x2, y2), found.classes.index(kind))
