"""Data sets: their readers, augmentation, batches, and average precision on them.

    dataset      what a data set is, whoever reads it
    coco_json, voc, yolo, deeppcb, mix   a reader each
    augment, loader   samples to batches for training
    coco         average precision; ``class_names`` matches what classes are called

Depends on ``builder.config``, ``serving.core`` and ``serving.imaging``. Begin with ``dataset``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from builder.data.coco import (
    AveragePrecision,
    ScoredBoxes,
    average_precision,
    count_objects,
    resampled_ap,
)
from builder.data.coco_json import read_coco
from builder.data.dataset import Dataset, DatasetError, Sample, decodable
from builder.data.deeppcb import read_deeppcb
from builder.data.mix import read_mix
from builder.data.voc import read_bccd, read_voc
from builder.data.yolo import read_yolo

_SINGLE: dict[str, Callable[[Path, str], Dataset]] = {
    "bccd": read_bccd,
    "coco": read_coco,
    "deeppcb": read_deeppcb,
    "voc": read_voc,
    "yolo": read_yolo,
}

_MIX: dict[str, Callable[[Path, str], Dataset]] = {"mix": partial(read_mix, readers=_SINGLE)}

DATASETS = dict(sorted((_SINGLE | _MIX).items()))
"""Readers of data sets: name -> function of (folder, split)."""

BAD_ANNOTATIONS = ("skip", "refuse")
"""Ways to treat annotations that cannot be used: leave them out, or refuse the data set."""

MAX_LINES = 20
"""Most bad annotations that a refusal lists."""


def read_dataset(name: str, root: Path, split: str, bad_annotations: str = "skip") -> Dataset:
    """Read a split with the reader ``name``, each of whose images can be decoded.

    Raises DatasetError if it cannot be read or, by "refuse", if any annotation or image in it
    cannot be used.
    """
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}")
    dataset = decodable(DATASETS[name](root, split))
    if bad_annotations == "refuse" and dataset.bad:
        lines = "".join(f"\n  {line}" for line in dataset.bad[:MAX_LINES])
        more = len(dataset.bad) - MAX_LINES
        rest = f"\n  and {more} more" if more > 0 else ""
        raise DatasetError(f"{root}: {len(dataset.bad)} bad annotations{lines}{rest}")
    return dataset


__all__ = [
    "BAD_ANNOTATIONS",
    "DATASETS",
    "AveragePrecision",
    "Dataset",
    "DatasetError",
    "Sample",
    "ScoredBoxes",
    "average_precision",
    "count_objects",
    "read_bccd",
    "read_coco",
    "read_dataset",
    "read_deeppcb",
    "read_voc",
    "read_yolo",
    "resampled_ap",
]
