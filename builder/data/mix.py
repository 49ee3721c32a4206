"""Several data sets as one, under the classes of one of them or of all.

    ROOT/mix.json    {"classes": ["person", "bicycle", ...],
                      "splits": {"train": [SOURCE, ...], ...}}

    SOURCE           dataset   how it is laid out: a key of ``DATASETS``
                     folder    of the data set, from that of mix.json
                     split     of the data set, or a list of them
                     rename    its names of classes -> the mix's, where they differ
                     repeat    how often each of its images is taken [1]
                     certain   objects labelled with a lower score are regions where finding one is
                               neither right nor wrong [0]

A class of the mix that a source does not have is *unlabelled* in its images: nothing is learnt
about it from them, and nothing found of it counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from builder.config.rules import TEXT, Rule, check, several, share, whole
from builder.data.dataset import Dataset, DatasetError, Sample, read_text

DESCRIPTION = "mix.json"

Readers = Mapping[str, Callable[[Path, str], Dataset]]

_NAMES = Rule(
    lambda value: isinstance(value, dict) and all(map(TEXT.holds, value.values())),
    "a mapping of names",
)


@dataclass(frozen=True, slots=True)
class Source:
    """One data set of a split of the mix, and how its images are taken.

    Raises ValueError for a field that cannot be.
    """

    dataset: str
    folder: str
    split: str | tuple[str, ...]
    rename: Mapping[str, str] = field(default_factory=dict)
    repeat: int = 1
    certain: float = 0.0

    def __post_init__(self) -> None:
        check(self, SOURCE_RULES)

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits of the source's own data set, one or more."""
        return (self.split,) if isinstance(self.split, str) else self.split


SOURCE_RULES: dict[str, Rule] = {
    "dataset": TEXT,
    "folder": TEXT,
    "split": Rule(
        lambda value: TEXT.holds(value) or several(TEXT, 1).holds(value), "a text or a list of them"
    ),
    "rename": _NAMES,
    "repeat": whole(1),
    "certain": share(),
}


def read_mix(root: Path, split: str, readers: Readers) -> Dataset:
    """Return the split that ``root``/mix.json describes.

    The sources' own splits are read by ``readers``. Raises DatasetError.
    """
    path = root / DESCRIPTION
    classes, sources = _describe(path, split)
    samples: list[Sample] = []
    bad: list[str] = []
    for source in sources:
        if source.dataset not in readers:
            raise DatasetError(
                f"{path}: dataset is {source.dataset!r}, not one of {', '.join(readers)}"
            )
        for part in source.splits:
            found = readers[source.dataset](root / source.folder, part)
            samples.extend(_mapped(found, source, classes, path))
            bad.extend(f"{source.folder}: {line}" for line in found.bad)
    return Dataset(classes, tuple(samples), tuple(bad))


def _describe(path: Path, split: str) -> tuple[tuple[str, ...], list[Source]]:
    try:
        data = json.loads(read_text(path))
        classes, entries = tuple(data["classes"]), data["splits"].get(split)
    except FileNotFoundError as error:
        raise DatasetError(f"there is no {path}") from error
    except DatasetError:
        raise
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} lacks 'classes' or 'splits'") from error
    if not classes or not all(map(TEXT.holds, classes)) or len(set(classes)) < len(classes):
        raise DatasetError(f"{path}: 'classes' are no names, or one comes twice")
    if not isinstance(entries, list) or not entries:
        raise DatasetError(f"{path} describes no split {split!r}")
    return classes, [_source(path, entry) for entry in entries]


def _source(path: Path, entry: Any) -> Source:
    try:
        listed = isinstance(entry.get("split"), list)
        return Source(**({**entry, "split": tuple(entry["split"])} if listed else entry))
    except (AttributeError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: {entry!r} is no source: {error}") from error


def _mapped(
    found: Dataset, source: Source, classes: tuple[str, ...], path: Path
) -> Iterator[Sample]:
    """Yield the samples of a source under the classes of the mix, as often as it says."""
    names = [source.rename.get(name, name) for name in found.classes]
    for name in source.rename:
        if name not in found.classes:
            raise DatasetError(f"{path}: {source.folder} has no class {name!r} to rename")
    for name in names:
        if name not in classes:
            raise DatasetError(f"{path}: {source.folder} has the class {name!r}, the mix has not")
    labels = np.array([classes.index(name) for name in names], dtype=np.int64)
    unlabelled = np.setdiff1d(np.arange(len(classes)), labels)
    samples = [_relabelled(sample, labels, unlabelled, source.certain) for sample in found.samples]
    for _ in range(source.repeat):
        yield from samples


def _relabelled(sample: Sample, labels: Any, unlabelled: Any, certain: float) -> Sample:
    of_boxes, of_crowds = labels[sample.labels], labels[sample.crowd_labels]
    sample = replace(
        sample,
        labels=of_boxes,
        crowd_labels=of_crowds,
        unlabelled=np.union1d(labels[sample.unlabelled], unlabelled),
    )
    if sample.scores is None:
        return sample
    keep = sample.scores >= certain
    return replace(
        sample,
        boxes_xyxy=sample.boxes_xyxy[keep],
        labels=of_boxes[keep],
        areas=sample.areas[keep],
        scores=sample.scores[keep],
        crowds_xyxy=np.concatenate([sample.crowds_xyxy, sample.boxes_xyxy[~keep]]),
        crowd_labels=np.concatenate([of_crowds, of_boxes[~keep]]),
    )
