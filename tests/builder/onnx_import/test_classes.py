"""Names of classes: from files, from metadata, and COCO's."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from builder.config.coco import COCO_CLASSES, ID_GAPS
from builder.onnx_import.classes import ClassNumbers, possible_classes
from builder.onnx_import.errors import ForeignModelError
from builder.onnx_import.layouts import LAYOUTS
from tests.builder.onnx_import.detectors import NAMES, SIDE, known_detector, random_detector


def with_metadata(**entries):
    model = random_detector()
    helper.set_model_props(model, entries)
    return model


@pytest.mark.parametrize(
    "text",
    [
        "{0: 'cat', 1: 'dog', 2: 'owl'}",
        '["cat", "dog", "owl"]',
        '{"0": "cat", "1": "dog", "2": "owl"}',
        "cat,dog, owl",
    ],
)
def test_names_are_read_from_metadata(text, imported):
    entry = imported(with_metadata(names=text), classes="metadata")
    assert entry.catalogs[0].classes == NAMES


@pytest.mark.parametrize(
    "text", ["", "cat", "{0: 'cat', 2: 'dog'}", "[1, 2]", "__import__('os')", "[" * 9999]
)
def test_other_metadata_is_refused(text):
    with pytest.raises(ForeignModelError, match="'names' is no list of names"):
        possible_classes("metadata", with_metadata(names=text))


def test_names_that_are_there_are_named():
    with pytest.raises(ForeignModelError, match="it has author, stride"):
        possible_classes("metadata", with_metadata(stride="32", author="x"))


def test_numbers_of_no_class_are_left_out(imported, find, tmp_path):
    (tmp_path / "names.txt").write_text("-\ndog\n\nowl\n", encoding="utf-8-sig")
    entry = imported(known_detector(LAYOUTS["yolov8"]), classes=str(tmp_path / "names.txt"))
    assert entry.catalogs[0].classes == ("dog", "owl")
    ((rows,),) = find(entry, [np.zeros((SIDE, SIDE, 3), np.uint8)])
    assert [label for label, _, _ in rows] == [1, 0], "what it calls 2 and 1"


def test_labels_of_no_class_are_left_out(imported, find, tmp_path):
    (tmp_path / "names.txt").write_text("-\ndog\nowl\n")
    entry = imported(known_detector(LAYOUTS["end-to-end"]), classes=str(tmp_path / "names.txt"))
    ((rows,),) = find(entry, [np.zeros((SIDE, SIDE, 3), np.uint8)])
    assert [label for label, _, _ in rows] == [1, 1, 0], "what it calls 2 and 1"


def test_coco_may_be_numbered_in_three_ways():
    model = random_detector()
    plain, by_id, less_one = possible_classes("coco", model)
    assert plain.classes == by_id.classes == less_one.classes == COCO_CLASSES
    assert (len(plain.names), len(by_id.names), len(less_one.names)) == (80, 91, 90)
    assert [n for n, name in enumerate(by_id.names) if name is None] == [0, *ID_GAPS]
    assert by_id.names[90] == less_one.names[89] == "toothbrush"
    assert possible_classes("coco-ids", model) == (by_id, less_one)


@pytest.mark.parametrize(
    ("names", "said"), [((None,), "no name of a class"), (("a", "b", "a"), "'a' is there twice")]
)
def test_names_that_cannot_be(names, said):
    with pytest.raises(ForeignModelError, match=said):
        ClassNumbers(names)


def test_a_file_of_names_is_text(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ForeignModelError, match="is no text"):
        possible_classes(str(path), random_detector())
