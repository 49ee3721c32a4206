"""Names of classes, and which of a detector's numbers stand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from builder.config.coco import COCO_CLASSES, ID_GAPS
from builder.onnx_import.errors import ForeignModelError
from builder.onnx_import.metadata import MAX_TEXT, entries_of, parsed

COCO, COCO_IDS, METADATA = "coco", "coco-ids", "metadata"
NO_CLASS = ("-", "__background__", "N/A")
"""Lines of a file of names for a number that no class has, such as background; the last two are
those of torchvision."""

METADATA_KEYS = ("names", "classes", "labels")
"""Keys of a file's metadata that names are looked for under; Ultralytics writes the first."""


@dataclass(frozen=True)
class ClassNumbers:
    """Which class a detector means by each of its numbers."""

    names: tuple[str | None, ...]
    """Name of each number from 0 on; None where no class has it."""

    def __post_init__(self) -> None:
        if not self.classes:
            raise ForeignModelError("there is no name of a class")
        twice = {name for name in self.classes if self.classes.count(name) > 1}
        if twice:
            raise ForeignModelError(f"the class {min(twice)!r} is there twice")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by the labels that are served."""
        return tuple(name for name in self.names if name is not None)

    @property
    def kept(self) -> tuple[int, ...]:
        """Numbers that stand for a class, in their order."""
        return tuple(number for number, name in enumerate(self.names) if name is not None)

    @property
    def labels(self) -> tuple[int, ...]:
        """Label that is served for each number; -1: none."""
        kept = self.kept
        return tuple(kept.index(n) if n in kept else -1 for n in range(len(self.names)))


def possible_classes(source: str, model: onnx.ModelProto) -> tuple[ClassNumbers, ...]:
    """Return what the numbers may stand for, the most usual first.

    ``source`` is a file with a name a line; ``coco``, the eighty in their order or by their ids,
    whichever fits; ``coco-ids``, by their ids; or ``metadata``: what the model says itself.
    Raises OSError, and ForeignModelError where there are no names.
    """
    if source == COCO:
        return _COCO
    if source == COCO_IDS:
        return _COCO[1:]
    if source == METADATA:
        return (ClassNumbers(_of_metadata(model)),)
    try:
        text = Path(source).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ForeignModelError(f"--classes {source} is no text") from error
    if len(text) > MAX_TEXT:
        raise ForeignModelError(f"--classes {source} is longer than {MAX_TEXT} characters")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (ClassNumbers(tuple(None if line in NO_CLASS else line for line in lines)),)


def numbered_from_one(possible: Sequence[ClassNumbers]) -> tuple[ClassNumbers, ...]:
    """Return those of ``possible`` where 0 is no class; if there are none, with names from 1 on."""
    having = tuple(numbers for numbers in possible if numbers.names[0] is None)
    return having or tuple(ClassNumbers((None, *numbers.names)) for numbers in possible)


def _coco_ids() -> tuple[str | None, ...]:
    """Return the names of COCO's ids 0 to 90."""
    names = iter(COCO_CLASSES)
    return (None, *(None if n in ID_GAPS else next(names) for n in range(1, 91)))


_COCO = (ClassNumbers(COCO_CLASSES), ClassNumbers(_coco_ids()), ClassNumbers(_coco_ids()[1:]))
"""The eighty classes in their order; by their ids, 0 for the background; by their ids less one."""


def _of_metadata(model: onnx.ModelProto) -> tuple[str | None, ...]:
    entries = entries_of(model)
    found = [key for key in METADATA_KEYS if key in entries]
    if not found:
        there = f"; it has {', '.join(sorted(entries))}" if entries else ""
        raise ForeignModelError(
            f"its metadata has no names of classes ({', '.join(METADATA_KEYS)}{there}): give them "
            "with --classes"
        )
    text = entries[found[0]]
    stated = parsed(text)
    listed = stated is None and "," in text and len(text) <= MAX_TEXT
    names = _numbered(text.split(",") if listed else stated)
    if names is None:
        raise ForeignModelError(f"what its metadata has as {found[0]!r} is no list of names")
    return names


def _numbered(found: Any) -> tuple[str | None, ...] | None:
    """Return names by their numbers, given as a list or by number; None for anything else."""
    if isinstance(found, Mapping):
        try:
            by_number = {int(number): name for number, name in found.items()}
        except (TypeError, ValueError):
            return None
        if sorted(by_number) != list(range(len(by_number))):
            return None
        found = [by_number[number] for number in range(len(by_number))]
    if not isinstance(found, Sequence) or isinstance(found, str):
        return None
    if not all(isinstance(name, str) and name.strip() for name in found):
        return None
    names = (name.strip() for name in found)
    return tuple(None if name in NO_CLASS else name for name in names) or None
