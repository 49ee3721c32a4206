"""Conversion of an image file to upright 8-bit RGB, the same for serving and for training.

The steps are separate because a server scales between them: ``with_end`` mends the file,
``open_stored`` reads the header, ``orientation`` looks into it, ``to_rgb`` decodes and converts,
``upright`` turns.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
from PIL import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

BACKGROUND = (255, 255, 255)
"""Colour that shows through transparent pixels: white, as on most pages that show such images."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
"""Formats that are served, by Pillow's names. An MPO is a JPEG with more images after the first."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

BLOCK_BYTES = 2**16
"""Bytes of a file that a decoder is given at once, unless it is to be stopped sooner."""

Checkpoint = Callable[[], None]
"""Function that is called now and then while an image is decoded, and may raise to stop that."""


def is_jpeg(data: bytes) -> bool:
    """Return whether a file is a JPEG, by how it begins."""
    return data.startswith(b"\xff\xd8\xff")


def is_png(data: bytes) -> bool:
    """Return whether a file is a PNG, by how it begins."""
    return data.startswith(PNG_SIGNATURE)


def is_webp(data: bytes) -> bool:
    """Return whether a file is a WebP, by how it begins."""
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


# ---- files ------------------------------------------------------------------------------------


def go_on() -> None:
    """Let decoding go on: the checkpoint of whoever will not stop it."""


class _Jpeg(JpegImageFile):
    """A JPEG that is decoded block by block."""

    checkpoint: Checkpoint = staticmethod(go_on)
    block_bytes = BLOCK_BYTES

    def load_read(self, read_bytes: int) -> bytes:
        """Return what the decoder is given next, as Pillow asks for it."""
        self.checkpoint()
        assert self.fp is not None
        return self.fp.read(min(read_bytes, self.block_bytes))


class _Png(PngImageFile):
    """A PNG that is decoded block by block."""

    checkpoint: Checkpoint = staticmethod(go_on)
    block_bytes = BLOCK_BYTES

    def load_read(self, read_bytes: int) -> bytes:
        """Return what the decoder is given next, as Pillow asks for it."""
        self.checkpoint()
        return super().load_read(min(read_bytes, self.block_bytes))


class _WebP(WebPImageFile):
    """A WebP of which only the first frame is looked at. Its decoding cannot be interrupted."""

    checkpoint: Checkpoint = staticmethod(go_on)
    block_bytes = BLOCK_BYTES

    def load(self) -> Any:
        """Decode the frame, as Pillow asks for it, and give back the decoder's memory.

        That is twice what the pixels take.
        """
        self.checkpoint()
        access = super().load()
        self.__dict__.pop("_decoder", None)
        return access


_UNREAD_CHUNKS = (b"iCCP", b"zTXt", b"iTXt")
"""Chunks of a PNG that Pillow unpacks and nobody here needs."""


def _without_unread(data: bytes) -> bytes:
    """Return a PNG without the chunks that need not be unpacked; itself if there are none.

    Pillow refuses an image for one of more than a megabyte, and unpacks any number that are
    smaller.
    """
    view, kept = memoryview(data), []
    start = position = len(PNG_SIGNATURE)
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 12 + length
        if data[position + 4 : position + 8] in _UNREAD_CHUNKS:
            kept.append(view[start:position])
            start = end
        position = end
    return b"".join((PNG_SIGNATURE, *kept, view[start:])) if kept else data


_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
_FILLINGS = (b"\0" * 16, b"\xaa" * 16)
"""Bytes that a decoder may read on in, when a JPEG has no end, which decode to different pixels."""


def with_end(data: bytes, checkpoint: Checkpoint = go_on, block_bytes: int = BLOCK_BYTES) -> bytes:
    """Return a JPEG with the marker that ends it; itself if it has it, or is none.

    Without the marker, all pixels may be there: then they are the same whatever follows, which is
    tried. Raises ValueError if they are not, and whatever Pillow raises for a damaged file.
    """
    # A thumbnail has an end of its own, before the scans of the image.
    if not is_jpeg(data) or data.find(_END_OF_IMAGE, data.rfind(_START_OF_SCAN)) >= 0:
        return data
    whole = data.rstrip(b"\xff")
    ended = [b"".join((whole, filling, _END_OF_IMAGE)) for filling in _FILLINGS]
    pixels = set()
    for each in ended:
        with open_stored(each, checkpoint, block_bytes) as image:
            pixels.add(hashlib.blake2b(image.tobytes()).digest())
    if len(pixels) > 1:
        raise ValueError("the file ends before its pixels do")
    return ended[0]


def open_stored(
    data: bytes, checkpoint: Checkpoint = go_on, block_bytes: int = BLOCK_BYTES
) -> ImageFile.ImageFile:
    """Return a JPEG, PNG or WebP of which only the header has been read.

    ``checkpoint`` is called while its pixels are decoded: after each ``block_bytes`` of the file,
    of a WebP only before the first. Raises ValueError for another kind of file, and whatever Pillow
    raises for a damaged one.
    """
    # Pillow's own classes rather than ``PIL.Image.open``: no other format can be chosen, and its
    # size limit, which warns before it refuses, does not interfere with ours.
    image: _Jpeg | _Png | _WebP
    if is_jpeg(data):
        image = _Jpeg(io.BytesIO(data))
    elif is_png(data):
        image = _Png(io.BytesIO(_without_unread(data)))
    elif is_webp(data):
        image = _WebP(io.BytesIO(data))
    else:
        raise ValueError("neither JPEG nor PNG nor WebP")
    image.checkpoint, image.block_bytes = checkpoint, block_bytes
    return image


# ---- pixels -----------------------------------------------------------------------------------

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
        image.load()
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        canvas = PIL.Image.new("RGB", image.size, BACKGROUND)
        canvas.paste(image, mask=image)
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")
