"""Decoding of encoded images to model input: bytes -> header -> pixels, with a limit at each arrow.

    probe    a few header bytes    format and size; nothing is allocated, nothing decoded
    decode   all of it             upright 8-bit RGB, scaled, letterboxed or stretched

Pixels that come without a file have their size from elsewhere and start at the second arrow.

An image is what its bytes say, not what its sender called it. ``load_image`` is both steps, for
offline tools: accuracy is measured on the very pixels that requests get.
"""

from __future__ import annotations

import asyncio
import io
import math
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import PIL.Image
from PIL import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from serving.core.errors import (
    InvalidImage,
    Overloaded,
    PayloadTooLarge,
    ShedReason,
    UnsupportedImage,
)
from serving.core.letterbox import PAD_VALUE, Letterbox, ModelInput
from serving.core.ports import Clock, Image
from serving.core.recent_values import RecentValues
from serving.imaging.pixels import is_sideways, orientation, to_rgb, upright
from serving.imaging.resizing import resized

T = TypeVar("T")

# Pillow walks these lists in Python, with the interpreter lock held: a long one stalls everybody.
# Cameras write tens of JPEG segments; PNG encoders write a chunk for each 8 KiB or more.
MAX_JPEG_SEGMENTS = 512
MAX_JPEG_PADDING = 64
MAX_PNG_CHUNKS = 8192

RAW = "raw"
"""Format of bare pixels: rows of 8-bit RGB, top to bottom, without padding."""


@dataclass(frozen=True, slots=True)
class Header:
    """One image's format and size. Sizes in pixels, as stored: before any rotation."""

    format: str
    width: int
    height: int

    @property
    def num_pixels(self) -> int:
        return self.width * self.height


# ---- probe ------------------------------------------------------------------------------------


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return the size from the frame header, having walked on to the start of the scan."""
    size: tuple[int, int] | None = None
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
        if marker == 0xDA and size is not None:
            return size
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 3)
            size = (width, height)
        position += int(struct.unpack_from(">H", data, position)[0])
    raise ValueError("too many segments")


def _png_size(data: bytes) -> tuple[int, int]:
    """Return the size from the first chunk, having walked over the others."""
    if data[12:16] != b"IHDR":
        raise ValueError("the first chunk is not IHDR")
    width, height = struct.unpack_from(">II", data, 16)
    position = 8
    for _ in range(MAX_PNG_CHUNKS):
        position += 12 + int(struct.unpack_from(">I", data, position)[0])
        if position + 4 > len(data):
            return width, height
    raise ValueError("too many chunks")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return the size of the canvas from the first chunk, of whichever of three kinds."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return width, height
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("no image chunk")


@dataclass(frozen=True, slots=True)
class _Signature:
    matches: Callable[[bytes], bool]
    size: Callable[[bytes], tuple[int, int]]


_SIGNATURES = {
    "jpeg": _Signature(lambda data: data.startswith(b"\xff\xd8\xff"), _jpeg_size),
    "png": _Signature(lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), _png_size),
    "webp": _Signature(lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", _webp_size),
}


def probe(data: bytes, max_pixels: int | None = None) -> Header:
    """Return the format and size from the header alone.

    Raises InvalidImage for no data or a broken header, UnsupportedImage for another kind of
    file, PayloadTooLarge above ``max_pixels``.
    """
    if not data:
        raise InvalidImage("There is no image in the request; send its bytes as the body.")
    name = next((name for name, kind in _SIGNATURES.items() if kind.matches(data)), None)
    if name is None:
        raise UnsupportedImage("The bytes are none of JPEG, PNG and WebP.")
    try:
        width, height = _SIGNATURES[name].size(data)
    except (ValueError, IndexError, struct.error) as error:
        raise InvalidImage(f"The {name.upper()} header is incomplete or damaged.") from error
    if width == 0 or height == 0:
        raise InvalidImage(f"The {name.upper()} header says {width} x {height} pixels.")
    if max_pixels is not None:
        check_size(width, height, max_pixels)
    return Header(name, width, height)


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise PayloadTooLarge for a size above ``max_pixels``."""
    if width * height > max_pixels:
        raise PayloadTooLarge(
            f"The image has {width} x {height} pixels; at most {max_pixels} are served."
        )


