"""Headers of encoded images: what they are, how large, and how their pixels are coded.

Nothing is decoded and nothing is allocated. The coding says what decoding will cost
(``serving.imaging.decode_cost``).

An image is what its bytes say, not what its sender called it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from serving.core.errors import InvalidImage, PayloadTooLarge, UnsupportedImage
from serving.imaging.pixels import PNG_SIGNATURE, is_jpeg, is_png, is_webp

# Pillow walks these lists in Python, with the interpreter lock held: a long one stalls everybody.
# Cameras write tens of JPEG segments; PNG encoders write a chunk for each 8 KiB or more.
MAX_JPEG_SEGMENTS = 512
MAX_JPEG_PADDING = 64
MAX_PNG_CHUNKS = 8192
MAX_JPEG_SCANS = 500
"""Most scans of a JPEG. Encoders write about ten; each goes over the whole image."""

RAW = "raw"
"""Format of bare pixels: rows of 8-bit RGB, top to bottom, without padding."""

BASELINE, MULTI_SCAN = "jpeg", "jpeg-multi-scan"
PNG = "png"
LOSSY, LOSSLESS = "webp", "webp-lossless"
KINDS = (BASELINE, MULTI_SCAN, PNG, LOSSY, LOSSLESS, RAW)
"""Ways to code pixels that are decoded in ways of their own."""


@dataclass(frozen=True, slots=True)
class Coding:
    """How the pixels of one image are coded, as far as it matters for what decoding costs."""

    kind: str
    """One of KINDS."""
    num_bytes: int = 0
    """Size of the file, or 0 if it is not known."""
    bytes_per_pixel: float = 3.0
    """Bytes that are unpacked per pixel: samples of a JPEG, with their subsampling."""
    bytes_stored: int = 4
    """Bytes per pixel in Pillow's memory, before any conversion."""
    num_scans: int = 1
    """Times that the decoder goes over the image: scans of a JPEG, passes of a PNG."""
    has_alpha: bool = False
    lacks_end: bool = False
    """Whether a JPEG does not say where it ends, so that it must be found out what is missing."""


_TYPICAL = {
    "jpeg": Coding(BASELINE, bytes_per_pixel=1.5),
    "png": Coding(PNG),
    "webp": Coding(LOSSY),
    RAW: Coding(RAW),
}
"""Most frequent codings of each format."""


@dataclass(frozen=True, slots=True)
class Header:
    """One image's format, size and coding. Sizes in pixels, as stored: before any rotation."""

    format: str
    width: int
    height: int
    coding: Coding
    is_whole: bool = False
    """Whether all of its pixels are wanted, and not only those that an input has room for."""

    @classmethod
    def typical(cls, format: str, width: int, height: int) -> Header:
        """Return the header of an image of this size that is coded as most of the format are."""
        return cls(format, width, height, _TYPICAL[format])

    @property
    def num_pixels(self) -> int:
        return self.width * self.height


# ---- JPEG -------------------------------------------------------------------------------------

_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"


def _probe_jpeg(data: bytes) -> Header:
    """Return the header, having walked on to the first scan and counted the others."""
    frame: tuple[int, int] | None = None  # its marker, and where its segment begins
    position = 2
    for _ in range(MAX_JPEG_SEGMENTS):
        position = data.index(0xFF, position, position + MAX_JPEG_PADDING)
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        position += 2
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:  # stand alone
            continue
        if marker == 0xDA and frame is not None:
            return _jpeg_header(data, *frame, position)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = (marker, position)
        position += int(struct.unpack_from(">H", data, position)[0])
    raise ValueError("too many segments")


def _jpeg_header(data: bytes, marker: int, frame: int, scan: int) -> Header:
    """Return the header, given where the segments of the frame and of the first scan begin."""
    height, width, num_components = struct.unpack_from(">HHB", data, frame + 3)
    sampling = [data[frame + 9 + 3 * index] for index in range(num_components)]
    factors = [(each >> 4, each & 15) for each in sampling]
    widest = max((across for across, _ in factors), default=0)
    tallest = max((down for _, down in factors), default=0)
    if not widest or not tallest:
        raise ValueError("no components, or none with samples")
    num_scans = 1
    is_buffered = marker in _PROGRESSIVE or data[scan + 2] < num_components
    if is_buffered:
        # In the data of a scan there is no such pair of bytes. In the segments between scans there
        # may be, so this is what there are at most.
        num_scans += data.count(_START_OF_SCAN, scan)
    if num_scans > MAX_JPEG_SCANS:
        raise PayloadTooLarge(
            f"The JPEG has {num_scans} scans; at most {MAX_JPEG_SCANS} are served."
        )
    coding = Coding(
        MULTI_SCAN if is_buffered else BASELINE,
        len(data),
        bytes_per_pixel=sum(across * down for across, down in factors) / (widest * tallest),
        bytes_stored=1 if num_components == 1 else 4,
        num_scans=num_scans,
        lacks_end=not data.endswith(_END_OF_IMAGE) and data.find(_END_OF_IMAGE, scan) < 0,
    )
    return Header("jpeg", width, height, coding)


