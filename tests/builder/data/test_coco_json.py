"""COCO: its layout, and every way in which a file of it can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from builder.data import DatasetError, read_coco


def description() -> dict[str, Any]:
    """Two images, two categories whose ids leave gaps, an object and a crowd."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 50, "height": 40},
            {"id": 9, "file_name": "b.png"},
            {"id": 1, "file_name": "b.png"},
        ],
        "categories": [{"id": 44, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"image_id": 7, "category_id": 44, "bbox": [1, 2, 10, 20], "area": 60, "iscrowd": 0},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 30, 30], "iscrowd": 1},
        ],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val").mkdir()
    for name in "ab":
        Image.new("RGB", (50, 40)).save(tmp_path / "val" / f"{name}.png")
    return tmp_path


def write(root: Path, data: object) -> None:
    (root / "annotations" / "instances_val.json").write_text(json.dumps(data))


def test_objects_and_crowds(root: Path) -> None:
    write(root, description())
    dataset = read_coco(root, "val")
    assert (dataset.classes, dataset.bad) == (("cat", "dog"), ())
    first, second, _ = dataset.samples
    assert (first.image_id, first.size, second.size) == ("7", (40, 50), (40, 50))
    assert first.boxes_xyxy.tolist() == [[1, 2, 11, 22]]
    assert (first.labels.tolist(), first.areas.tolist()) == ([1], [60])
    assert first.crowds_xyxy.tolist() == [[0, 0, 30, 30]]
    assert first.crowd_labels.tolist() == [0]
    assert not len(second.labels)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"bbox": [1, 2, 0, 5]}, "box (1.0, 2.0, 1.0, 7.0) has no area"),
        ({"bbox": [1, 2, -4, 5]}, "box (1.0, 2.0, -3.0, 7.0) has no area"),
        ({"bbox": [60, 2, 4, 5]}, "box (60.0, 2.0, 64.0, 7.0) lies outside its image"),
        ({"bbox": [1, 2, float("nan"), 5]}, "box (1.0, 2.0, nan, 7.0) is not finite"),
        ({"bbox": [1, 2, 3]}, "is malformed: bbox must be four numbers"),
        ({"bbox": "1 2 3 4"}, "is malformed"),
        ({"bbox": None}, "is malformed"),
        ({"image_id": 8}, "image_id 8 is not that of an image"),
        ({"image_id": [7]}, "is malformed"),
        ({"category_id": 4}, "category_id 4 is not that of a category"),
        ({"image_id": True}, "image_id True is not that of an image"),
        ({"category_id": True}, "category_id True is not that of a category"),
        ({"bbox": "1234"}, "is malformed"),
        ({"bbox": [1, 2, "3", 4]}, "is malformed"),
        ({"bbox": [1, 2, 10**400, 4]}, "is malformed"),
        ({"area": "60"}, "is malformed"),
        ({"area": 2e10}, "an area is no 20000000000.0 pixels"),
        ({"area": -1}, "an area is no -1.0 pixels"),
        ({"area": float("nan")}, "an area is no nan pixels"),
        ({"iscrowd": "0"}, "iscrowd is '0', not 0 or 1"),
        ({"score": 1.5}, "score is 1.5, not from 0 to 1"),
        ({"score": "high"}, "is malformed"),
    ],
)
def test_bad_annotations_are_reported(root: Path, change: dict[str, Any], problem: str) -> None:
    data = description()
    data["annotations"].append({**data["annotations"][0], **change})
    write(root, data)
    dataset = read_coco(root, "val")
    (bad,) = dataset.bad
    assert bad.startswith(f"annotations/instances_val.json: annotations[2]: {problem}")
    assert len(dataset.samples[0].labels) == 1


def test_labels_of_another_detector(root: Path) -> None:
    data = description()
    data["annotations"].append({**data["annotations"][0], "score": 0.25})
    write(root, data)
    scores = read_coco(root, "val").samples[0].scores
    assert scores is not None
    assert scores.tolist() == [1.0, 0.25]
    write(root, description())
    assert read_coco(root, "val").samples[0].scores is None


def test_what_is_not_stated_is_that_of_box_and_file(root: Path) -> None:
    data = description()
    data["annotations"][0]["area"] = None
    data["images"][0] |= {"width": "50", "height": None}
    write(root, data)
    dataset = read_coco(root, "val")
    assert not dataset.bad
    assert dataset.samples[0].areas.tolist() == [200]