# ---- decode -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Format:
    # Pillow's own class rather than ``PIL.Image.open``: no other format can be chosen, and its
    # size limit, which warns before it refuses, does not interfere with ours.
    open: Callable[[bytes, Header], PIL.Image.Image]
    seed_s_per_pixel: float


def _file(kind: Callable[[io.BytesIO], ImageFile.ImageFile]) -> Callable[..., PIL.Image.Image]:
    return lambda data, _: kind(io.BytesIO(data))


def _open_raw(data: bytes, header: Header) -> PIL.Image.Image:
    return PIL.Image.frombytes("RGB", (header.width, header.height), data)


# Seeds of the decode-time model, on the safe side of what 640x480 took on one cloud core: JPEG
# 1.5 ms (progressive 3.9), PNG 8.5, WebP 6.1, bare pixels 2.5 (all of it scaling).
FORMATS = {
    "jpeg": _Format(_file(JpegImageFile), 1.0e-8),
    "png": _Format(_file(PngImageFile), 2.5e-8),
    "webp": _Format(_file(WebPImageFile), 2.0e-8),
    RAW: _Format(_open_raw, 0.8e-8),
}


def _decode_upright(
    data: bytes, header: Header, model_input: ModelInput
) -> tuple[PIL.Image.Image, Letterbox]:
    stored = FORMATS[header.format].open(data, header)
    if stored.size != (header.width, header.height):
        raise ValueError("the file contradicts itself about its size")
    turned = orientation(stored)
    sideways = is_sideways(turned)
    width, height = stored.size[::-1] if sideways else stored.size
    placement = model_input.place(width, height)
    target = (placement.resized_width, placement.resized_height)
    if sideways:
        target = (target[1], target[0])
    # JPEG only: decode at 1/2, 1/4 or 1/8 while that is still no smaller than what is needed.
    # ``box`` is the whole image in the pixels of that scale, which need not be whole.
    drafted = stored.draft(None, target)
    box = drafted[1] if drafted else None
    image = to_rgb(stored)
    if image.size != target:
        image = resized(image, target, box)
    return upright(image, turned), placement


def decode(data: bytes, header: Header, model_input: ModelInput) -> tuple[Image, Letterbox]:
    """Return pixels ``(height, width, 3)`` uint8 RGB of the input, and where the image lies.

    The first frame, upright by its EXIF orientation, transparency over white; the original size in
    the placement is the upright one. The array may be read-only. Raises InvalidImage for anything
    that cannot be decoded to its end.
    """
    try:
        image, placement = _decode_upright(data, header, model_input)
        pixels = np.asarray(image)
    except Exception as error:  # Pillow's decoders raise no closed set of types
        raise InvalidImage(
            f"The {header.format.upper()} image is truncated or damaged ({error})."
        ) from error
    return _padded(pixels, model_input), placement


def _padded(pixels: Image, model_input: ModelInput) -> Image:
    """Return ``pixels`` in the top-left corner of the input; itself, if it has its size."""
    height, width = pixels.shape[:2]
    if (height, width) == (model_input.height, model_input.width):
        return pixels
    canvas = np.empty((model_input.height, model_input.width, 3), dtype=np.uint8)
    canvas[:height, :width] = pixels
    canvas[height:] = PAD_VALUE
    canvas[:height, width:] = PAD_VALUE
    return canvas


