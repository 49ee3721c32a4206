"""Several data sets under the classes of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from builder.data import DatasetError, read_dataset

CLASSES = ("person", "couch", "dog", "kite")


def write_voc(root: Path) -> None:
    """One image with a sofa, and a person who is difficult to see."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("person\nsofa\n")
    (root / "ImageSets/Main/train.txt").write_text("a\n")
    Image.new("RGB", (40, 30)).save(root / "JPEGImages/a.png")
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>22</ymax></bndbox>"
    (root / "Annotations/a.xml").write_text(
        f"<annotation><object><name>sofa</name>{box}</object>"
        f"<object><name>person</name><difficult>1</difficult>{box}</object></annotation>"
    )


def write_coco(root: Path) -> None:
    """One image with a dog that is certain, and a kite that is not."""
    (root / "annotations").mkdir(parents=True)
    (root / "part").mkdir()
    Image.new("RGB", (40, 30)).save(root / "part/b.png")
    rows = [(1, 0.9), (2, 0.2)]
    data = {
        "images": [{"id": 1, "file_name": "b.png"}],
        "categories": [{"id": i, "name": n} for i, n in enumerate(("person", "dog", "kite"))],
        "annotations": [
            {"image_id": 1, "category_id": label, "bbox": [5 * label, 2, 4, 6], "score": score}
            for label, score in rows
        ],
    }
    (root / "annotations/instances_part.json").write_text(json.dumps(data))


VOC = {"dataset": "voc", "folder": "voc", "split": "train", "rename": {"sofa": "couch"}}
COCO = {"dataset": "coco", "folder": "coco", "split": ["part"], "repeat": 2, "certain": 0.3}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_voc(tmp_path / "voc")
    write_coco(tmp_path / "coco")
    return tmp_path


def describe(root: Path, **changes: Any) -> None:
    data = {"classes": CLASSES, "splits": {"train": [VOC, COCO]}} | changes
    (root / "mix.json").write_text(json.dumps(data))


def test_sources_under_one_set_of_classes(root: Path) -> None:
    describe(root)
    dataset = read_dataset("mix", root, "train")
    assert dataset.classes == CLASSES
    voc, coco, again = dataset.samples
    assert voc.labels.tolist() == [1]
    assert (voc.crowd_labels.tolist(), len(voc.crowds_xyxy)) == ([0], 1)
    assert voc.unlabelled.tolist() == [2, 3]
    assert voc.scores is None
    assert again is coco
    assert coco.labels.tolist() == [2]
    assert coco.scores is not None
    np.testing.assert_allclose(coco.scores, [0.9])
    assert coco.areas.shape == (1,)
    # What is uncertain is neither an object nor background.
    assert coco.crowd_labels.tolist() == [3]
    assert coco.crowds_xyxy.tolist() == [[10, 2, 14, 8]]
    assert coco.unlabelled.tolist() == [1]


def test_digest_tells_scores_and_what_is_unlabelled(root: Path) -> None:
    digests = set()
    for classes in (CLASSES, (*CLASSES, "bed")):
        for certain in (0.1, 0.3):
            describe(root, classes=classes, splits={"train": [VOC, COCO | {"certain": certain}]})
            digests.add(read_dataset("mix", root, "train").digest)
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": ["person", "person"]}, "'classes' are no names, or one comes twice"),
        ({"classes": []}, "'classes' are no names"),
        ({"classes": 3}, "lacks 'classes' or 'splits'"),
        ({"splits": []}, "lacks 'classes' or 'splits'"),
        ({"splits": {}}, "describes no split 'train'"),
        ({"splits": {"train": []}}, "describes no split 'train'"),
        ({"splits": {"train": ["voc"]}}, "is no source"),
        ({"splits": {"train": [{"dataset": "voc"}]}}, "is no source"),
        ({"splits": {"train": [VOC | {"repeat": 0}]}}, "repeat is 0"),
        ({"splits": {"train": [VOC | {"split": []}]}}, "split is"),
        ({"splits": {"train": [VOC | {"colour": 1}]}}, "colour"),
        ({"splits": {"train": [VOC | {"dataset": "mix"}]}}, "dataset is 'mix', not one of bccd"),
        ({"splits": {"train": [VOC | {"rename": {}}]}}, "has the class 'sofa', the mix has not"),
        ({"splits": {"train": [VOC | {"rename": {"bed": "dog"}}]}}, "no class 'bed' to rename"),
        ({"splits": {"train": [VOC | {"folder": "nowhere"}]}}, "nowhere"),
    ],
)
def test_wrong_descriptions_are_refused(root: Path, change: dict[str, Any], sentence: str) -> None:
    describe(root, **change)
    with pytest.raises(DatasetError, match=sentence):
        read_dataset("mix", root, "train")


@pytest.mark.parametrize(("text", "sentence"), [(None, "there is no"), ("{", "is not JSON")])
def test_without_a_description(root: Path, text: str | None, sentence: str) -> None:
    if text is not None:
        (root / "mix.json").write_text(text)
    with pytest.raises(DatasetError, match=sentence):
        read_dataset("mix", root, "train")