@pytest.mark.parametrize("key", ["bbox", "image_id", "category_id"])
def test_incomplete_annotations_are_reported(root: Path, key: str) -> None:
    data = description()
    del data["annotations"][0][key]
    write(root, data)
    (bad,) = read_coco(root, "val").bad
    assert bad == f"annotations/instances_val.json: annotations[0]: lacks '{key}'"


@pytest.mark.parametrize(
    ("image", "bad"),
    [
        ({"id": 11}, "annotations/instances_val.json: images[3]: lacks an 'id' or a 'file_name'"),
        ("b.png", "annotations/instances_val.json: images[3]: lacks an 'id' or a 'file_name'"),
        (
            {"id": 9, "file_name": "c.png"},
            "annotations/instances_val.json: images[3]: id 9 is not its own",
        ),
        ({"id": 11, "file_name": "c.png"}, "val/c.png: there is no such image"),
        (
            {"id": True, "file_name": "c.png"},
            "annotations/instances_val.json: images[3]: id True is not its own",
        ),
        (
            {"id": 11, "file_name": "b.png", "width": "9" * 5000, "height": 40},
            f"annotations/instances_val.json: images[3]: is of {'9' * 5000}x40 pixels, "
            "the file has 50x40",
        ),
        (
            {"id": 11, "file_name": "b.png", "width": 60, "height": 40},
            "annotations/instances_val.json: images[3]: is of 60x40 pixels, the file has 50x40",
        ),
    ],
)
def test_bad_images_are_reported(root: Path, image: object, bad: str) -> None:
    data = description()
    data["images"].append(image)
    write(root, data)
    dataset = read_coco(root, "val")
    assert dataset.bad == (bad,)
    assert len(dataset.samples) == 3


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"images": None}, "has no list 'images'"),
        ({"annotations": {}}, "has no list 'annotations'"),
        ({"categories": [{"name": "cat"}]}, "a category lacks"),
        ({"categories": [{"id": 1, "name": None}]}, "a category lacks"),
        *(
            ({"categories": [{"id": bad, "name": "cat"}]}, "a category lacks")
            for bad in (float("inf"), float("nan"), 1.5, "1", True, None)
        ),
        ({"categories": []}, "no categories"),
        (
            {"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]},
            "two with one id",
        ),
    ],
)
def test_files_that_say_nothing(root: Path, change: dict[str, Any], problem: str) -> None:
    write(root, {**description(), **change})
    with pytest.raises(DatasetError, match=problem):
        read_coco(root, "val")


def test_files_that_are_no_json(root: Path) -> None:
    path = root / "annotations" / "instances_val.json"
    path.write_text('{"images": [}')
    with pytest.raises(DatasetError, match=r"is not JSON: .* line 1 column 13"):
        read_coco(root, "val")
    path.write_text("[" * 100_000)
    with pytest.raises(DatasetError, match="is not JSON"):
        read_coco(root, "val")
    path.unlink()
    path.mkdir()
    with pytest.raises(DatasetError, match="cannot be read as text"):
        read_coco(root, "val")


def headed(second: str = "dog") -> dict[str, Any]:
    """A description in which category 0 is what the others are under."""
    data = description()
    data["categories"] = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 3, "name": "cat", "supercategory": "pets"},
        {"id": 44, "name": second, "supercategory": "pets"},
    ]
    return data


@pytest.mark.parametrize("second", ["dog", "pets"])
def test_a_category_that_is_only_a_heading_is_no_class(root: Path, second: str) -> None:
    write(root, headed(second))
    dataset = read_coco(root, "val")
    assert dataset.classes == ("cat", second)
    assert dataset.samples[0].labels.tolist() == [1]


@pytest.mark.parametrize("split", ["val", "train"])
def test_a_heading_that_any_split_has_objects_of_is_a_class(root: Path, split: str) -> None:
    data = headed()
    write(root, data)
    data["annotations"].append({"image_id": 7, "category_id": 0, "bbox": [1, 2, 10, 20]})
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
    assert read_coco(root, "val").classes == ("pets", "cat", "dog")


def test_another_split_that_cannot_be_read_changes_nothing(root: Path) -> None:
    write(root, headed())
    (root / "annotations" / "instances_other.json").write_text("no JSON")
    assert read_coco(root, "val").classes == ("cat", "dog")
