"""YOLO: its layout, and every way in which a file of it can be wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from builder.data import DatasetError, read_yolo

DESCRIPTION = "path: .\ntrain: images/train\nval: val.txt\nnames: [cat, dog]\n"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two images in train, of which the second has no file of labels; one in val."""
    for folder in ("images/train", "labels/train", "images/val", "labels/val"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("train/a", "train/b", "val/c"):
        Image.new("RGB", (50, 40)).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "labels/train/a.txt").write_text("1 0.5 0.5 0.4 0.5\n0 0 0 0 .5 .5 0\n")
    (tmp_path / "labels/val/c.txt").write_text("")
    (tmp_path / "data.yaml").write_text(DESCRIPTION)
    (tmp_path / "val.txt").write_text("./images/val/c.png\n")
    return tmp_path


def test_boxes_and_outlines(pets: Path) -> None:
    dataset = read_yolo(pets, "train")
    assert (dataset.classes, dataset.bad) == (("cat", "dog"), ())
    first, second = dataset.samples
    assert (first.image_id, second.image_id) == ("a", "b")
    assert first.labels.tolist() == [1, 0]
    assert first.boxes_xyxy.tolist() == [[15, 10, 35, 30], [0, 0, 25, 20]]
    assert not len(second.labels)


def test_a_list_of_images(pets: Path) -> None:
    (sample,) = read_yolo(pets, "val").samples
    assert sample.image_id == "c"


@pytest.mark.parametrize(
    "changed",
    [
        DESCRIPTION.replace("[cat, dog]", "{0: cat, 1: dog}"),
        DESCRIPTION.replace("images/train", "[images/train]"),
        DESCRIPTION.replace("images/train", "../images/train"),
        DESCRIPTION.replace("path: .", "path: /of/another/machine"),
        DESCRIPTION.replace("path: .\n", ""),
    ],
)
def test_other_ways_to_say_it(pets: Path, changed: str) -> None:
    (pets / "data.yaml").write_text(changed)
    dataset = read_yolo(pets, "train")
    assert (len(dataset.samples), dataset.classes) == (2, ("cat", "dog"))


def test_labels_beside_the_images(pets: Path) -> None:
    (pets / "all").mkdir()
    Image.new("RGB", (50, 40)).save(pets / "all" / "d.jpg")
    (pets / "all" / "d.txt").write_text("0 .5 .5 1 1\n")
    (pets / "data.yaml").write_text(f"{DESCRIPTION}test: all\n")
    (sample,) = read_yolo(pets, "test").samples
    assert sample.boxes_xyxy.tolist() == [[0, 0, 50, 40]]


def test_labels_are_looked_for_below_the_data_set(pets: Path, tmp_path: Path) -> None:
    """Also where the data set itself is in a folder called images."""
    root = tmp_path / "images"
    (root / "all").mkdir(parents=True)
    Image.new("RGB", (50, 40)).save(root / "all" / "d.jpg")
    (root / "all" / "d.txt").write_text("0 .5 .5 1 1\n")
    (root / "data.yaml").write_text("names: [cat]\ntest: all\n")
    (sample,) = read_yolo(root, "test").samples
    assert len(sample.labels) == 1
    # Beside the images, though these are under images.
    (pets / "images/train/b.txt").write_text("0 .5 .5 1 1\n")
    assert [len(each.labels) for each in read_yolo(pets, "train").samples] == [2, 1]


def test_a_split_without_any_labels_is_refused(pets: Path) -> None:
    (pets / "labels/train/a.txt").unlink()
    with pytest.raises(DatasetError, match=r"no labels of the split 'train', as .*train/a\.txt"):
        read_yolo(pets, "train")


def test_an_image_whose_labels_are_no_text_is_left_out(pets: Path) -> None:
    (pets / "labels/train/a.txt").write_bytes(b"\xff\xfe0")
    dataset = read_yolo(pets, "train")
    assert dataset.bad == ("labels/train/a.txt: is not text (invalid start byte)",)
    assert [sample.image_id for sample in dataset.samples] == ["b"]


def test_names_with_spaces(pets: Path) -> None:
    (pets / "images/val/c.png").rename(pets / "images/val/a photo.png")
    (pets / "labels/val/c.txt").rename(pets / "labels/val/a photo.txt")
    (pets / "val.txt").write_text("images/val/a photo.png\n")
    (sample,) = read_yolo(pets, "val").samples
    assert sample.image_id == "a photo"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("cat .5 .5 .4 .5", "expected a class and numbers, not 'cat .5 .5 .4 .5'"),
        ("1.5 .5 .5 .4 .5", "expected a class and numbers"),
        ("nan .5 .5 .4 .5", "expected a class and numbers"),
        ("inf .5 .5 .4 .5", "expected a class and numbers"),
        ("0 .5 .5 .4 x", "expected a class and numbers"),
        ("0 .5 .5 .4", "3 numbers are neither a box nor an outline"),
        ("0 .5 .5 .4 .5 .9", "5 numbers are neither"),
        ("2 .5 .5 .4 .5", "class 2 is not one of 0 to 1"),
        ("-1 .5 .5 .4 .5", "class -1 is not one of 0 to 1"),
        ("0 25 20 20 20", "coordinates must be shares of the image, 0 to 1"),
        ("0 .5 .5 nan .5", "coordinates must be shares of the image, 0 to 1"),
        ("0 .5 .5 0 .5", "box (25.0, 10.0, 25.0, 30.0) has no area"),
    ],
)
def test_bad_lines_are_reported(pets: Path, line: str, problem: str) -> None:
    (pets / "labels/train/a.txt").write_text(f"1 .5 .5 .4 .5\n{line}\n")
    dataset = read_yolo(pets, "train")
    (bad,) = dataset.bad
    assert bad.startswith(f"labels/train/a.txt:2: {problem}")
    assert dataset.samples[0].labels.tolist() == [1]


