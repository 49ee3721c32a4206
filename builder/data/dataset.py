"""Data sets as the rest of the builder sees them, and what their readers are made of.

A reader is a function of (folder, split). What it cannot use it reports and leaves out; whether
that is good enough is for whoever asked (``builder.data.read_dataset``). Without its list of
images or its classes it has nothing to read, and raises DatasetError.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from serving.core.command_errors import InvalidArgument
from serving.imaging.pixels import (
    FORMATS,
    is_sideways,
    open_stored,
    orientation,
    to_rgb,
    upright,
    with_end,
)

NUM_THREADS = min(8, len(os.sched_getaffinity(0)))
"""Threads that images are decoded in."""

ENCODING = "utf-8-sig"
"""Encoding of every text file: UTF-8, with or without the mark that some editors put first."""

IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".jfif",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".avif",
)
"""Suffixes of the files in a folder that are taken for images, in either case.

Those that no server takes are among them, to be reported.
"""

MAX_PIXELS = 178_956_970
"""Most pixels of an image; Pillow refuses larger ones, too."""
_TOO_LARGE = f"has more than {MAX_PIXELS:,} pixels"

Lines = list[tuple[str, list[str]]]
"""Lines of a text file as (where, fields)."""

Corners = tuple[float, float, float, float]
"""Corners of a box: x1, y1, x2, y2 in pixels of the image."""


class DatasetError(InvalidArgument):
    """Error of a data set, or one of its files, that cannot be read."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object, as a reader found it."""

    where: str
    """Place of the annotation: file and line, or file and place in the JSON."""
    box_xyxy: Corners
    label: int
    area: float | None = None
    """Area of the object in square pixels; None for that of its box."""
    is_crowd: bool = False
    """Whether the box holds many objects, or one that is hard to tell.

    What is found there counts neither as right nor as wrong, and training does not look there.
    """
    score: float = 1.0
    """Certainty of the label, from 0 to 1: less where another detector gave it."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One annotated image.

    It is decoded whenever it is asked for: a data set may be larger than memory.
    """

    image_id: str
    path: Path
    """File of the encoded image."""
    size: tuple[int, int]
    """Size of the image, (height, width) in pixels."""
    boxes_xyxy: npt.NDArray[np.float32]
    """Boxes of the objects, (boxes, 4) in pixels of the image, inside it, none degenerate."""
    labels: npt.NDArray[np.int64]
    """Classes of the objects, (boxes,) indices into the data set's classes."""
    areas: npt.NDArray[np.float32]
    """Areas of the objects, (boxes,) in square pixels: what COCO's sizes go by."""
    crowds_xyxy: npt.NDArray[np.float32] = field(default_factory=lambda: _boxes([]))
    """Boxes of crowds (many objects in one box), (crowds, 4) in pixels of the image."""
    crowd_labels: npt.NDArray[np.int64] = field(default_factory=lambda: _labels([]))
    scores: npt.NDArray[np.float32] | None = None
    """Certainty of each label, (boxes,) from 0 to 1; None where all are certain."""
    unlabelled: npt.NDArray[np.int64] = field(default_factory=lambda: _labels([]))
    """Classes whose objects may be in the image without a box."""

    @property
    def image(self) -> npt.NDArray[np.uint8]:
        """Pixels of the image, (height, width, 3) RGB.

        Raises DatasetError if the file cannot be decoded.
        """
        return read_image(self.path)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """One split of a data set: its classes, its images and what was left out."""

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    bad: tuple[str, ...] = ()
    """One line for each annotation or image that was not usable: where, and what is wrong."""

    @property
    def has_objects(self) -> bool:
        """Whether there is any object to learn from, and to find."""
        return any(len(sample.labels) for sample in self.samples)

    @property
    def digest(self) -> str:
        """SHA-256 of the classes, of the images' names and sizes and of their objects.

        Pixels are not part of it.
        """
        digest = hashlib.sha256(repr(self.classes).encode())
        for sample in self.samples:
            digest.update(repr((sample.image_id, sample.size)).encode())
            for values in (sample.boxes_xyxy, sample.labels, sample.areas):
                digest.update(values.tobytes())
            for values in (sample.crowds_xyxy, sample.crowd_labels):
                digest.update(values.tobytes())
            # Of most data sets there are none: they keep the digest that they had.
            if sample.scores is not None:
                digest.update(sample.scores.tobytes())
            digest.update(sample.unlabelled.tobytes())
        return digest.hexdigest()


