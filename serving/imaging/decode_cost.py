"""Cost of decoding one image, in memory and time, estimated from its header.

Time is counted in work: nanoseconds on the machine that the table below was measured on. How a
server's own speed compares with that, it learns from what it decodes.

    work = overhead + pixels * per pixel + samples * scans * per sample + rows * per row
           + bytes of the file * per byte

Memory is the most that Pillow and its decoders hold at once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from serving.core.letterbox import ModelInput
from serving.imaging.probing import BASELINE, LOSSLESS, LOSSY, MULTI_SCAN, PNG, RAW, Header

_OVERHEAD_NS = 850_000.0
"""Work of decoding an empty image: parsing, scaling it to the input, and copying."""

_POINTER_BYTES = 8
"""What a row of an image costs Pillow besides its pixels."""
_RGB_BYTES = 4
"""What a pixel in colour costs Pillow, with transparency or without."""
_WEIGHT_BYTES = 12
"""What scaling keeps of each column and each row."""
_COEFFICIENT_BYTES = 2
_JPEG_UNIT = 16
"""Pixels that each side of a JPEG is rounded up to at most as a rule."""
_WEBP_BYTES = 16
"""Bytes per pixel while a WebP is decoded.

Two canvases of the decoder, its lossless pixels or a copy of what came out, and Pillow's image of
that.
"""

_NUM_SIZES = 1024
"""Number of sizes of images, for each input, of which it is remembered how they come out."""

NUM_TRIALS = 2
"""Times that a JPEG without an end is decoded at its full size, to see whether it is all there."""
DRAFT_SCALES = (8, 4, 2, 1)
"""Factors by which a JPEG can be decoded smaller than it is."""


@dataclass(frozen=True, slots=True)
class _Rates:
    """Nanoseconds that one kind of coding takes for each thing."""

    per_pixel: float
    """Pixel that comes out of the decoder, to be converted and scaled."""
    per_sample: float
    """Sample or byte that is unpacked, in each scan."""
    per_row: float
    per_byte: float
    """Byte of the file."""


# Fitted to processor time of this decoder on one core of an AMD EPYC that was shared with others,
# over photographs of 64x48 to 4000x3000 pixels, and over what is nothing but pixels, rows or scans.
_RATES = {
    BASELINE: _Rates(per_pixel=7.5, per_sample=0.1, per_row=0.0, per_byte=8.0),
    MULTI_SCAN: _Rates(per_pixel=7.0, per_sample=0.3, per_row=0.0, per_byte=18.0),
    PNG: _Rates(per_pixel=2.2, per_sample=3.0, per_row=20.0, per_byte=8.0),
    LOSSY: _Rates(per_pixel=5.5, per_sample=0.0, per_row=0.0, per_byte=55.0),
    LOSSLESS: _Rates(per_pixel=6.0, per_sample=0.0, per_row=0.0, per_byte=10.0),
    RAW: _Rates(per_pixel=3.5, per_sample=0.0, per_row=0.0, per_byte=0.0),
}


def draft_scale(size: tuple[int, int], target: tuple[int, int]) -> int:
    """Return the factor by which Pillow decodes a JPEG of ``size`` smaller, for ``target``.

    Both are (width, height). It is the largest with which no side becomes smaller than is needed.
    """
    spare = min(size[0] // target[0], size[1] // target[1])
    return next(scale for scale in DRAFT_SCALES if scale <= max(1, spare))


def _decoded_size(header: Header, model_input: ModelInput) -> tuple[int, int]:
    """Return the (width, height) that an image has when it comes out of the decoder.

    It may come out larger if it is to be turned on its side, which the header does not say: of both
    ways, this is the larger.
    """
    if header.format != "jpeg" or header.coding.lacks_end or header.is_whole:
        return header.width, header.height
    return _drafted_size(header.width, header.height, model_input)


@lru_cache(_NUM_SIZES)
def _drafted_size(width: int, height: int, model_input: ModelInput) -> tuple[int, int]:
    """Return the size in which a JPEG of some size comes out of the decoder, for an input."""
    targets = _targets(width, height, model_input)
    scale = min(draft_scale((width, height), target) for target in targets)
    return -(-width // scale), -(-height // scale)


@lru_cache(_NUM_SIZES)
def _targets(width: int, height: int, model_input: ModelInput) -> tuple[tuple[int, int], ...]:
    """Return the sizes as stored that an image may be scaled to: as it lies, and on its side."""
    lying = model_input.place(width, height)
    turned = model_input.place(height, width)
    return (
        (lying.resized_width, lying.resized_height),
        (turned.resized_height, turned.resized_width),
    )


def work_ns(header: Header, inputs: Collection[ModelInput]) -> float:
    """Return the work of decoding an image for some inputs, in nanoseconds of the machine above.

    A JPEG is decoded for each size that it comes out in; any other once, and scaled for each input.
    """
    coding, rates = header.coding, _RATES[header.coding.kind]
    sizes = [_decoded_size(header, model_input) for model_input in inputs]
    is_jpeg = header.format == "jpeg"
    unit = _JPEG_UNIT if is_jpeg else 1
    coded = _rounded(header.width, unit) * _rounded(header.height, unit)
    num_samples = coded * coding.bytes_per_pixel * (coding.num_scans if is_jpeg else 1)
    num_rows = header.height * (1 if is_jpeg else coding.num_scans)
    once = (
        num_samples * rates.per_sample
        + num_rows * rates.per_row
        + coding.num_bytes * rates.per_byte
    )
    out = sum(width * height for width, height in sizes) * rates.per_pixel
    whole = header.num_pixels * rates.per_pixel + once
    trials = NUM_TRIALS * whole if coding.lacks_end else 0.0
    return _OVERHEAD_NS + out + len(set(sizes)) * once + trials


def _rounded(length: int, unit: int) -> int:
    return -(-length // unit) * unit


def memory_bytes(header: Header, model_input: ModelInput) -> int:
    """Return the most memory that decoding an image for an input takes at once, in bytes.

    The file itself is not counted, a copy of it is.
    """
    coding = header.coding
    width, height = _decoded_size(header, model_input)
    images = [coding.bytes_stored]
    if coding.lacks_end:  # what is compared
        images.append(_RGB_BYTES)
    if coding.bytes_stored == 2:  # 16-bit grey, narrowed by way of three arrays
        images += [2, 2, 2]
    if header.format == "webp":
        images = [_WEBP_BYTES]
    elif coding.has_alpha:
        images += [_RGB_BYTES, _RGB_BYTES]
    elif coding.bytes_stored < _RGB_BYTES or header.format == "jpeg":
        images += [_RGB_BYTES]
    stored = sum(_rounded(width * each, 4) + _POINTER_BYTES for each in images) * height
    # It is scaled from a copy, one axis after the other, once the other images are gone.
    across, down = _targets(header.width, header.height, model_input)[0]
    between = max(min(across, width) * height, min(down, height) * width)
    scaled = (2 * width * height + between) * _RGB_BYTES + _POINTER_BYTES * height
    weights = _WEIGHT_BYTES * (width + height)
    coefficients = 0
    if coding.kind == MULTI_SCAN:
        coded = _rounded(header.width, _JPEG_UNIT) * _rounded(header.height, _JPEG_UNIT)
        coefficients = int(_COEFFICIENT_BYTES * coding.bytes_per_pixel * coded)
    return max(stored, scaled) + weights + coefficients + coding.num_bytes