class LazyPixels:
    """One encoded image, which is decoded for an input when its pixels there are first wanted.

    Where several sizes are served as one, nobody knows beforehand which of them will run. The
    family's runner takes this in the place of pixels in the common ``frame``, whose ``shape`` and
    ``dtype`` it has, and hands it to ``refit``. An image must lie in every input as it does in the
    frame, but for the scale (``ModelInput.is_scaled``). To numpy it is an array of the frame's
    pixels. For one thread at a time.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        data: bytes,
        header: Header,
        frame: ModelInput,
        decoded: Mapping[ModelInput, Image],
        used: Callable[[ModelInput], None],
    ) -> None:
        """Make one of which the pixels in ``decoded`` are there already.

        ``used`` is told of the first input that any are wanted for.
        """
        self.shape = (frame.height, frame.width, 3)
        self._frame = frame
        self._data = data
        self._header = header
        self._decoded = dict(decoded)
        self._used: Callable[[ModelInput], None] | None = used

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Image:
        """Return the pixels in the frame, as numpy asks for them."""
        return np.array(self.at(self._frame), dtype=dtype, copy=copy)

    def at(self, model_input: ModelInput) -> Image:
        """Return the pixels for an input, as ``decode`` does. Raises InvalidImage."""
        if self._used is not None:
            self._used(model_input)
            self._used = None
        if model_input not in self._decoded:
            self._decoded[model_input], _ = decode(self._data, self._header, model_input)
        return self._decoded[model_input]


def refit(image: Image | LazyPixels, model_input: ModelInput) -> Image:
    """Return pixels that have been decoded for one input, brought to a smaller one.

    They lie where ``ModelInput.place`` says. Of an image that is still encoded, they are decoded
    for that input.
    """
    if isinstance(image, LazyPixels):
        return image.at(model_input)
    height, width = image.shape[:2]
    placement = model_input.place(width, height)
    size = (placement.resized_width, placement.resized_height)
    scaled = resized(PIL.Image.fromarray(image), size)
    return _padded(np.asarray(scaled), model_input)


def load_image(
    data: bytes, model_input: ModelInput, inputs: Collection[ModelInput] = ()
) -> tuple[Image, Letterbox]:
    """Return an encoded image as a model's input, exactly as for a request.

    Of a family, the input is the common frame, and with its several ``scaled_inputs`` the image is
    decoded for each when it is wanted there. Raises InvalidImage or UnsupportedImage.
    """
    header = probe(data)
    pixels, placement = decode(data, header, model_input)
    if len(inputs) <= 1:
        return pixels, placement
    lazy = LazyPixels(data, header, model_input, {model_input: pixels}, lambda _: None)
    return cast(Image, lazy), placement


# ---- the pool ---------------------------------------------------------------------------------

_WINDOW = 64
_WINDOW_S = 30.0
_NUM_SEEDS = 4
_QUANTILE = 0.5
_NUM_EXPECTED = 32
_OVERHEAD_PIXELS = 50_000
"""Cost of decoding an empty image, in pixels: parsing, scaling and copying."""


class DecodeTimes:
    """Predictor of decode times in seconds, from those of the last half minute.

    The prediction is

        seconds = rate(format) * (pixels + overhead)

    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rates = {
            name: RecentValues(_WINDOW_S, _WINDOW, [kind.seed_s_per_pixel] * _NUM_SEEDS)
            for name, kind in FORMATS.items()
        }

    def observe(self, header: Header, seconds: float) -> None:
        """Learn from one image, whose decoding took ``seconds``."""
        rate = seconds / (header.num_pixels + _OVERHEAD_PIXELS)
        self._rates[header.format].add(self._clock(), rate)

    def predict(self, header: Header) -> float:
        """Return the seconds that half of such images are predicted not to exceed."""
        rate = self._rates[header.format].quantile(self._clock(), _QUANTILE)
        return rate * (header.num_pixels + _OVERHEAD_PIXELS)


class ExpectedInput:
    """Predictor of the input that an image is decoded for, by what its request's budget leaves.

    It is the one that an image with the most similar time left was wanted for, of the last few.
    Thread-safe.
    """

    def __init__(self, first: ModelInput) -> None:
        self._lock = threading.Lock()
        self._recent = deque([(math.inf, first)], maxlen=_NUM_EXPECTED)

    def used(self, left_s: float, model_input: ModelInput) -> None:
        """Learn from an image with ``left_s`` seconds left that was wanted for this input."""
        with self._lock:
            self._recent.append((left_s, model_input))

    def predict(self, left_s: float) -> ModelInput:
        """Return the input that an image with ``left_s`` seconds left will be wanted for."""
        with self._lock:
            newest_first = tuple(reversed(self._recent))
        return min(newest_first, key=lambda seen: abs(seen[0] - left_s))[1]


