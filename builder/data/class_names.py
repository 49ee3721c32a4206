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

    Raises DatasetError for a class that is not among them under any name.
    """
    known = known_names(classes)
    for name in dataset.classes:
        if name not in known:
            raise DatasetError(
                f"the data set has the class {name!r}, the model finds {', '.join(classes)}"
            )
    return replace(dataset, classes=tuple(known[name] for name in dataset.classes))


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
