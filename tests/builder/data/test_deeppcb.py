"""DeepPCB: its layout, and every way in which a file of it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from builder.data import read_deeppcb


@pytest.fixture
def boards(tmp_path: Path) -> Path:
    """Two images, of which the first has two objects."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in "78":
        Image.new("L", (50, 40)).save(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "labels" / "7.txt").write_text("1 2 11 12 6\n40 30 60 50 1\n")
    (tmp_path / "labels" / "8.txt").write_text("")
    (tmp_path / "test.txt").write_text("7\n8\n")
    return tmp_path


def test_boards(boards: Path) -> None:
    dataset = read_deeppcb(boards, "test")
    assert not dataset.bad
    sample, empty = dataset.samples
    assert sample.image.shape == (40, 50, 3)
    assert sample.labels.tolist() == [5, 0]
    assert sample.boxes_xyxy.tolist() == [[1, 2, 11, 12], [40, 30, 50, 40]]  # clipped
    assert not len(empty.labels)


def test_boards_as_published(boards: Path) -> None:
    folders = [boards / "group7" / name for name in ("7", "7_not")]
    for folder in folders:
        folder.mkdir(parents=True)
    (boards / "images/7.jpg").rename(folders[0] / "7_test.jpg")
    (boards / "labels/7.txt").rename(folders[1] / "7.txt")
    (boards / "test.txt").write_text("group7/7/7.jpg group7/7_not/7.txt\n/ no.txt\n")
    dataset = read_deeppcb(boards, "test")
    assert dataset.bad == ("no.txt: there is no such file of labels",)
    (sample,) = dataset.samples
    assert (sample.image_id, sample.labels.tolist()) == ("7", [5, 0])


def test_names_with_spaces(boards: Path) -> None:
    for path in (boards / "images/7.jpg", boards / "labels/7.txt"):
        path.rename(path.with_stem("board 7"))
    (boards / "test.txt").write_text("board 7\n")
    dataset = read_deeppcb(boards, "test")
    assert [sample.image_id for sample in dataset.samples] == ["board 7"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("1 2 11 12", "expected five whole numbers, not '1 2 11 12'"),
        ("1 2 11 12 6 6", "expected five whole numbers"),
        ("1 2 11.5 12 6", "expected five whole numbers"),
        (f"1 2 {10**400} 12 6", "expected five whole numbers"),
        ("1,2,11,12,6", "expected five whole numbers"),
        ("1 2 11 12 0", "type 0 is not one of 1 to 6"),
        ("1 2 11 12 7", "type 7 is not one of 1 to 6"),
        ("5 5 5 9 2", "box (5.0, 5.0, 5.0, 9.0) has no area"),
        ("50 0 60 9 2", "box (50.0, 0.0, 60.0, 9.0) lies outside its image"),
    ],
)
def test_bad_lines_are_reported(boards: Path, line: str, problem: str) -> None:
    (boards / "labels" / "7.txt").write_text(f"1 2 11 12 6\n\n{line}\n")
    dataset = read_deeppcb(boards, "test")
    (bad,) = dataset.bad
    assert bad.startswith(f"labels/7.txt:3: {problem}")
    assert dataset.samples[0].labels.tolist() == [5]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("labels/7.txt", "there is no such file of labels"),
        ("images/7.jpg", "there is no such image"),
    ],
)
def test_missing_files(boards: Path, path: str, problem: str) -> None:
    (boards / path).unlink()
    dataset = read_deeppcb(boards, "test")
    assert dataset.bad == (f"{path}: {problem}",)
    assert [sample.image_id for sample in dataset.samples] == ["8"]
