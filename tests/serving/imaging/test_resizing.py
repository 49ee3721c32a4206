"""Scaling of images: whoever does it, the result is that of one filter."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.imaging import resizing
from serving.imaging.resizing import Box, resized, resized_by_pillow
from tests.properties import examples

vectors = pytest.mark.skipif(not resizing.HAS_VECTORS, reason="there is no cykooz.resizer here")

sides = st.integers(1, 90)


def noise(width: int, height: int) -> PIL.Image.Image:
    """The image that is hardest to agree on."""
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(levels)


def difference(one: PIL.Image.Image, other: PIL.Image.Image) -> npt.NDArray[np.int64]:
    assert (one.mode, one.size) == (other.mode, other.size)
    return np.abs(np.asarray(one).astype(int) - np.asarray(other))


@vectors
@example(56, 58, 58, 56, 0.0)
@examples(200)
@given(sides, sides, sides, sides, st.sampled_from([0.0, 0.25, 0.5]))
def test_levels_are_those_of_pillow(
    width: int, height: int, to_width: int, to_height: int, cut: float
) -> None:
    """To one level from rounding after the rows, and one after the columns; also enlarged, and of a
    part that ends within a pixel."""
    image, size = noise(width, height), (to_width, to_height)
    box: Box | None = (0.0, 0.0, width - cut, height - cut) if cut else None
    levels = difference(resized(image, size, box), resized_by_pillow(image, size, box))
    assert levels.max() <= 2
    assert np.count_nonzero(levels > 1) <= levels.size / 1000


@vectors
def test_a_large_image_which_is_in_memory_in_pieces() -> None:
    image = noise(4100, 2100)  # Pillow's pieces have 16 MiB at most
    assert difference(resized(image, (300, 300)), resized_by_pillow(image, (300, 300))).max() <= 1


def test_several_threads_scale_at_once() -> None:
    image = noise(640, 480)
    alone = resized(image, (300, 300))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: resized(image, (300, 300)), range(16)))
    assert all(difference(each, alone).max() == 0 for each in found)


def test_without_the_library_pillow_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "HAS_VECTORS", False)
    image = noise(64, 48)
    assert difference(resized(image, (30, 20)), resized_by_pillow(image, (30, 20))).max() == 0
