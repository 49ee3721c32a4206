"""Conversion of a stored image to upright 8-bit RGB, the same for serving and for training.

The steps are separate because a server scales between them: ``orientation`` reads the header,
``to_rgb`` converts, ``upright`` turns.
"""

from __future__ import annotations

import struct

import numpy as np
import PIL.Image

BACKGROUND = (255, 255, 255)
"""Colour that shows through transparent pixels: white, as on most pages that show such images."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
"""Formats that are served, by Pillow's names. An MPO is a JPEG with more images after the first."""

# EXIF orientation -> what makes the stored image upright.
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_ORIENTATION_TAG = 0x0112


def orientation(image: PIL.Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1..8; 1 where it has none or it is damaged.

    It is read here because Pillow's reader warns about damage and parses all the rest.
    """
    exif = image.info.get("exif")
    if not isinstance(exif, bytes):  # nothing, or a comment of a PNG that is called so
        return 1
    tiff = exif.removeprefix(b"Exif\0\0")
    order = "<" if tiff.startswith(b"II") else ">"
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (num_entries,) = struct.unpack_from(order + "H", tiff, directory)
        for index in range(num_entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, directory + 2 + 12 * index)
            if tag == _ORIENTATION_TAG:
                return int(value)
    except struct.error:
        pass
    return 1


def is_sideways(orientation: int) -> bool:
    """Return whether width and height change places."""
    return orientation in _SIDEWAYS


def upright(image: PIL.Image.Image, orientation: int) -> PIL.Image.Image:
    """Return the image turned or mirrored as ``orientation`` asks; itself if that is nothing."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Return an image of any mode that the formats can have as 8-bit RGB without transparency."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip rather than scale
        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = PIL.Image.new("RGB", image.size, BACKGROUND)
        canvas.paste(image, mask=image)
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")
