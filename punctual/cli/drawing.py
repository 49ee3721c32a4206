"""Boxes and their labels, drawn into pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont, ImageOps

from punctual.reply import Detection

Color = tuple[int, int, int]

_HUE_STEP, _FIRST_HUE = 137.5, 175
"""Degrees between the hues of neighbouring classes, the golden angle, so that any few of them
differ; and the hue of the first."""
_REFERENCE_SIDE = 640
"""Pixels of the longer side of a picture whose text is of ``_TEXT_SIZE``; others' in proportion."""
_TEXT_SIZE = 14
_SMALLEST_TEXT = 11
_NUM_FONTS = 16
_GROUND = "white"
"""Behind transparent pixels."""


def class_color(class_id: int) -> Color:
    """Return the color of a class, the same in every picture."""
    hue = (class_id * _HUE_STEP + _FIRST_HUE) % 360 / 360
    red, green, blue = colorsys.hls_to_rgb(hue, 0.42, 0.75)
    return round(red * 255), round(green * 255), round(blue * 255)


def _ink_on(color: Color) -> str:
    """Return which of black and white can be read better on a color, by WCAG's contrast ratio."""
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (value / 255 for value in color)
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


@lru_cache(_NUM_FONTS)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def as_seen(opened: Image.Image) -> Image.Image:
    """Return an opened image as the server sees it, and as boxes lie in it.

    That is upright and RGB, with 16 bits scaled to 8, and what is transparent over white.
    """
    picture = ImageOps.exif_transpose(opened)
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow would clip
        picture = picture.point(lambda value: value * (1 / 256)).convert("L")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        ground = Image.new("RGB", picture.size, _GROUND)
        ground.paste(picture, mask=picture)
        return ground
    return picture.convert("RGB")


def draw_detections(picture: Image.Image, detections: Iterable[Detection]) -> None:
    """Draw boxes into an RGB picture, the best on top."""
    pen = ImageDraw.Draw(picture)
    unit = max(picture.size) / _REFERENCE_SIDE
    font = _font(max(_SMALLEST_TEXT, round(_TEXT_SIZE * unit)))
    width = max(2, round(2 * unit))
    for found in reversed(tuple(detections)):
        color = class_color(found.class_id)
        x1, y1, x2, y2 = found.box
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=width)
        number = "" if found.track_id is None else f" {found.track_id}"
        draw_label(pen, (x1, y1), f"{found.label}{number} {found.score:.2f}", font, color)


def draw_label(
    pen: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    color: Color,
) -> None:
    """Write text on ``color`` above ``corner``, or below it where there is no room.

    It is moved to the left where the picture is not wide enough.
    """
    x, y = corner
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    padding = (bottom - top) * 0.3
    height = bottom - top + 2 * padding
    y = max(0.0, y - height if y >= height else y)
    width = right - left + 2 * padding
    x = max(0.0, min(x, pen.im.size[0] - width))
    pen.rectangle((x, y, x + width, y + height), fill=color)
    pen.text((x + padding - left, y + padding - top), text, fill=_ink_on(color), font=font)


def draw_caption(picture: Image.Image, text: str, color: Color) -> None:
    """Write a line about the whole picture into its lower left corner."""
    pen = ImageDraw.Draw(picture)
    unit = max(picture.size) / _REFERENCE_SIDE
    font = _font(max(_SMALLEST_TEXT, round(_TEXT_SIZE * unit)))
    draw_label(pen, (0, picture.height), text, font, color)
