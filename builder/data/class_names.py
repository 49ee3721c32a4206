"""Classes of a data set, called as a model calls its own.

A model may know more classes than a data set has labels of, such as the eighty of COCO where Pascal
VOC has twenty, and data sets have names of their own for what is the same
(``serving.core.class_names``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from builder.data.coco import ScoredBoxes
from builder.data.dataset import Dataset, DatasetError
from serving.core.class_names import known_names


def in_names_of(classes: Sequence[str], dataset: Dataset) -> Dataset:
    """Return ``dataset`` with its classes called as they are in ``classes``, in their own order.

    Raises DatasetError for a class that is not among them under any name, and for two that are
    called the same there.
    """
    known = known_names(classes)
    for name in dataset.classes:
        if name not in known:
            raise DatasetError(
                f"the data set has the class {name!r}, the model finds {', '.join(classes)}"
            )
    called = tuple(known[name] for name in dataset.classes)
    for name, own in zip(called, dataset.classes, strict=True):
        if called.count(name) > 1:
            raise DatasetError(
                f"the data set has {own!r} and another class that the model calls {name!r} as well"
            )
    return replace(dataset, classes=called)


def numbered_as(classes: Sequence[str], dataset: Dataset) -> Dataset:
    """Return ``dataset`` with ``classes`` for its own, of which it may have fewer, in any order.

    Raises DatasetError for a class that is not among them.
    """
    if dataset.classes == tuple(classes):
        return dataset
    for name in dataset.classes:
        if name not in classes:
            raise DatasetError(
                f"the split has the class {name!r}, what is trained finds {', '.join(classes)}"
            )
    numbers = np.array([classes.index(name) for name in dataset.classes], dtype=np.int64)
    samples = tuple(
        replace(
            sample,
            labels=numbers[sample.labels],
            crowd_labels=numbers[sample.crowd_labels],
            unlabelled=numbers[sample.unlabelled],
        )
        for sample in dataset.samples
    )
    return replace(dataset, classes=tuple(classes), samples=samples)


def relabelled(found: ScoredBoxes, classes: Sequence[str], dataset: Dataset) -> ScoredBoxes:
    """Return what was found of the data set's classes, by their numbers in it.

    ``found`` is by the numbers of ``classes``; a class that the data set does not have is left out.
    """
    numbers = np.array(
        [dataset.classes.index(name) if name in dataset.classes else -1 for name in classes]
    )
    labels = numbers[found.labels]
    kept = labels >= 0
    return ScoredBoxes(found.boxes_xyxy[kept], found.scores[kept], labels[kept])
