"""The forms in which a caller may have an image."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from punctual.images import OTHER, SUFFIXES, load_image, media_type
from serving.api.body import IMAGE_TYPES
from tests.serving.fakes import JPEG, encode, picture


def test_bytes_and_files_are_sent_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    assert load_image(JPEG) is JPEG
    assert load_image(tmp_path / "a.jpg") == load_image(str(tmp_path / "a.jpg")) == JPEG


def test_pixels_are_sent_as_a_jpeg() -> None:
    pixels = picture(64, 48)
    data = load_image(pixels)
    assert media_type(data) == "image/jpeg"
    seen = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(seen.astype(int) - pixels).mean() < 3


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)],
    ids=["grey", "alpha", "float"],
)
def test_other_arrays_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must be \(height, width, 3\) of uint8"):
        load_image(pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_what_is_served_is_known_by_how_it_begins(kind: str) -> None:
    assert media_type(encode(picture(8, 8), kind)) == f"image/{kind.lower()}"
    assert set(SUFFIXES.values()) == set(IMAGE_TYPES)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"RIFF\0\0\0\0WAVE"])
def test_anything_else_is_for_the_server_to_refuse(data: bytes) -> None:
    assert media_type(data) == OTHER
    assert OTHER in IMAGE_TYPES, "or it would be refused for its name"


def test_what_is_no_image_at_all_is_told_apart() -> None:
    with pytest.raises(TypeError, match="not NoneType"):
        load_image(None)  # type: ignore[arg-type]
