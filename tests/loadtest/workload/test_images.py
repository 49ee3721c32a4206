"""Reading what is to be sent, and what is in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from loadtest.workload.images import ServedDetections, read_data, read_images
from tests.serving.fakes import JPEG, encode, picture

BCCD = Path("tests/data/bccd")


def test_a_voc_folder():
    names = (BCCD / "ImageSets/Main/test.txt").read_text().split()
    images = read_data(BCCD, "test")
    assert [found.name for found in images] == [f"{name}.jpg" for name in names]
    first = next(found for found in images if "00031" in found.name)
    assert first.data == (BCCD / "JPEGImages" / first.name).read_bytes()
    assert first.content_type == "image/jpeg"
    assert first.objects is not None
    assert first.objects[0].box_xywh == (127, 143, 143, 130)
    assert (first.objects[0].class_name, first.objects[0].area) == ("WBC", 143 * 130)


def voc_folder(root: Path, objects: str) -> Path:
    """Make a data set of one image, 64 x 48, with these objects in its annotations."""
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/all.txt").write_text("a\n")
    (root / "JPEGImages/a.jpg").write_bytes(encode(picture(64, 48), "JPEG"))
    (root / "Annotations/a.xml").write_text(f"<annotation>{objects}</annotation>")
    return root


def test_boxes_end_with_the_image_and_have_an_area(tmp_path):
    corners = [(60, 40, 90, 90), (70, 0, 80, 10), (5, 5, 5, 9)]
    boxes = "".join(
        f"<object><name>cell</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for x1, y1, x2, y2 in corners
    )
    (only,) = read_data(voc_folder(tmp_path, boxes), "all")
    assert only.objects is not None
    assert [item.box_xywh for item in only.objects] == [(60, 40, 4, 8)]


def test_a_turned_image_of_any_name_and_kind(tmp_path):
    """Its boxes are of the image as it is shown, which is 48 x 64."""
    box = "<bndbox><xmin>1</xmin><ymin>50</ymin><xmax>9</xmax><ymax>60</ymax></bndbox>"
    root = voc_folder(tmp_path, f"<object><name>cell</name>{box}</object>")
    (root / "ImageSets/Main/all.txt").write_text("a photo\n", encoding="utf-8-sig")
    (root / "Annotations/a.xml").rename(root / "Annotations/a photo.xml")
    turned = PIL.Image.new("RGB", (64, 48))
    turned.getexif()[0x0112] = 6
    turned.save(root / "JPEGImages/a photo.PNG", exif=turned.getexif())
    (only,) = read_data(root, "all")
    assert only.objects is not None
    assert [item.box_xywh for item in only.objects] == [(1, 50, 8, 10)]


@pytest.mark.parametrize("corner", ["", "<xmax>nan</xmax>", "<xmax>wide</xmax>"])
def test_a_box_without_corners_is_told(tmp_path, corner):
    box = f"<bndbox><xmin>1</xmin><ymin>2</ymin>{corner}<ymax>9</ymax></bndbox>"
    root = voc_folder(tmp_path, f"<object><name>cell</name>{box}</object>")
    with pytest.raises(ValueError, match="cannot be read"):
        read_data(root, "all")


def test_finding_what_voc_calls_difficult_is_neither_right_nor_wrong(tmp_path):
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    objects = "".join(
        f"<object><name> cow </name>{stated}{box}</object>"
        for stated in ("", "<difficult>0</difficult>", "<difficult> 1 </difficult>")
    )
    (only,) = read_data(voc_folder(tmp_path, objects), "all")
    assert only.objects is not None
    assert [item.is_crowd for item in only.objects] == [False, False, True]
    assert {item.class_name for item in only.objects} == {"cow"}


def test_a_coco_file(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "a.jpg").write_bytes(JPEG)
    (tmp_path / "images/b.png").write_bytes(encode(picture(8, 8), "PNG"))
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.png"}],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 9.5, "iscrowd": 1},
            {"image_id": 7, "category_id": 90, "bbox": [0, 0, 2, 2]},
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    first, second = read_data(tmp_path / "annotations.json", "unused")
    assert (second.content_type, second.objects) == ("image/png", ())
    assert first.objects is not None
    person, brush = first.objects
    assert (person.class_name, person.area, person.is_crowd) == ("person", 9.5, True)
    assert (brush.class_name, brush.area, brush.is_crowd) == ("toothbrush", 4.0, False)


@pytest.mark.parametrize("content", ["", "[]", '{"images": []}', '{"images": [{}]}'])
def test_what_is_no_data_set(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"x\.json"):
        read_data(path, "test")


def test_no_such_split():
    with pytest.raises(ValueError, match="cannot be read"):
        read_data(BCCD, "nowhere")


def test_an_empty_split(tmp_path):
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/test.txt").write_text("")
    with pytest.raises(ValueError, match="has no images"):
        read_data(tmp_path, "test")


def test_files_without_annotations(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(encode(picture(8, 8), "WEBP"))
    (only,) = read_images([path])
    assert (only.content_type, only.objects) == ("image/webp", None)
    path.write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match="not a JPEG, PNG or WebP"):
        read_images([path])
    with pytest.raises(ValueError, match="cannot be read"):
        read_images([tmp_path / "missing"])


def test_a_key_tells_detections_apart():
    def found(score: float, label: int) -> ServedDetections:
        boxes = np.array([[0, 0, 1, 1]], np.float32)
        return ServedDetections(boxes, np.array([score], np.float32), np.array([label]))

    keys = {found(0.5, 1).key(), found(0.5, 2).key(), found(0.6, 1).key()}
    assert len(keys) == 3
    assert found(0.5, 1).key() in keys
