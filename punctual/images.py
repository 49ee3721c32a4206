"""Images as the bytes of a file that a server takes, whatever form a caller has them in."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

QUALITY = 90
"""Of the JPEG that pixels are sent as."""

OTHER = "image/jpeg"
"""What bytes are called that begin as no image which a server takes. Whatever they are called, it
looks at them, and says that they are none; of a name that nobody may send, it would say that."""
SUFFIXES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
"""Endings of names of files that are images which a server takes."""


class Pixels(Protocol):
    """A numpy array, ``(height, width, 3)``, of uint8: red, green, blue."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


ImageLike = str | os.PathLike[str] | bytes | Pixels
"""The path of an image file, the bytes of one, or pixels."""


def load_image(image: ImageLike) -> bytes:
    """Return the bytes of an image file.

    Pixels are encoded as a JPEG, which needs Pillow. Raises OSError of a file that cannot be read,
    ValueError of an array of another kind, and TypeError of anything else.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    if not hasattr(image, "__array_interface__"):
        raise TypeError(f"an image is a path, bytes or a numpy array, not {type(image).__name__}")
    return encode_pixels(image)


def encode_pixels(pixels: Pixels) -> bytes:
    """Return ``pixels`` as a JPEG. Raises ValueError of an array of another kind."""
    from PIL import Image  # noqa: PLC0415  only where pixels are sent

    described: Mapping[str, Any] = pixels.__array_interface__
    shape, kind = described["shape"], described["typestr"]
    if len(shape) != 3 or shape[2] != 3 or kind != "|u1":
        raise ValueError(f"pixels must be (height, width, 3) of uint8; these are {shape}, {kind}")
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG", quality=QUALITY)
    return written.getvalue()


def media_type(data: bytes) -> str:
    """Return what kind of image ``data`` is, by how it begins.

    It is ``OTHER`` if it is none that is served.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return OTHER