@dataclass(slots=True)
class Collector:
    """One reader's findings, which become samples.

    Making one raises DatasetError for classes that cannot be told apart.
    """

    root: Path
    classes: tuple[str, ...]
    samples: list[Sample] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        twice = [name for name, count in Counter(self.classes).items() if count > 1]
        if twice:
            raise DatasetError(f"{self.root}: there are several classes called {twice[0]!r}")
        if not self.classes or not all(name.strip() for name in self.classes):
            raise DatasetError(f"{self.root}: there are no classes, or one without a name")

    def where(self, path: Path) -> str:
        """Return the name of a file in reports: relative to the data set's folder."""
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

    def report(self, where: str, problem: str) -> None:
        """Note what was left out, and why."""
        self.bad.append(_printable(f"{where}: {problem}"))

    def lines(self, path: Path) -> Lines | None:
        """Return (where, fields) of each line of a text file that is not blank.

        Returns None, reported, if it is no text or cannot be read.
        """
        try:
            text = path.read_text(encoding=ENCODING)
        except UnicodeDecodeError as error:
            self.report(self.where(path), f"is not text ({error.reason})")
            return None
        except OSError as error:
            self.report(self.where(path), f"cannot be read ({error.strerror})")
            return None
        return [
            (f"{self.where(path)}:{number}", line.split())
            for number, line in enumerate(text.splitlines(), start=1)
            if line.strip()
        ]

    def measure(self, path: Path) -> tuple[int, int] | None:
        """Return (height, width) of an upright image, by its header.

        Returns None, reported, if there is none that could be served.
        """
        try:
            with _open(path) as image:
                if image.format not in FORMATS:
                    problem = f"is a {image.format}, not JPEG, PNG or WebP"
                elif math.prod(image.size) > MAX_PIXELS:
                    problem = _TOO_LARGE
                else:
                    sideways = is_sideways(orientation(image))
                    return image.size if sideways else image.size[::-1]
                self.report(self.where(path), problem)
        except Image.DecompressionBombError:
            self.report(self.where(path), _TOO_LARGE)
        except FileNotFoundError:
            self.report(self.where(path), "there is no such image")
        except Exception as error:  # Pillow's readers raise no closed set of types
            self.report(self.where(path), f"is not an image ({type(error).__name__})")
        return None

    def add(
        self, image_id: str, path: Path, size: tuple[int, int], annotations: Iterable[Annotation]
    ) -> None:
        """Add an image of ``size`` (height, width).

        Boxes are clipped to it; each that is left without area is reported, as is one that is there
        twice, which nobody could find a second time.
        """
        height, width = size
        boxes, labels, areas, scores = [], [], [], []
        crowds, crowd_labels = [], []
        seen: set[tuple[object, ...]] = set()
        for item in annotations:
            facts = (item.label, item.is_crowd, item.box_xyxy, item.score)
            known = facts in seen
            seen.add(facts)
            x1, y1, x2, y2 = item.box_xyxy
            left, right = max(x1, 0.0), min(x2, float(width))
            top, bottom = max(y1, 0.0), min(y2, float(height))
            if not all(map(math.isfinite, item.box_xyxy)):
                self.report(item.where, f"box {item.box_xyxy} is not finite")
            elif x1 >= x2 or y1 >= y2:
                self.report(item.where, f"box {item.box_xyxy} has no area")
            elif left >= right or top >= bottom:
                self.report(item.where, f"box {item.box_xyxy} lies outside its image")
            elif known:
                self.report(item.where, f"box {item.box_xyxy} of the same class is there twice")
            elif item.is_crowd:
                crowds.append((left, top, right, bottom))
                crowd_labels.append(item.label)
            else:
                boxes.append((left, top, right, bottom))
                labels.append(item.label)
                areas.append((right - left) * (bottom - top) if item.area is None else item.area)
                scores.append(item.score)
        self.samples.append(
            Sample(
                _printable(image_id),
                path,
                size,
                _boxes(boxes),
                _labels(labels),
                np.array(areas, dtype=np.float32),
                _boxes(crowds),
                _labels(crowd_labels),
                None if min(scores, default=1.0) == 1.0 else np.array(scores, dtype=np.float32),
            )
        )

    def dataset(self) -> Dataset:
        """Return everything that was found. Raises DatasetError if that is no image at all."""
        if not self.samples:
            first = f", first {self.bad[0]}" if self.bad else ""
            raise DatasetError(f"{self.root}: no image is usable{first}")
        return Dataset(self.classes, tuple(self.samples), tuple(self.bad))


