"""Pascal VOC: its layout, and every way in which a file of it can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builder.data import DatasetError, read_bccd, read_voc

ANNOTATIONS = """<annotation>
  <size><width>128</width><height>96</height></size>
  <object>
    <name>WBC</name>
    <bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>12</ymax></bndbox>
  </object>
</annotation>
"""


@pytest.fixture
def one(bccd: Path) -> Path:
    """A split with one image, whose annotations are ANNOTATIONS."""
    (bccd / "ImageSets/Main/one.txt").write_text("image_1\n")
    (bccd / "Annotations/image_1.xml").write_text(ANNOTATIONS)
    return bccd


def test_bccd(bccd: Path) -> None:
    dataset = read_bccd(bccd, "train")
    assert dataset.classes == ("RBC", "WBC", "Platelets")
    assert [sample.image_id for sample in dataset.samples] == [f"image_{i}" for i in range(6)]
    first, *_, last = dataset.samples
    assert (first.size, first.image.shape) == ((96, 128), (96, 128, 3))
    assert first.labels.tolist() == [0, 1, 2]
    sides = first.boxes_xyxy[:, 2:] - first.boxes_xyxy[:, :2]
    assert (sides == 32).all()
    assert last.boxes_xyxy.shape == (0, 4)


def test_one_object(one: Path) -> None:
    dataset = read_bccd(one, "one")
    (sample,) = dataset.samples
    assert (sample.boxes_xyxy.tolist(), sample.labels.tolist()) == ([[1, 2, 11, 12]], [1])
    assert not dataset.bad


def test_difficult_objects_are_neither_right_nor_wrong(one: Path) -> None:
    difficult = ANNOTATIONS.replace("<bndbox>", "<difficult>1</difficult><bndbox>")
    (one / "Annotations/image_1.xml").write_text(difficult)
    (sample,) = read_bccd(one, "one").samples
    assert not len(sample.labels)
    assert (sample.crowds_xyxy.tolist(), sample.crowd_labels.tolist()) == ([[1, 2, 11, 12]], [1])


def test_classes_of_ones_own(one: Path) -> None:
    (one / "classes.txt").write_text("RBC\nWBC \n\n")
    dataset = read_voc(one, "one")
    assert dataset.classes == ("RBC", "WBC")
    np.testing.assert_array_equal(dataset.samples[0].labels, [1])


def test_classes_of_pascal_voc(one: Path) -> None:
    (one / "Annotations/image_1.xml").write_text(ANNOTATIONS.replace("WBC", "tvmonitor"))
    dataset = read_voc(one, "one")
    assert len(dataset.classes) == 20
    assert dataset.samples[0].labels.tolist() == [19]


@pytest.mark.parametrize(
    ("change", "line", "problem"),
    [
        (("WBC", "Basophil"), 3, "class 'Basophil' is not one of RBC, WBC, Platelets"),
        (("<name>WBC</name>", ""), 3, "class '' is not one of"),
        (("<xmax>11</xmax>", ""), 3, "expected four numbers in bndbox, not xmin '1', ymin '2', xm"),
        ((">11<", ">eleven<"), 3, "expected four numbers in bndbox"),
        ((">11<", ">1<"), 3, "box (1.0, 2.0, 1.0, 12.0) has no area"),
        ((">11<", ">nan<"), 3, "box (1.0, 2.0, nan, 12.0) is not finite"),
    ],
)
def test_bad_objects_are_reported(
    one: Path, change: tuple[str, str], line: int, problem: str
) -> None:
    (one / "Annotations/image_1.xml").write_text(ANNOTATIONS.replace(*change))
    dataset = read_bccd(one, "one")
    (bad,) = dataset.bad
    assert bad.startswith(f"Annotations/image_1.xml:{line}: {problem}")
    assert not len(dataset.samples[0].labels)


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        (None, "Annotations/image_1.xml: there is no such file of annotations"),
        (ANNOTATIONS.replace("</bndbox>", ""), "Annotations/image_1.xml:6: is not XML (mismatched"),
        ("", "Annotations/image_1.xml:1: is not XML (no element found)"),
        (
            ANNOTATIONS.replace(">96<", ">64<"),
            "Annotations/image_1.xml: the annotations are of 128x64 pixels, the image has 128x96",
        ),
        (
            '<?xml version="1.0" encoding="gbk"?><annotation/>',
            "Annotations/image_1.xml: cannot be r",
        ),
        (
            '<?xml version="1.0" encoding="no-such"?><annotation/>',
            "Annotations/image_1.xml: cannot be read (unknown encoding: no-such)",
        ),
        ("<html></html>", "Annotations/image_1.xml: is a 'html', not an 'annotation'"),
    ],
)
def test_images_without_usable_annotations(one: Path, text: str | None, bad: str) -> None:
    (one / "ImageSets/Main/one.txt").write_text("image_1\nimage_2")
    path = one / "Annotations/image_1.xml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    dataset = read_bccd(one, "one")
    assert [sample.image_id for sample in dataset.samples] == ["image_2"]
    (line,) = dataset.bad
    assert line.startswith(bad)


def test_a_missing_image(one: Path) -> None:
    (one / "ImageSets/Main/one.txt").write_text("image_1\nimage_2")
    (one / "JPEGImages/image_1.jpg").unlink()
    dataset = read_bccd(one, "one")
    assert dataset.bad == ("JPEGImages/image_1.jpg: there is no such image",)
    assert len(dataset.samples) == 1


@pytest.mark.parametrize(
    ("height", "width"), [("0", "0"), ("", ""), ("0", "128"), (" 96 ", "128.0")]
)
def test_sizes_that_are_right_or_say_nothing(one: Path, height: str, width: str) -> None:
    text = ANNOTATIONS.replace(">96<", f">{height}<").replace(">128<", f">{width}<")
    (one / "Annotations/image_1.xml").write_text(text)
    assert not read_bccd(one, "one").bad


def test_lists_of_single_classes(one: Path) -> None:
    (one / "ImageSets/Main/one.txt").write_text("image_1  1\nimage_2 -1\n", encoding="utf-8-sig")
    assert [sample.image_id for sample in read_bccd(one, "one").samples] == ["image_1", "image_2"]


def test_names_that_end_in_a_number(one: Path) -> None:
    (one / "ImageSets/Main/one.txt").write_text("cells 1\n")
    (one / "JPEGImages/image_1.jpg").rename(one / "JPEGImages/cells 1.jpg")
    (one / "Annotations/image_1.xml").rename(one / "Annotations/cells 1.xml")
    (sample,) = read_bccd(one, "one").samples
    assert sample.image_id == "cells 1"


def test_images_that_no_server_takes(one: Path) -> None:
    (one / "ImageSets/Main/one.txt").write_text("image_1\nimage_2")
    path = one / "JPEGImages/image_1.jpg"
    Image.open(path).save(path.with_suffix(".tif"))
    path.unlink()
    assert read_bccd(one, "one").bad == (
        "JPEGImages/image_1.tif: is a TIFF, not JPEG, PNG or WebP",
    )


def test_a_list_of_classes_that_is_none(one: Path) -> None:
    (one / "classes.txt").mkdir()
    with pytest.raises(DatasetError, match=r"classes\.txt cannot be read as text"):
        read_voc(one, "one")
