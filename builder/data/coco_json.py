"""Data sets in the JSON format and the layout of COCO.

    annotations/instances_SPLIT.json: ``images``, ``categories``, ``annotations``    SPLIT/FILE_NAME

Classes are the categories in the order of their ids. ``bbox`` is x, y, width, height in pixels.
An annotation that another detector made may have its ``score``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from builder.data.dataset import Annotation, Collector, Dataset, DatasetError, is_size, read_text

Entries = list[Any]
"""A section of the file; nothing is certain about its entries."""

MAX_AREA = 1e10
"""Largest area of an object in square pixels: as in pycocotools, no larger one is looked for."""


def read_coco(root: Path, split: str) -> Dataset:
    """Read a split such as train2017, with its images in the order of the file."""
    path = root / "annotations" / f"instances_{split}.json"
    sections = _sections(root, split, path)
    categories = _categories(path, sections["categories"])
    headings = _headings(path, sections)
    categories = [(number, name) for number, name in categories if number not in headings]
    found = Collector(root, tuple(name for _, name in categories))
    labels = {category_id: label for label, (category_id, _) in enumerate(categories)}
    file = found.where(path)
    images = _images(found, file, sections["images"])
    by_image = defaultdict(list)
    for image_id, item in _annotations(found, file, sections["annotations"], labels, images):
        by_image[image_id].append(item)
    for image_id, (where, entry) in images.items():
        image = root / split / str(entry["file_name"])
        size = found.measure(image)
        if size is None:
            continue
        height, width = entry.get("height"), entry.get("width")
        if not (is_size(height, size[0]) and is_size(width, size[1])):
            problem = f"is of {width}x{height} pixels, the file has {size[1]}x{size[0]}"
            found.report(where, problem)
            continue
        found.add(str(image_id), image, size, by_image[image_id])
    return found.dataset()


def _sections(root: Path, split: str, path: Path) -> dict[str, Entries]:
    """Return the three lists of the file. Raises DatasetError if they are not there."""
    try:
        data = json.loads(read_text(path))
    except FileNotFoundError as error:
        raise DatasetError(f"{root} has no split {split!r}: there is no {path}") from error
    except DatasetError:
        raise
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON: {error}") from error
    names = ("images", "categories", "annotations")
    for name in names:
        if not isinstance(data, dict) or not isinstance(data.get(name), list):
            raise DatasetError(f"{path} has no list {name!r}")
    return {name: data[name] for name in names}


def _categories(path: Path, entries: Entries) -> list[tuple[int, str]]:
    """Return the categories as (id, name), ascending.

    Raises DatasetError if there are none that are usable: without them nothing else means anything.
    """
    try:
        categories = sorted((_whole(entry["id"]), _name(entry["name"])) for entry in entries)
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{path}: a category lacks a whole 'id' or a 'name'") from error
    if not categories or len(dict(categories)) < len(categories):
        raise DatasetError(f"{path}: there are no categories, or two with one id")
    return categories


def _headings(path: Path, sections: Mapping[str, Entries]) -> set[int]:
    """Return the ids of categories that are nothing but a heading over others.

    Such a one is the supercategory of another and no object of any split is of it, as in what
    Roboflow exports.
    """
    entries = sections["categories"]
    headings = {
        int(entry["id"])
        for entry in entries
        if any(
            other["id"] != entry["id"] and other.get("supercategory") == entry["name"]
            for other in entries
        )
    }
    if headings:
        headings -= _used(sections["annotations"])
    for other in sorted(path.parent.glob("instances_*.json")) if headings else ():
        if other != path:
            try:
                headings -= _used(_sections(path.parent.parent, other.stem, other)["annotations"])
            except DatasetError:  # it is no split, or not for us to report
                continue
    return headings


def _used(annotations: Entries) -> set[int]:
    """Return the ids of the categories that there are objects of."""
    ids: Iterator[Any] = (
        entry.get("category_id") for entry in annotations if isinstance(entry, dict)
    )
    return {int(number) for number in ids if type(number) in (int, float) and number % 1 == 0}


def _images(found: Collector, file: str, entries: Entries) -> dict[Any, tuple[str, dict[str, Any]]]:
    """Return id -> (where, entry) of each image that can be told from the others."""
    images: dict[Any, tuple[str, dict[str, Any]]] = {}
    for index, entry in enumerate(entries):
        where = f"{file}: images[{index}]"
        if not isinstance(entry, dict) or not {"id", "file_name"} <= entry.keys():
            found.report(where, "lacks an 'id' or a 'file_name'")
        elif type(entry["id"]) not in (int, str) or entry["id"] in images:
            found.report(where, f"id {entry['id']!r} is not its own")
        else:
            images[entry["id"]] = (where, entry)
    return images


def _annotations(
    found: Collector,
    file: str,
    entries: Entries,
    labels: Mapping[Any, int],
    images: Mapping[Any, object],
) -> Iterator[tuple[Any, Annotation]]:
    """Yield (image's id, annotation) for each entry that names an image, a category and a box."""
    for index, entry in enumerate(entries):
        where = f"{file}: annotations[{index}]"
        try:
            image_id, category_id = entry["image_id"], entry["category_id"]
            x, y, width, height = map(_number, _list(entry["bbox"]))
            stated = entry.get("area")
            area = None if stated is None else _number(stated)
            score = _number(entry.get("score", 1.0))
            crowd = entry.get("iscrowd") or 0
            # True and False are 1 and 0 to a mapping.
            known_image = image_id in images and not isinstance(image_id, bool)
            known_category = category_id in labels and not isinstance(category_id, bool)
        except KeyError as error:
            found.report(where, f"lacks {error}")
            continue
        except (TypeError, ValueError, OverflowError):
            problem = "bbox must be four numbers, area and score a number, ids single values"
            found.report(where, f"is malformed: {problem}")
            continue
        if not known_image:
            found.report(where, f"image_id {image_id!r} is not that of an image")
        elif not known_category:
            found.report(where, f"category_id {category_id!r} is not that of a category")
        elif crowd not in (0, 1):
            found.report(where, f"iscrowd is {crowd!r}, not 0 or 1")
        elif area is not None and not 0 <= area <= MAX_AREA:
            found.report(where, f"an area is no {area} pixels")
        elif not 0 <= score <= 1:
            found.report(where, f"score is {score}, not from 0 to 1")
        else:
            box = (x, y, x + width, y + height)
            yield image_id, Annotation(where, box, labels[category_id], area, bool(crowd), score)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) not in (int, float) or value % 1 != 0:
        raise TypeError(f"{value!r} is no whole number")
    return int(value)


def _name(value: Any) -> str:
    if type(value) not in (str, int, float):
        raise TypeError(f"{value!r} is no name")
    return str(value)
