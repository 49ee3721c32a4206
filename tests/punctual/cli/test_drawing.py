"""Pictures as boxes lie in them, and labels that can be read."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from punctual.cli.drawing import as_seen, class_color, draw_label
from serving.imaging.pixels import orientation, to_rgb, upright
from tests.serving.fakes import encode, picture

GREY = np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)
COLOR = (10, 127, 120)


def turned(kind: str, number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return encode(picture(64, 48), kind, exif=exif.tobytes())


def saved(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        *(turned("JPEG", number) for number in range(1, 9)),
        turned("PNG", 6),
        saved(Image.fromarray(GREY)),
        saved(Image.fromarray(picture(64, 48)).convert("RGBA").rotate(20)),
        saved(Image.fromarray(picture(64, 48)).convert("P")),
        saved(Image.fromarray(picture(64, 48)).convert("1")),
    ],
    ids=[*(f"jpeg {number}" for number in range(1, 9)), "png 6", "16 bits", "rgba", "p", "1"],
)
def test_a_picture_is_drawn_into_as_the_server_sees_it(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as opened:
        server = np.asarray(to_rgb(upright(opened, orientation(opened))), int)
    with Image.open(io.BytesIO(data)) as opened:
        seen = as_seen(opened)
    assert seen.mode == "RGB"
    assert (seen.height, seen.width) == server.shape[:2]
    assert np.abs(np.asarray(seen, int) - server).max() <= 1


@pytest.mark.parametrize("corner", [(0, 30), (95, 30), (40, 30)])
def test_all_of_a_label_is_in_the_picture(corner: tuple[int, int]) -> None:
    labelled = Image.new("RGB", (100, 60))
    draw_label(ImageDraw.Draw(labelled), corner, "a label", ImageFont.load_default(11), COLOR)
    rows, columns = np.nonzero((np.asarray(labelled) == COLOR).all(axis=2))
    wide = Image.new("RGB", (1000, 60))
    draw_label(ImageDraw.Draw(wide), (500, 30), "a label", ImageFont.load_default(11), COLOR)
    _, expected = np.nonzero((np.asarray(wide) == COLOR).all(axis=2))
    assert np.ptp(columns) == pytest.approx(np.ptp(expected), abs=1)
    assert rows.max() < 31


@pytest.mark.parametrize(
    ("color", "ink"), [((255, 255, 0), 0), ((0, 0, 120), 255), (class_color(0), 0)]
)
def test_a_label_can_be_read(color: tuple[int, int, int], ink: int) -> None:
    picture = Image.new("RGB", (100, 60))
    draw_label(ImageDraw.Draw(picture), (0, 30), "a label", ImageFont.load_default(11), color)
    inside = np.asarray(picture)[19:28, 3:40]
    assert (inside == ink).all(axis=2).any()
