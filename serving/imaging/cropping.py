"""Parts of an image at its own size, each as bare pixels: for requests that look at several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from serving.core.errors import ServingError
from serving.core.tiling import Region
from serving.imaging.decoding import decode_whole
from serving.imaging.pixels import BLOCK_BYTES, Checkpoint, go_on
from serving.imaging.probing import RAW, Header

RGB_BYTES = 3
"""Bytes of a pixel."""

FindRegions = Callable[[int, int], Sequence[Region | ServingError]]
"""Function from the upright width and height of an image to its parts, or why there is none.

It may raise a ServingError.
"""


class Crop(NamedTuple):
    """A part of an image: its pixels as 8-bit RGB, row by row."""

    region: Region
    data: bytes

    @property
    def header(self) -> Header:
        """Header of these pixels."""
        return Header.typical(RAW, self.region.width, self.region.height)


class Crops(NamedTuple):
    """The parts of an image of this upright size."""

    width: int
    height: int
    parts: tuple[Crop | ServingError, ...]


def cut_out(
    data: bytes,
    header: Header,
    regions: FindRegions,
    checkpoint: Checkpoint = go_on,
    block_bytes: int = BLOCK_BYTES,
) -> Crops:
    """Return the parts of an encoded image, which is decoded once.

    ``checkpoint`` is called after each ``block_bytes`` of the file, and may raise a ServingError.
    Raises InvalidImage, and what ``regions`` does.
    """
    image = decode_whole(data, header, checkpoint, block_bytes)
    parts: list[Crop | ServingError] = []
    for region in regions(*image.size):
        checkpoint()
        if isinstance(region, ServingError):
            parts.append(region)
        else:
            parts.append(Crop(region, image.crop(region).tobytes()))
    return Crops(*image.size, tuple(parts))
