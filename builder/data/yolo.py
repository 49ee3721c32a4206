"""Data sets in the format of YOLO's trainers.

    data.yaml              names: classes, a list or a mapping from 0
                           path: the folder of the rest; without it, the folder of data.yaml
                           SPLIT: a folder of images, a list file of them, or several
    .../images/NAME.jpg    an image
    .../labels/NAME.txt    its objects, ``class x y width height`` a line: centre and sides as
                           shares of the image; or ``class x1 y1 x2 y2 x3 y3 ...``, an outline

An image without a file of labels has no objects, but some must have one. ``images`` is the last
folder of that name below that of the data set; where it has no such counterpart, labels lie beside
the images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from builder.data.dataset import (
    IMAGE_SUFFIXES,
    Annotation,
    Collector,
    Corners,
    Dataset,
    DatasetError,
    Lines,
    files_below,
    is_file,
    read_names,
    read_text,
)

DESCRIPTION = "data.yaml"
CLASSES = "classes.txt"
"""File that labelling tools leave among those of labels: names, and no labels."""
ROUNDING = 1e-3
"""Distance by which coordinates, as shares of the image, may miss 0 and 1."""


def read_yolo(root: Path, split: str) -> Dataset:
    """Read a split that ``root``/data.yaml names."""
    path = root / DESCRIPTION
    description = _describe(path)
    found = Collector(root, _classes(path, description.get("names")))
    base = root / str(description.get("path") or ".")
    if not description.get(split):
        raise DatasetError(f"{path} names no split {split!r}")
    images, folders = _images(base if os.path.isdir(base) else root, split, description[split])
    labels = {image: _labels_of(image, root) for image in images}
    if labels and not any(map(is_file, labels.values())):
        first = next(iter(labels.values()))
        raise DatasetError(f"{root} has no labels of the split {split!r}, as {first}")
    for image in images:
        size = found.measure(image)
        if size is None:
            continue
        lines = found.lines(labels[image]) if is_file(labels[image]) else []
        if lines is not None:
            found.add(image.stem, image, size, _annotations(found, lines, size))
    _report_orphans(found, folders, set(labels.values()))
    return found.dataset()


def _describe(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise DatasetError(f"there is no {path}") from error
    try:
        description = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2026-13-32
        told = " ".join(str(error).split())  # which is of several lines
        raise DatasetError(f"{path} is not YAML: {told}") from error
    if not isinstance(description, dict):
        raise DatasetError(f"{path} describes no data set: it is not a mapping")
    if "kpt_shape" in description:
        raise DatasetError(f"{path} describes poses (kpt_shape): boxes or outlines are needed")
    return description


def _classes(path: Path, names: object) -> tuple[str, ...]:
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DatasetError(f"{path}: 'names' is neither a list nor a mapping of 0, 1, 2, ...")
    for name in names:
        if type(name) not in (str, int, float):  # yes, no and null are none of them in YAML
            raise DatasetError(f"{path}: the name {name!r} is no text: put it in quotes")
    return tuple(map(str, names))


def _images(base: Path, split: str, entries: object) -> tuple[list[Path], list[Path]]:
    """Return the images of a split, sorted within each of its folders, and those folders.

    Raises DatasetError.
    """
    images: list[Path] = []
    folders: list[Path] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        path = base / str(entry)
        if not os.path.exists(path):  # as exported by tools that count from a folder further down
            path = base / str(entry).removeprefix("../")
        if os.path.isdir(path):
            folders.append(path)
            images.extend(
                item for item in files_below(path) if item.suffix.lower() in IMAGE_SUFFIXES
            )
        elif is_file(path):
            images.extend(path.parent / line for line in read_names(base, path))
        else:
            raise DatasetError(f"{base} has no split {split!r}: there is no {path}")
    return images, folders


def _labels_folder(folder: Path, root: Path) -> Path | None:
    """Return the counterpart under ``labels`` of a folder of images under ``images``, if it is."""
    parts = list((folder.relative_to(root) if folder.is_relative_to(root) else folder).parts)
    if "images" not in parts:
        return None
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return root / Path(*parts)


def _labels_of(image: Path, root: Path) -> Path:
    """Return the file of an image's labels: under ``labels`` where the image is under ``images``.

    Otherwise, or if that is not there, it is beside the image.
    """
    beside = image.parent / f"{image.stem}.txt"
    folder = _labels_folder(image.parent, root)
    if folder is None:
        return beside
    apart = folder / beside.name
    return beside if is_file(beside) and not is_file(apart) else apart


def _report_orphans(found: Collector, folders: list[Path], known: set[Path]) -> None:
    """Report the files of labels in the counterparts of ``folders`` that are not ``known``.

    Their images are not there, or are of a kind that is not looked for. There is a line for each
    folder: labels may be those of a larger data set.
    """
    for folder in folders:
        counterpart = _labels_folder(folder, found.root)
        if counterpart is None or not os.path.isdir(counterpart):
            continue
        labels = (path for path in files_below(counterpart) if path.suffix == ".txt")
        orphans = [path for path in labels if path.name != CLASSES and path not in known]
        if orphans:
            first = found.where(orphans[0])
            problem = f"no image belongs to {len(orphans)} files of labels here, first {first}"
            found.report(found.where(counterpart), problem)


def _annotations(found: Collector, lines: Lines, size: tuple[int, int]) -> Iterator[Annotation]:
    height, width = size
    for where, fields in lines:
        try:
            label, shares = _whole(fields[0]), [float(value) for value in fields[1:]]
        except ValueError:
            found.report(where, f"expected a class and numbers, not {' '.join(fields)!r}")
            continue
        if not 0 <= label < len(found.classes):
            found.report(where, f"class {label} is not one of 0 to {len(found.classes) - 1}")
        elif len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
            found.report(where, f"{len(shares)} numbers are neither a box nor an outline")
        elif not all(-ROUNDING <= share <= 1 + ROUNDING for share in shares):
            found.report(where, "coordinates must be shares of the image, 0 to 1")
        else:
            x1, y1, x2, y2 = _corners(shares)
            yield Annotation(where, (x1 * width, y1 * height, x2 * width, y2 * height), label)


def _whole(text: str) -> int:
    """Return a whole number in any notation, such as numpy's ``2.000e+00``. Raises ValueError."""
    value = float(text)
    if not value.is_integer():
        raise ValueError(f"{text!r} is no whole number")
    return int(value)


def _corners(shares: list[float]) -> Corners:
    """Return the corners of a box, or of the box around an outline.

    A box is (x, y, width, height), an outline (x1, y1, x2, y2, ...).
    """
    if len(shares) == 4:
        x, y, w, h = shares
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    xs, ys = shares[::2], shares[1::2]
    return min(xs), min(ys), max(xs), max(ys)