def _boxes(corners: list[Corners]) -> npt.NDArray[np.float32]:
    return np.array(corners, dtype=np.float32).reshape(-1, 4)


def _labels(labels: list[int]) -> npt.NDArray[np.int64]:
    return np.array(labels, dtype=np.int64)


def _open(path: Path) -> Image.Image:
    """Return an image of which no more than the header has been read, as a rule."""
    try:
        with warnings.catch_warnings():
            # Pillow warns long before it refuses.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path)
    except ValueError:  # Pillow refuses a PNG for large metadata, which nobody here looks at
        return open_stored(path.read_bytes())


def decodable(dataset: Dataset) -> Dataset:
    """Return a data set without the images that cannot be decoded to their end, which are reported.

    Raises DatasetError if none is left.
    """
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        problems = list(pool.map(_problem, (sample.path for sample in dataset.samples)))
    bad = [_printable(problem) for problem in problems if problem is not None]
    if not bad:
        return dataset
    samples = [
        sample for sample, problem in zip(dataset.samples, problems, strict=True) if problem is None
    ]
    if not samples:
        raise DatasetError(f"no image is usable, first {bad[0]}")
    return replace(dataset, samples=tuple(samples), bad=(*dataset.bad, *bad))


def _problem(path: Path) -> str | None:
    """Return why an image cannot be decoded, or None if it can."""
    try:
        with open_stored(with_end(path.read_bytes())) as image:
            image.draft(None, (1, 1))  # a JPEG is read all the same, but hardly computed
            to_rgb(image).load()
    except Exception as error:  # Pillow's decoders raise no closed set of types
        return f"{path}: cannot be decoded ({error})"
    return None


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Decode an image to (height, width, 3) RGB, upright, as it would be served.

    Raises DatasetError naming the file.
    """
    try:
        with open_stored(with_end(path.read_bytes())) as image:
            turned = orientation(image)  # before pixels: what follows them is not looked at
            return np.asarray(upright(to_rgb(image), turned))
    except Exception as error:  # Pillow's decoders raise no closed set of types
        raise DatasetError(f"{path}: cannot be decoded ({error})") from error


def read_text(path: Path) -> str:
    """Read a text file that a data set cannot do without.

    Raises DatasetError, and FileNotFoundError.
    """
    try:
        return path.read_text(encoding=ENCODING)
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as text: {error}") from error


def read_names(root: Path, path: Path) -> list[str]:
    """Return the lines of a list file that are not blank. Raises DatasetError without it."""
    if not is_file(path):
        raise DatasetError(f"{root} has no split {path.stem!r}: there is no {path}")
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def find_image(folder: Path, name: str) -> Path:
    """Return the path of ``name`` with the first image suffix that exists, in either case.

    With .jpg if none does.
    """
    suffixes = (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES))
    paths = [folder / f"{name}{suffix}" for suffix in suffixes]
    return next((path for path in paths if is_file(path)), paths[0])


def files_below(folder: Path) -> list[Path]:
    """Return the files in a folder and in those below it, in order of their paths.

    Links to folders are followed, each folder is looked into once. Raises DatasetError for one
    that cannot be looked into.
    """

    def fail(error: OSError) -> None:
        raise DatasetError(f"{error.filename} cannot be read: {error.strerror}") from error

    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders.sort()  # so that which of two links is followed does not vary
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found.extend(Path(parent, name) for name in files)
    return sorted(found)


def is_file(path: Path) -> bool:
    """Return whether there is a file; False also for a name that no file can have.

    Path's own method raises for such a name.
    """
    return os.path.isfile(path)


def is_size(stated: Any, pixels: int) -> bool:
    """Return whether an image has as many pixels as its annotations say, in numbers or as text.

    Annotations that say nothing, or 0, agree.
    """
    try:
        return float(stated or 0) in (0, pixels)
    except (TypeError, ValueError, OverflowError):
        return False


def _printable(text: str) -> str:
    """Return a text that can be written as UTF-8: names of files need not be."""
    return text.encode(errors="backslashreplace").decode()
