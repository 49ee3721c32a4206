"""Data sets under a model's names of classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builder.config.coco import COCO_CLASSES
from builder.data import Dataset, DatasetError, Sample, ScoredBoxes, average_precision
from builder.data.class_names import in_names_of, numbered_as, relabelled
from builder.data.voc import CLASSES

BOX = np.array([[0, 0, 40, 40]], dtype=np.float32)


def dataset(*classes: str) -> Dataset:
    """One image with one object of the last class."""
    label = np.array([len(classes) - 1])
    area = np.array([1600], dtype=np.float32)
    return Dataset(classes, (Sample("a", Path("a"), (100, 100), BOX, label, area),))


def test_every_class_of_voc_is_one_of_coco() -> None:
    renamed = in_names_of(COCO_CLASSES, dataset(*CLASSES)).classes
    assert set(renamed) < set(COCO_CLASSES)
    changed = dict(pair for pair in zip(CLASSES, renamed, strict=True) if pair[0] != pair[1])
    assert changed == {
        "aeroplane": "airplane",
        "diningtable": "dining table",
        "motorbike": "motorcycle",
        "pottedplant": "potted plant",
        "sofa": "couch",
        "tvmonitor": "tv",
    }
    assert in_names_of(CLASSES, dataset(*renamed)).classes == CLASSES


def test_names_that_a_model_has_stay() -> None:
    both = ("tv", "tvmonitor")
    assert in_names_of(both, dataset(*both)).classes == both


def test_a_class_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(DatasetError, match="has the class 'zebra', the model finds cat, dog"):
        in_names_of(("cat", "dog"), dataset("dog", "zebra"))


def test_what_is_found_is_compared_by_name() -> None:
    """The model's other class is no mistake: the data set does not know it."""
    classes = ("sofa", "zebra", "dog")
    data = in_names_of(classes, dataset("dog", "couch"))
    found = ScoredBoxes(
        np.repeat(BOX, 2, axis=0), np.array([0.9, 0.5], np.float32), np.array([1, 0])
    )
    rows = relabelled(found, classes, data)
    assert (rows.labels.tolist(), rows.scores.tolist()) == ([1], [0.5])
    assert average_precision(data, [rows]).ap_by_class["sofa"] == pytest.approx(1.0)


def test_two_classes_that_the_model_has_as_one_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"'sofa' and another class .* calls 'couch' as well"):
        in_names_of(COCO_CLASSES, dataset("sofa", "couch"))


def test_a_split_with_other_numbers_for_the_same_classes() -> None:
    data = dataset("dog", "cat")
    assert numbered_as(data.classes, data) is data
    numbered = numbered_as(("bird", "cat", "dog"), data)
    assert numbered.classes == ("bird", "cat", "dog")
    assert numbered.samples[0].labels.tolist() == [1]
    with pytest.raises(DatasetError, match="has the class 'dog', what is trained finds cat"):
        numbered_as(("cat",), data)
