"""Annotations in the XML format of Pascal VOC.

    Annotations/NAME.xml    JPEGImages/NAME.jpg    ImageSets/Main/SPLIT.txt: one NAME a line
    classes.txt: one class a line; without it, the twenty of Pascal VOC

Corners are taken as they stand: pixels are areas here, and the data sets at hand do not say
whether they count from 0 or 1. Objects marked as difficult are treated as Pascal VOC does: finding
them is neither right nor wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from builder.data.dataset import (
    Annotation,
    Collector,
    Dataset,
    find_image,
    is_file,
    is_size,
    read_names,
    read_text,
)

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""Classes of Pascal VOC 2007 and 2012."""

BCCD_CLASSES = ("RBC", "WBC", "Platelets")

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_ROOT = "annotation"
_PRESENCE = re.compile(r"\s+(-1|0|1)$")
"""End of a line in the lists of single classes: whether an image has one, as -1, 0 or 1."""
_LINE = "line"
"""Attribute in which ``_parse`` notes the line where an element begins."""


def read_voc(root: Path, split: str) -> Dataset:
    """Read a split of a folder in the layout of Pascal VOC, in the order of its list."""
    listed = root / "classes.txt"
    lines = read_text(listed).splitlines() if listed.exists() else CLASSES
    return _read(root, split, tuple(line.strip() for line in lines if line.strip()))


def read_bccd(root: Path, split: str) -> Dataset:
    """Read a split of BCCD (github.com/Shenggan/BCCD_Dataset), which shows blood cells.

    Its splits are train, val, trainval and test.
    """
    return _read(root, split, BCCD_CLASSES)


def _read(root: Path, split: str, classes: tuple[str, ...]) -> Dataset:
    found = Collector(root, classes)
    for line in read_names(root, root / "ImageSets" / "Main" / f"{split}.txt"):
        # Names, too, may end in a number.
        name = line if is_file(_xml(root, line)) else _PRESENCE.sub("", line)
        image, path = find_image(root / "JPEGImages", name), _xml(root, name)
        where = found.where(path)
        try:
            tree = _parse(path)
        except FileNotFoundError:
            found.report(where, "there is no such file of annotations")
            continue
        except expat.ExpatError as error:
            found.report(f"{where}:{error.lineno}", f"is not XML ({expat.ErrorString(error.code)})")
            continue
        except (OSError, ValueError, LookupError) as error:  # the last two of other encodings
            found.report(where, f"cannot be read ({error})")
            continue
        if tree.tag.lower() != _ROOT:
            found.report(where, f"is a {tree.tag!r}, not an {_ROOT!r}")
            continue
        size = found.measure(image)
        if size is None:
            continue
        height, width = (tree.findtext(f"size/{side}", "").strip() for side in ("height", "width"))
        if not (is_size(height, size[0]) and is_size(width, size[1])):
            problem = (
                f"the annotations are of {width}x{height} pixels, the image has {size[1]}x{size[0]}"
            )
            found.report(where, problem)
            continue
        found.add(name, image, size, _annotations(found, where, tree))
    return found.dataset()


def _xml(root: Path, name: str) -> Path:
    return root / "Annotations" / f"{name}.xml"


def _parse(path: Path) -> Element:
    """Return the tree of a file, with the line of each element as its attribute."""
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
        difficult = item.findtext("difficult", "").strip() == "1"
        label = found.classes.index(kind)
        yield Annotation(where, (x1, y1, x2, y2), label, is_crowd=difficult)