def test_a_missing_image(pets: Path) -> None:
    (pets / "val.txt").write_text("images/val/c.png\nimages/val/d.png\n")
    dataset = read_yolo(pets, "val")
    assert dataset.bad == ("images/val/d.png: there is no such image",)
    assert len(dataset.samples) == 1


def test_images_that_no_server_takes(pets: Path) -> None:
    Image.new("RGB", (50, 40)).save(pets / "images/train/c.BMP")
    dataset = read_yolo(pets, "train")
    assert dataset.bad == ("images/train/c.BMP: is a BMP, not JPEG, PNG or WebP",)


@pytest.mark.parametrize("line", ["x" * 300, "/", ".", "a\0.jpg", "data.yaml/a.jpg"])
def test_lines_that_name_no_file(pets: Path, line: str) -> None:
    (pets / "val.txt").write_text(f"{line}\nimages/val/c.png\n")
    dataset = read_yolo(pets, "val")
    assert len(dataset.bad) == len(dataset.samples) == 1


def test_names_that_are_not_utf_8(pets: Path) -> None:
    """Are in what is printed and written."""
    (pets / "images/train/a.png").rename(pets / "images/train" / os.fsdecode(b"\xe9.png"))
    (pets / "labels/train/a.txt").rename(pets / "labels/train" / os.fsdecode(b"\xe9.txt"))
    (pets / "labels/train" / os.fsdecode(b"\xe9.txt")).write_text("7 0 0 0 0")
    dataset = read_yolo(pets, "train")
    assert {sample.image_id for sample in dataset.samples} == {r"\udce9", "b"}
    assert dataset.bad == (r"labels/train/\udce9.txt:1: class 7 is not one of 0 to 1",)


def test_a_split_without_images(pets: Path) -> None:
    (pets / "images/val/c.png").unlink()
    (pets / "data.yaml").write_text(DESCRIPTION.replace("val.txt", "images/val"))
    with pytest.raises(DatasetError, match="no image is usable"):
        read_yolo(pets, "val")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("names: [", "is not YAML"),
        ("names: " + "[" * 10_000, "is not YAML"),
        ("names: [2026-13-32]", "is not YAML: month must be"),
        (f"names: [cat]\ntrain: {'x' * 300}", "there is no"),
        (f"names: [cat]\npath: {'x' * 300}\ntrain: nowhere", "there is no"),
        ("- names", "not a mapping"),
        ("train: images/train", "'names' is neither"),
        ("names: {1: cat}\ntrain: images/train", "'names' is neither"),
        ("names: [cat]", "data.yaml names no split 'train'"),
        ("path: images\nnames: [cat]", "0/data.yaml names no split 'train'"),
        ("names: {a: cat, 2: dog}", "'names' is neither"),
        ("names: [yes, no]", "the name True is no text"),
        ("names: [null]", "the name None is no text"),
        ("names: [cat, cat]", "several classes called 'cat'"),
        ("names: [cat]\nkpt_shape: [2, 2]", "describes poses"),
        ("names: [cat]\ntrain: nowhere", "has no split 'train': there is no"),
    ],
)
def test_descriptions_of_nothing(pets: Path, text: str, problem: str) -> None:
    (pets / "data.yaml").write_text(text)
    with pytest.raises(DatasetError, match=problem):
        read_yolo(pets, "train")


@pytest.mark.parametrize("one", ["1", "1.0", "1.000000000000000000e+00", "+1"])
def test_a_class_is_a_whole_number_in_any_notation(pets: Path, one: str) -> None:
    (pets / "labels/train/a.txt").write_text(f"{one} .5 .5 .4 .5\n")
    dataset = read_yolo(pets, "train")
    assert dataset.bad == ()
    assert dataset.samples[0].labels.tolist() == [1]


def test_folders_that_are_links_are_looked_into_once(pets: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (pets / "images/train/a.png").rename(elsewhere / "a.png")
    (pets / "images/train/more").symlink_to(elsewhere)
    (pets / "labels/train/more").mkdir()
    (pets / "labels/train/a.txt").rename(pets / "labels/train/more/a.txt")
    (elsewhere / "round").symlink_to(pets / "images/train")
    dataset = read_yolo(pets, "train")
    assert sorted(sample.image_id for sample in dataset.samples) == ["a", "b"]
    assert sum(len(sample.labels) for sample in dataset.samples) == 2
    assert not dataset.bad


def test_labels_of_images_that_are_not_there_are_told(pets: Path) -> None:
    """As of images of a kind that is not looked for. Names of classes are no labels."""
    (pets / "images/train/b.png").rename(pets / "images/train/b.heic")
    for name in ("b", "z", "classes"):
        (pets / f"labels/train/{name}.txt").write_text("0 .5 .5 1 1\n")
    dataset = read_yolo(pets, "train")
    assert [sample.image_id for sample in dataset.samples] == ["a"]
    assert dataset.bad == (
        "labels/train: no image belongs to 2 files of labels here, first labels/train/b.txt",
    )


def test_the_same_object_twice_is_one(pets: Path) -> None:
    """Nobody could find the second one."""
    path = pets / "labels/train/a.txt"
    path.write_text(path.read_text() + "1 .5 .5 .4 .5\n0 .5 .5 .4 .5\n")
    dataset = read_yolo(pets, "train")
    assert dataset.samples[0].labels.tolist() == [1, 0, 0]
    (bad,) = dataset.bad
    assert bad.startswith("labels/train/a.txt:3: box ")
    assert bad.endswith("of the same class is there twice")
