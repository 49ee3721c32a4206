"""Images that a load test sends: what is in them, and what a server found in them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.core.command_errors import InvalidArgument, error_text
from serving.imaging.pixels import is_sideways, orientation

CONTENT_TYPES = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG": "image/png",
    b"RIFF": "image/webp",
}
"""First bytes of an image file -> its media type."""
SUFFIXES = tuple(
    case(suffix) for case in (str.lower, str.upper) for suffix in (".jpg", ".jpeg", ".png", ".webp")
)
"""Suffixes of images in Pascal VOC's layout, which does not say them."""
_UNREADABLE = (
    *(OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError),
    *(ElementTree.ParseError, Image.DecompressionBombError),
)
"""What comes of files that are laid out otherwise."""
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True, eq=False)
class ServedDetections:
    """The detections of one answer."""

    boxes_xyxy: NDArray[np.float32]
    """Boxes, [N, 4], in pixels of the original image."""
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    """Labels, [N], as indices into the model's classes."""

    def key(self) -> bytes:
        """Return bytes that are the same for the same detections in the same order."""
        return b"".join(part.tobytes() for part in (self.boxes_xyxy, self.scores, self.labels))


NOTHING = ServedDetections(
    np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
)


@dataclass(frozen=True, slots=True)
class AnnotatedObject:
    """One annotated object of an image."""

    box_xywh: tuple[float, float, float, float]
    class_name: str
    """Name of its class as the annotations have it, which may differ from the model's."""
    area: float
    is_crowd: bool
    """Whether finding it is neither right nor wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedImage:
    """An image to be sent, and what is in it if that is known."""

    name: str
    data: bytes
    """The image's bytes as they lie in its file."""
    content_type: str
    objects: tuple[AnnotatedObject, ...] | None = None


def read_images(paths: Sequence[Path]) -> tuple[AnnotatedImage, ...]:
    """Read image files, without annotations. Raises ValueError for what is not an image."""
    return tuple(_image(path, None) for path in paths)


def read_data(root: Path, split: str) -> tuple[AnnotatedImage, ...]:
    """Read an annotated data set, in Pascal VOC's layout or in COCO's.

    It is a folder in VOC's layout, of whose lists ``split`` is one, or a COCO file of annotations
    whose images lie beside it or in the folder ``images`` beside it. Raises ValueError if it cannot
    be used.
    """
    try:
        images = tuple(_read_voc(root, split) if root.is_dir() else _read_coco(root))
    except InvalidArgument:
        raise
    except _UNREADABLE as error:
        why = error_text(error) if isinstance(error, OSError) else repr(error)
        raise InvalidArgument(f"the data set {root} cannot be read: {why}") from error
    if not images:
        raise InvalidArgument(f"the data set {root} has no images")
    return images


def _image(path: Path, objects: tuple[AnnotatedObject, ...] | None) -> AnnotatedImage:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from error
    for start, content_type in CONTENT_TYPES.items():
        if data.startswith(start):
            return AnnotatedImage(path.name, data, content_type, objects)
    raise InvalidArgument(f"{path} is not a JPEG, PNG or WebP file")


def _read_voc(root: Path, split: str) -> Iterator[AnnotatedImage]:
    listed = (root / "ImageSets" / "Main" / f"{split}.txt").read_text(encoding="utf-8-sig")
    for name in filter(None, map(str.strip, listed.splitlines())):
        path = _voc_image(root / "JPEGImages", name)
        tree = ElementTree.parse(root / "Annotations" / f"{name}.xml")
        width, height = _size(path)
        objects = []
        for item in tree.getroot().iter("object"):
            corners = [_finite(item.findtext(f"bndbox/{key}", "nan")) for key in _CORNERS]
            x1, y1, x2, y2 = np.clip(corners, 0, (width, height, width, height)).tolist()
            if x1 < x2 and y1 < y2:  # as for training: what has no area is no object
                box = (x1, y1, x2 - x1, y2 - y1)
                kind = item.findtext("name", "").strip()
                # As Pascal VOC has it, finding a difficult object is neither right nor wrong.
                difficult = item.findtext("difficult", "").strip() == "1"
                objects.append(AnnotatedObject(box, kind, box[2] * box[3], is_crowd=difficult))
        yield _image(path, tuple(objects))


def _voc_image(folder: Path, name: str) -> Path:
    paths = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    return next((path for path in paths if path.exists()), paths[0])


def _finite(value: Any) -> float:
    """Return a coordinate. Raises ValueError for one that is not finite, as of a missing corner."""
    if not math.isfinite(number := float(value)):
        raise ValueError(f"a box has the coordinate {value}")
    return number


def _size(path: Path) -> tuple[int, int]:
    """Return width and height of an image as it is shown: annotations and answers are of that."""
    with Image.open(path) as image:
        width, height = image.size
        return (height, width) if is_sideways(orientation(image)) else (width, height)


def _read_coco(path: Path) -> Iterator[AnnotatedImage]:
    content = json.loads(path.read_bytes())
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    objects: dict[int, list[AnnotatedObject]] = {image["id"]: [] for image in content["images"]}
    for entry in content["annotations"]:
        x, y, width, height = map(_finite, entry["bbox"])
        objects[entry["image_id"]].append(
            AnnotatedObject(
                (x, y, width, height),
                names[entry["category_id"]],
                _finite(entry.get("area", width * height)),
                bool(entry.get("iscrowd", 0)),
            )
        )
    for image in content["images"]:
        beside = path.parent / image["file_name"]
        within = path.parent / "images" / image["file_name"]
        yield _image(beside if beside.exists() else within, tuple(objects[image["id"]]))
