"""Scaling of images: bilinear, of all pixels that one of the result covers.

Pillow scales in scalar code, which takes longer than decoding a JPEG does. Where there are wheels
of cykooz.resizer, it applies the same filter with vector instructions, in a sixth of the time; its
levels differ by one at most, from rounding. Elsewhere Pillow does it.
"""

from __future__ import annotations

import PIL.Image

try:
    from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions, Resizer
except ImportError:
    HAS_VECTORS = False
else:
    HAS_VECTORS = True
    _BILINEAR = ResizeAlg.convolution(FilterType.bilinear)

Box = tuple[float, float, float, float]
"""Part of an image in its pixels, which need not be whole: left, top, right, bottom."""


def resized(
    image: PIL.Image.Image, size: tuple[int, int], box: Box | None = None
) -> PIL.Image.Image:
    """Return the part ``box`` of an RGB image, None for all of it, as one of ``size`` pixels.

    The interpreter lock is let go of.
    """
    if not HAS_VECTORS:
        return resized_by_pillow(image, size, box)
    scaled = PIL.Image.new("RGB", size)
    left, top, right, bottom = box or (0.0, 0.0, *image.size)
    part = CropBox(left, top, right - left, bottom - top)
    # One for each call: it is for one thread, and would keep the memory of its largest image.
    Resizer().resize_pil(image, scaled, ResizeOptions(_BILINEAR, crop_box=part))
    return scaled


def resized_by_pillow(
    image: PIL.Image.Image, size: tuple[int, int], box: Box | None = None
) -> PIL.Image.Image:
    """Return what ``resized`` does, as Pillow makes it."""
    return image.resize(size, PIL.Image.Resampling.BILINEAR, box)
