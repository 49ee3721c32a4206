"""What every reader has in common: boxes on images, and what to do about bad ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builder.data import DATASETS, DatasetError, read_dataset
from builder.data.dataset import Annotation, Collector, find_image, read_image, read_names

SIZE = (40, 50)


def collect(*annotations: Annotation) -> Collector:
    found = Collector(Path("root"), ("x", "y"))
    found.add("a", Path("root/a.jpg"), SIZE, annotations)
    return found


def test_boxes_are_clipped() -> None:
    (sample,) = collect(Annotation("here", (-5, 30, 20, 60), 1)).dataset().samples
    assert sample.boxes_xyxy.tolist() == [[0, 30, 20, 40]]
    assert sample.areas.tolist() == [200]
    assert (sample.boxes_xyxy.dtype, sample.labels.dtype) == (np.float32, np.int64)


def test_the_area_may_be_less_than_the_box() -> None:
    (sample,) = collect(Annotation("here", (0, 0, 10, 10), 0, area=40.0)).dataset().samples
    assert sample.areas.tolist() == [40]


def test_crowds_are_kept_apart() -> None:
    crowd = Annotation("there", (0, 0, 30, 30), 1, is_crowd=True)
    (sample,) = collect(Annotation("here", (1, 2, 3, 4), 0), crowd).dataset().samples
    assert (len(sample.boxes_xyxy), sample.labels.tolist()) == (1, [0])
    assert sample.crowds_xyxy.tolist() == [[0, 0, 30, 30]]
    assert sample.crowd_labels.tolist() == [1]


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ((5, 5, 5, 9), "box (5, 5, 5, 9) has no area"),
        ((9, 5, 5, 9), "box (9, 5, 5, 9) has no area"),
        ((50, 0, 60, 9), "box (50, 0, 60, 9) lies outside its image"),
        ((0, -9, 10, 0), "box (0, -9, 10, 0) lies outside its image"),
        ((0, 0, float("nan"), 9), "box (0, 0, nan, 9) is not finite"),
        ((0, 0, float("inf"), 9), "box (0, 0, inf, 9) is not finite"),
    ],
)
def test_bad_boxes_are_left_out(box: tuple[float, ...], problem: str) -> None:
    found = collect(Annotation("labels/a.txt:3", box, 0), Annotation("", (0, 0, 1, 1), 1))  # type: ignore[arg-type]
    (sample,) = found.dataset().samples
    assert sample.labels.tolist() == [1]
    assert found.bad == [f"labels/a.txt:3: {problem}"]


def test_images_are_measured_by_their_header(tmp_path: Path) -> None:
    found = Collector(tmp_path, ("x",))
    Image.new("L", (50, 40)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("not a picture")
    assert found.measure(tmp_path / "a.png") == (40, 50)
    assert found.measure(tmp_path / "b.jpg") is None
    assert found.measure(tmp_path / "c.jpg") is None
    assert found.bad == [
        "b.jpg: is not an image (UnidentifiedImageError)",
        "c.jpg: there is no such image",
    ]


def test_decoding(tmp_path: Path) -> None:
    Image.new("L", (50, 40), 7).save(tmp_path / "a.jpg")
    image = read_image(tmp_path / "a.jpg")
    assert (image.shape, image.dtype) == ((40, 50, 3), np.uint8)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"a\.jpg: cannot be decoded"):
        read_image(tmp_path / "a.jpg")


def test_lines_are_numbered(tmp_path: Path) -> None:
    found = Collector(tmp_path, ("x",))
    (tmp_path / "a.txt").write_text("1 2\n\n 3\n")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe1")
    assert list(found.lines(tmp_path / "a.txt")) == [("a.txt:1", ["1", "2"]), ("a.txt:3", ["3"])]
    assert list(found.lines(tmp_path / "b.txt")) == []
    assert found.bad == ["b.txt: is not text (invalid start byte)"]


def test_a_list_of_names(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a 1\n\nb -1\n")
    assert read_names(tmp_path, tmp_path / "train.txt") == ["a", "b"]
    with pytest.raises(DatasetError, match="has no split 'val'"):
        read_names(tmp_path, tmp_path / "val.txt")


def test_any_kind_of_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert find_image(tmp_path, "a") == tmp_path / "a.png"
    assert find_image(tmp_path, "b") == tmp_path / "b.jpg"


def test_bad_annotations_are_skipped_or_refused(bccd: Path) -> None:
    assert len(read_dataset("bccd", bccd, "train").bad) == 1
    with pytest.raises(DatasetError, match=r"1 bad annotations\n  Annotations/image_0\.xml:1: box"):
        read_dataset("bccd", bccd, "train", "refuse")


def test_a_long_refusal_is_cut(tmp_path: Path, bccd: Path) -> None:
    (bccd / "ImageSets/Main/train.txt").write_text("\n".join(map(str, range(30))) + "\nimage_1")
    with pytest.raises(DatasetError, match=r"and 10 more$"):
        read_dataset("bccd", bccd, "train", "refuse")


@pytest.mark.parametrize("name", DATASETS)
def test_an_absent_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="there is no folder"):
        read_dataset(name, tmp_path / "nowhere", "train")


@pytest.mark.parametrize("name", DATASETS)
def test_an_empty_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="there is no"):
        read_dataset(name, tmp_path, "train")


def test_nothing_usable(bccd: Path) -> None:
    (bccd / "ImageSets/Main/train.txt").write_text("absent")
    with pytest.raises(DatasetError, match=r"no image is usable, first Annotations/absent\.xml"):
        read_dataset("bccd", bccd, "train")
