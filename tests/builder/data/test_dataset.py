"""What every reader has in common: boxes on images, and what to do about bad ones."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from builder.data import DATASETS, DatasetError, read_dataset
from builder.data.dataset import Annotation, Collector, find_image, read_image, read_names
from serving.core.letterbox import ModelInput
from serving.imaging.decoding import load_image

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


def picture(width: int, height: int) -> Image.Image:
    """No two corners alike."""
    pixels = np.full((height, width, 3), 90, dtype=np.uint8)
    pixels[: height // 2, : width // 2] = (220, 30, 30)
    pixels[height // 2 :, : width // 2] = (30, 30, 210)
    return Image.fromarray(pixels)


def commented(key: str) -> dict[str, Any]:
    comments = PngInfo()
    comments.add_itxt(key, "a comment")
    return {"pnginfo": comments}


def turned(orientation: int) -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif.tobytes()}


LEVELS = Image.fromarray(np.linspace(0, 65535, 50 * 40).astype(np.uint16).reshape(40, 50))


@pytest.mark.parametrize(
    ("image", "kind", "options"),
    [
        *((picture(50, 40), kind, turned(way)) for kind in ("JPEG", "PNG") for way in range(1, 9)),
        *((picture(50, 40).convert(mode), "JPEG", {}) for mode in ("L", "CMYK")),
        *((picture(50, 40).convert(mode), "PNG", {}) for mode in ("1", "L", "P", "LA", "RGBA")),
        (LEVELS, "PNG", {}),
        (Image.new("RGBA", (50, 40), (200, 0, 0, 128)), "PNG", {}),
        (Image.new("P", (50, 40), 0), "PNG", {"transparency": bytes(1)}),
        (picture(50, 40), "PNG", commented("exif")),
        (picture(50, 40), "WEBP", {"lossless": True, **turned(6)}),
        (picture(50, 40), "MPO", {"save_all": True, "append_images": [picture(50, 40)]}),
    ],
)
def test_what_is_learnt_from_is_what_is_served(
    image: Image.Image, kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """To the pixel, in the frame that annotations are in, where nothing needs scaling."""
    path = tmp_path / "a.jpg"
    image.save(path, kind, **options)
    found = Collector(tmp_path, ("x",))
    size = found.measure(path)
    assert size is not None
    served, placement = load_image(path.read_bytes(), ModelInput(size[1], size[0], "letterbox"))
    assert (placement.original_height, placement.original_width) == size
    np.testing.assert_array_equal(read_image(path), served)


def test_images_that_cannot_be_served_are_reported(tmp_path: Path) -> None:
    found = Collector(tmp_path, ("x",))
    Image.new("L", (50, 40)).save(tmp_path / "a.jpg", "GIF")
    Image.new("L", (50, 40)).save(tmp_path / "b.bmp")
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", b"-"))
    )
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    for name in ("a.jpg", "b.bmp", "c.png", "d\0.png"):
        assert found.measure(tmp_path / name) is None
    assert found.bad == [
        "a.jpg: is a GIF, not JPEG, PNG or WebP",
        "b.bmp: is a BMP, not JPEG, PNG or WebP",
        "c.png: has more than 178,956,970 pixels",
        "d\0.png: is not an image (ValueError)",
    ]


@pytest.mark.parametrize(
    ("classes", "problem"),
    [(("a", "b", "a"), "several classes called 'a'"), ((), "no classes"), ((" ",), "no classes")],
)
def test_classes_can_be_told_apart(classes: tuple[str, ...], problem: str) -> None:
    with pytest.raises(DatasetError, match=problem):
        Collector(Path("root"), classes)


def test_decoding(tmp_path: Path) -> None:
    Image.new("L", (50, 40), 7).save(tmp_path / "a.jpg")
    image = read_image(tmp_path / "a.jpg")
    assert (image.shape, image.dtype) == ((40, 50, 3), np.uint8)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"a\.jpg: cannot be decoded"):
        read_image(tmp_path / "a.jpg")
    Image.new("RGB", (50, 40)).save(tmp_path / "b.png", **commented("transparency"))
    assert read_image(tmp_path / "b.png").shape == (40, 50, 3), "a comment is no transparency"


def test_images_that_cannot_be_decoded_are_reported_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in "abc":
        picture(50, 40).save(tmp_path / "images" / f"{name}.png")
        (tmp_path / "labels" / f"{name}.txt").write_text("0 .5 .5 .5 .5\n")
    (tmp_path / "data.yaml").write_text("names: [x]\ntrain: images\n")
    damaged = tmp_path / "images" / "b.png"
    damaged.write_bytes(damaged.read_bytes()[:80])
    dataset = read_dataset("yolo", tmp_path, "train")
    assert [sample.image_id for sample in dataset.samples] == ["a", "c"]
    (bad,) = dataset.bad
    assert re.search(r"b\.png: cannot be decoded", bad)
    with pytest.raises(DatasetError, match=r"1 bad annotations\n  .*b\.png: cannot be decoded"):
        read_dataset("yolo", tmp_path, "train", "refuse")
    for name in "ac":
        (tmp_path / "images" / f"{name}.png").write_bytes(damaged.read_bytes())
    with pytest.raises(DatasetError, match="no image is usable"):
        read_dataset("yolo", tmp_path, "train")


def test_large_metadata_hides_no_image(tmp_path: Path) -> None:
    comments = PngInfo()
    comments.add_itxt("workflow", "x" * 2**21, zip=True)
    picture(50, 40).save(tmp_path / "a.png", pnginfo=comments)
    assert Collector(tmp_path, ("x",)).measure(tmp_path / "a.png") == (40, 50)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.asarray(picture(50, 40)))


def test_lines_are_numbered(tmp_path: Path) -> None:
    found = Collector(tmp_path, ("x",))
    (tmp_path / "a.txt").write_text("1 2\n\n 3\n")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe1")
    (tmp_path / "c.txt").write_text("1\n", encoding="utf-8-sig")
    assert found.lines(tmp_path / "a.txt") == [("a.txt:1", ["1", "2"]), ("a.txt:3", ["3"])]
    assert found.lines(tmp_path / "b.txt") is None
    assert found.lines(tmp_path / "c.txt") == [("c.txt:1", ["1"])]
    (tmp_path / "d.txt").mkdir()
    assert found.lines(tmp_path / "d.txt") is None
    assert found.bad == [
        "b.txt: is not text (invalid start byte)",
        "d.txt: cannot be read (Is a directory)",
    ]


def test_a_list_of_names(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a photo\n\nb \n", encoding="utf-8-sig")
    assert read_names(tmp_path, tmp_path / "train.txt") == ["a photo", "b"]
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"latin\.txt cannot be read as text"):
        read_names(tmp_path, tmp_path / "latin.txt")
    with pytest.raises(DatasetError, match="has no split 'val'"):
        read_names(tmp_path, tmp_path / "val.txt")


def test_any_kind_of_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "c.JPG").touch()
    assert find_image(tmp_path, "a") == tmp_path / "a.png"
    assert find_image(tmp_path, "c") == tmp_path / "c.JPG"
    assert find_image(tmp_path, "b") == tmp_path / "b.jpg"
    assert find_image(tmp_path, "x" * 300).suffix == ".jpg"


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