# ---- PNG --------------------------------------------------------------------------------------

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples per pixel of each colour type."""
_GREY, _RGB, _PALETTE = 0, 2, 3
_NUM_ADAM7_PASSES = 7


def _probe_png(data: bytes) -> Header:
    """Return the header from the first chunk, having walked over the others."""
    if data[12:16] != b"IHDR":
        raise ValueError("the first chunk is not IHDR")
    width, height, depth, color, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    is_transparent = False
    position = len(PNG_SIGNATURE)
    for _ in range(MAX_PNG_CHUNKS):
        kind = data[position + 4 : position + 8]
        if kind == b"IHDR" and position > len(PNG_SIGNATURE):
            raise ValueError("a second header, which may say something else")
        is_transparent |= kind == b"tRNS"
        position += 12 + int(struct.unpack_from(">I", data, position)[0])
        if position + 4 > len(data):
            break
    else:
        raise ValueError("too many chunks")
    samples = _SAMPLES.get(color, 4)
    small = 2 if depth == 16 else 1
    coding = Coding(
        PNG,
        len(data),
        bytes_per_pixel=samples * depth / 8,
        bytes_stored=small if color in (_GREY, _PALETTE) else 4,
        num_scans=_NUM_ADAM7_PASSES if interlace else 1,
        has_alpha=is_transparent or color not in (_GREY, _RGB, _PALETTE),
    )
    return Header("png", width, height, coding)


# ---- WebP -------------------------------------------------------------------------------------

_VP8X_ALPHA = 0x10


def _probe_webp(data: bytes) -> Header:
    """Return the header: the size of the canvas from the first chunk, of whichever of three kinds.

    What an extended file's pixels are in stands further down. Both kinds are reckoned as the dearer
    one if there is any of it: a frame may hide anywhere.
    """
    chunk = data[12:16]
    has_alpha = False
    if chunk == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        has_alpha = bool(data[20] & _VP8X_ALPHA)
        # Transparency beside lossy colours is coded as a lossless image is.
        is_lossless = b"VP8L" in data or b"ALPH" in data
    elif chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        has_alpha = bool(bits >> 28 & 1)
        is_lossless = True
    elif chunk == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        is_lossless = False
    else:
        raise ValueError("no image chunk")
    coding = Coding(
        LOSSLESS if is_lossless else LOSSY,
        len(data),
        bytes_per_pixel=4.0 if is_lossless else 1.5,
        has_alpha=has_alpha,
    )
    return Header("webp", width, height, coding)


# ---- all --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Signature:
    matches: Callable[[bytes], bool]
    probe: Callable[[bytes], Header]


_SIGNATURES = {
    "jpeg": _Signature(is_jpeg, _probe_jpeg),
    "png": _Signature(is_png, _probe_png),
    "webp": _Signature(is_webp, _probe_webp),
}


def probe(data: bytes, max_pixels: int | None = None) -> Header:
    """Return the format, size and coding of an image.

    Raises InvalidImage for no data or a broken header, UnsupportedImage for another kind of
    file, PayloadTooLarge above ``max_pixels`` or MAX_JPEG_SCANS.
    """
    if not data:
        raise InvalidImage("There is no image in the request; send its bytes as the body.")
    name = next((name for name, kind in _SIGNATURES.items() if kind.matches(data)), None)
    if name is None:
        raise UnsupportedImage("The bytes are none of JPEG, PNG and WebP.")
    try:
        header = _SIGNATURES[name].probe(data)
    except (ValueError, IndexError, struct.error) as error:
        raise InvalidImage(f"The {name.upper()} header is incomplete or damaged.") from error
    if header.width == 0 or header.height == 0:
        raise InvalidImage(
            f"The {name.upper()} header says {header.width} x {header.height} pixels."
        )
    if max_pixels is not None:
        check_size(header.width, header.height, max_pixels)
    return header


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise PayloadTooLarge for a size above ``max_pixels``."""
    if width * height > max_pixels:
        raise PayloadTooLarge(
            f"The image has {width} x {height} pixels, {width * height:,} in all; at most "
            f"{max_pixels:,} are served."
        )
