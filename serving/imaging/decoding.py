"""Decoding of encoded images to model input: upright 8-bit RGB, scaled, letterboxed or stretched.

``load_image`` reads the header as well, for offline tools: accuracy is measured on the very pixels
that requests get.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import PIL.Image

from serving.core.errors import InvalidImage, ServingError
from serving.core.letterbox import PAD_VALUE, Letterbox, ModelInput
from serving.core.ports import Image
from serving.imaging.decode_cost import draft_scale
from serving.imaging.pixels import (
    BLOCK_BYTES,
    Checkpoint,
    go_on,
    is_sideways,
    open_stored,
    orientation,
    to_rgb,
    upright,
    with_end,
)
from serving.imaging.probing import RAW, Header, probe
from serving.imaging.resizing import resized


def _open(data: bytes, header: Header, checkpoint: Checkpoint, block_bytes: int) -> PIL.Image.Image:
    if header.format == RAW:
        return PIL.Image.frombytes("RGB", (header.width, header.height), data)
    stored = open_stored(data, checkpoint, block_bytes)
    if stored.size != (header.width, header.height):
        raise ValueError("the file contradicts itself about its size")
    return stored


def _decode_upright(
    data: bytes,
    header: Header,
    inputs: Iterable[ModelInput],
    checkpoint: Checkpoint,
    block_bytes: int,
) -> dict[ModelInput, tuple[PIL.Image.Image, Letterbox]]:
    """Return the image as it lies in each input, without padding, and where that is."""
    if header.coding.lacks_end:
        data = with_end(data, checkpoint, block_bytes)
    stored = _open(data, header, checkpoint, block_bytes)
    turned = orientation(stored)
    sideways = is_sideways(turned)
    width, height = stored.size[::-1] if sideways else stored.size
    by_scale: dict[int, list[tuple[ModelInput, Letterbox, tuple[int, int]]]] = defaultdict(list)
    for model_input in inputs:
        placement = model_input.place(width, height)
        target = (placement.resized_width, placement.resized_height)
        if sideways:
            target = (target[1], target[0])
        # JPEG only: decode at 1/2, 1/4 or 1/8 while that is still no smaller than what is needed.
        scale = draft_scale(stored.size, target) if header.format == "jpeg" else 1
        by_scale[scale].append((model_input, placement, target))
    found = {}
    for number, group in enumerate(by_scale.values()):
        if number:
            stored = _open(data, header, checkpoint, block_bytes)
        # ``box`` is the whole image in the pixels of that scale, which need not be whole.
        drafted = stored.draft(None, group[0][2])
        box = drafted[1] if drafted else None
        image = to_rgb(stored)
        image.load()
        del stored  # its memory is wanted
        for model_input, placement, target in group:
            checkpoint()
            scaled = image if image.size == target else resized(image, target, box)
            found[model_input] = (upright(scaled, turned), placement)
    return found


def decode_all(
    data: bytes,
    header: Header,
    inputs: Iterable[ModelInput],
    checkpoint: Checkpoint = go_on,
    block_bytes: int = BLOCK_BYTES,
) -> dict[ModelInput, tuple[Image, Letterbox]]:
    """Return for each input its pixels ``(height, width, 3)`` uint8 RGB, and where the image lies.

    The first frame, upright by its EXIF orientation, transparency over white; the original size in
    the placement is the upright one. The array may be read-only. ``checkpoint`` is called after
    each ``block_bytes`` of the file and stops decoding by raising a ServingError, which comes
    through. Raises InvalidImage for anything that cannot be decoded to its end.
    """
    with _damage_named(header):
        checkpoint()
        images = _decode_upright(data, header, inputs, checkpoint, block_bytes)
        return {
            model_input: (_padded(np.asarray(image), placement, model_input), placement)
            for model_input, (image, placement) in images.items()
        }


def decode_whole(
    data: bytes, header: Header, checkpoint: Checkpoint = go_on, block_bytes: int = BLOCK_BYTES
) -> PIL.Image.Image:
    """Return all pixels of an image as upright 8-bit RGB, at its own size.

    ``checkpoint`` and errors are as for ``decode_all``.
    """
    with _damage_named(header):
        checkpoint()
        if header.coding.lacks_end:
            data = with_end(data, checkpoint, block_bytes)
        stored = _open(data, header, checkpoint, block_bytes)
        turned = orientation(stored)
        image = to_rgb(stored)
        image.load()  # now, since what is damaged shows then
        return upright(image, turned)


@contextmanager
def _damage_named(header: Header) -> Iterator[None]:
    """Let whatever is raised in the context be InvalidImage, unless it is a ServingError."""
    try:
        yield
    except ServingError:
        raise
    except Exception as error:  # Pillow's decoders raise no closed set of types
        raise InvalidImage(
            f"The {header.format.upper()} image is truncated or damaged ({error})."
        ) from error


def decode(data: bytes, header: Header, model_input: ModelInput) -> tuple[Image, Letterbox]:
    """Return the pixels of one input, and where the image lies, as ``decode_all`` does."""
    return decode_all(data, header, (model_input,))[model_input]


def _padded(pixels: Image, placement: Letterbox, model_input: ModelInput) -> Image:
    """Return ``pixels`` where they lie in the input; themselves, if they have its size."""
    height, width = pixels.shape[:2]
    if (height, width) == (model_input.height, model_input.width):
        return pixels
    top, left = placement.top, placement.left
    bottom, right = top + height, left + width
    canvas = np.empty((model_input.height, model_input.width, 3), dtype=np.uint8)
    canvas[top:bottom, left:right] = pixels
    canvas[:top] = PAD_VALUE
    canvas[bottom:] = PAD_VALUE
    canvas[top:bottom, :left] = PAD_VALUE
    canvas[top:bottom, right:] = PAD_VALUE
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
    return _padded(np.asarray(scaled), placement, model_input)


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
