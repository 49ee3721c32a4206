"""Both readers, on files made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builder.data import DATASETS, read_bccd, read_deeppcb


def test_bccd(bccd: Path) -> None:
    dataset = read_bccd(bccd, "train")
    assert dataset.classes == ("RBC", "WBC", "Platelets")
    assert [sample.image_id for sample in dataset.samples] == [f"image_{i}" for i in range(6)]
    first, *_, last = dataset.samples
    assert first.image.shape == (96, 128, 3)
    assert (first.image.dtype, first.boxes_xyxy.dtype, first.labels.dtype) == (
        np.uint8,
        np.float32,
        np.int64,
    )
    assert first.labels.tolist() == [0, 1, 2]
    sides = first.boxes_xyxy[:, 2:] - first.boxes_xyxy[:, :2]
    assert (sides == 32).all()
    assert last.boxes_xyxy.shape == (0, 4)


def test_degenerate_boxes_are_reported(bccd: Path) -> None:
    (line,) = read_bccd(bccd, "train").dropped
    assert line.startswith("image_0: box (30.0, 30.0, 30.0, 40.0)")


def test_unknown_class_is_refused(bccd: Path) -> None:
    path = bccd / "Annotations" / "image_1.xml"
    path.write_text(path.read_text().replace("WBC", "Basophil"))
    with pytest.raises(ValueError, match="Basophil"):
        read_bccd(bccd, "train")


def test_deeppcb(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("L", (50, 40)).save(tmp_path / "images" / "7.jpg")
    (tmp_path / "labels" / "7.txt").write_text("1 2 11 12 6\n40 30 60 50 1\n5 5 5 9 2\n")
    (tmp_path / "test.txt").write_text("7\n")
    dataset = read_deeppcb(tmp_path, "test")
    (sample,) = dataset.samples
    assert sample.image.shape == (40, 50, 3)
    assert sample.labels.tolist() == [5, 0]
    assert sample.boxes_xyxy.tolist() == [[1, 2, 11, 12], [40, 30, 50, 40]]  # clipped
    assert len(dataset.dropped) == 1


def test_deeppcb_unknown_type_is_refused(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("L", (50, 40)).save(tmp_path / "images" / "7.jpg")
    (tmp_path / "labels" / "7.txt").write_text("1 2 11 12 0\n")
    (tmp_path / "test.txt").write_text("7\n")
    with pytest.raises(ValueError, match="unknown type"):
        read_deeppcb(tmp_path, "test")


def test_registry_names_the_readers() -> None:
    assert list(DATASETS.items()) == [("bccd", read_bccd), ("deeppcb", read_deeppcb)]