class DecodePool:
    """A pool of threads that decode (Pillow lets go of the interpreter lock).

    It never queues more than ``max_pending`` images. ``observe(format, seconds)`` is called for
    each, ``spent(processor_seconds)`` in the threads, with all that they had a processor for.
    ``run`` is for what else a large request needs before its pixels can be looked at.

    With ``lazily``, images come as ``LazyPixels`` in the frame ``model_input``, decoded for the
    input that they will probably be wanted for.
    """

    def __init__(
        self,
        model_input: ModelInput,
        *,
        lazily: bool = False,
        num_workers: int,
        max_pending: int,
        clock: Clock,
        observe: Callable[[str, float], None],
        spent: Callable[[float], None] = lambda _: None,
        processor_clock: Clock = time.thread_time,
    ) -> None:
        """Make a pool of ``num_workers`` threads.

        ``processor_clock`` gives the seconds that the calling thread has had a processor.
        """
        self._processor_clock = processor_clock
        self._input = model_input
        self._expected = ExpectedInput(model_input) if lazily else None
        self._clock = clock
        self._observe = observe
        self._spent = spent
        self._thread = threading.local()
        self._times = DecodeTimes(clock)
        self._executor = ThreadPoolExecutor(num_workers, thread_name_prefix="decode")
        self._capacity = num_workers + max_pending
        self._slots = threading.BoundedSemaphore(self._capacity)
        self._num_workers = num_workers

    def predicted_s(self, header: Header) -> float:
        """Return the seconds that decoding takes on a server that does nothing else."""
        return self._times.predict(header)

    async def decode(
        self, data: bytes, header: Header, left_s: float = math.inf
    ) -> tuple[Image, Letterbox]:
        """Run ``decode`` in a thread, for a request that has ``left_s`` seconds left.

        Cancelling takes it out of the queue. Raises Overloaded when the queue is full, and
        InvalidImage.
        """
        image, placement, seconds, processor_s = await self.run(
            lambda: self._timed_decode(data, header, left_s), self.predicted_s(header)
        )
        # By the clock it takes longer when others want the processor, which is no reason to call a
        # budget too small for an idle server.
        self._times.observe(header, processor_s)
        self._observe(header.format, seconds)
        return image, placement

    async def run(self, work: Callable[[], T], expected_s: float) -> T:
        """Return what ``work`` returns, called in a thread.

        It is expected to take ``expected_s`` seconds. Cancelling takes it out of the queue. Raises
        Overloaded when the queue is full, and whatever ``work`` raises.
        """
        if not self._slots.acquire(blocking=False):
            raise Overloaded(
                "Too many images are waiting to be decoded.",
                ShedReason.REJECTED_SATURATED,
                expected_s * self._capacity / self._num_workers,
            )
        future = self._executor.submit(self._accounted, work)
        future.add_done_callback(self._free)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Drop what waits, and let the threads end."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _timed_decode(
        self, data: bytes, header: Header, left_s: float
    ) -> tuple[Image, Letterbox, float, float]:
        started_s, before_s = self._clock(), self._processor_clock()
        if self._expected is None:
            image, placement = decode(data, header, self._input)
        else:
            image, placement = self._decode_lazily(data, header, left_s, self._expected)
        return image, placement, self._clock() - started_s, self._processor_clock() - before_s

    def _decode_lazily(
        self, data: bytes, header: Header, left_s: float, expected: ExpectedInput
    ) -> tuple[Image, Letterbox]:
        """Return what becomes the image in any input, and where it lies in the frame."""
        model_input = expected.predict(left_s)
        pixels, placed = decode(data, header, model_input)
        used = partial(expected.used, left_s)
        lazy = LazyPixels(data, header, self._input, {model_input: pixels}, used)
        # Between here and the family's runner nobody looks into an image.
        return cast(Image, lazy), self._input.place(placed.original_width, placed.original_height)

    def _accounted(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns, and account for this thread's time since the last call."""
        try:
            return work()
        finally:
            now_s = self._processor_clock()
            self._spent(now_s - getattr(self._thread, "accounted_s", 0.0))
            self._thread.accounted_s = now_s

    def _free(self, _: Future[Any]) -> None:
        self._slots.release()
