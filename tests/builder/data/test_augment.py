"""Augmentation: boxes follow their pixels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.config.recipe import TrainConfig
from builder.data.augment import Example, adjust, augment, flip, letterbox, place
from builder.data.dataset import Sample
from serving.core.letterbox import PAD_VALUE, PLACEMENTS, stretch
from tests.builder.data.samples import make_sample
from tests.properties import examples

SIZE = (128, 256)
BOX = (40, 24, 80, 56)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A white rectangle on black, 128 by 96."""
    image = np.zeros((96, 128, 3), dtype=np.uint8)
    x1, y1, x2, y2 = BOX
    image[y1:y2, x1:x2] = 255
    return make_sample(tmp_path_factory.mktemp("samples") / "a.png", image, [BOX], [1])


def bright_extent(image: np.ndarray) -> list[float]:
    """xyxy of the pixels brighter than the padding."""
    rows, columns = np.nonzero(image[:, :, 0] > PAD_VALUE + 30)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@given(
    zoom=st.floats(0.5, 1.2),
    position=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    axes=st.sets(st.sampled_from([0, 1])),
)
@examples(50)
def test_boxes_follow_pixels(
    sample: Sample, zoom: float, position: tuple[float, float], axes: set[int]
) -> None:
    example = place(sample, SIZE, zoom, position)
    for axis in axes:
        example = flip(example, axis)
    assert example.image.shape == (*SIZE, 3)
    assert np.abs(example.boxes_xyxy[0] - bright_extent(example.image)).max() <= 2
    assert example.labels.tolist() == [1]


def test_letterbox_is_zoom_one(sample: Sample) -> None:
    example = letterbox(sample, SIZE)
    # The width is rounded to whole pixels: 171 for 170.67.
    np.testing.assert_allclose(example.boxes_xyxy[0], np.array(BOX) * 128 / 96, atol=0.25)
    assert (example.image[:, 171:] == PAD_VALUE).all()


def test_boxes_that_are_cut_away_are_dropped(sample: Sample) -> None:
    assert not len(place(sample, SIZE, 5.0, (1.0, 1.0)).boxes_xyxy)
    partly = place(sample, (128, 128), 2.0, (0.5, 0.5))
    assert (partly.boxes_xyxy >= 0).all()
    assert (partly.boxes_xyxy <= 128).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_flipping_twice_is_nothing(sample: Sample, axis: int) -> None:
    example = letterbox(sample, SIZE)
    twice = flip(flip(example, axis), axis)
    np.testing.assert_array_equal(twice.image, example.image)
    np.testing.assert_array_equal(twice.boxes_xyxy, example.boxes_xyxy)


def test_grey_levels() -> None:
    image = np.array([[[0, 128, 255]]], dtype=np.uint8)
    assert adjust(image, 0.0, 1.0).tolist() == image.tolist()
    assert adjust(image, 0.0, 0.5).tolist() == [[[64, 128, 192]]]
    assert adjust(image, 0.2, 1.0).tolist() == [[[51, 179, 255]]]


def test_same_seed_same_view(sample: Sample) -> None:
    config = TrainConfig(dataset="bccd", vertical_flip=True)

    def view(seed: int) -> Example:
        return augment(sample, SIZE, config, np.random.default_rng(seed))

    np.testing.assert_array_equal(view(3).image, view(3).image)
    np.testing.assert_array_equal(view(3).boxes_xyxy, view(3).boxes_xyxy)
    assert any(not np.array_equal(view(3).image, view(seed).image) for seed in range(4, 8))


@given(zooms=st.tuples(st.floats(0.5, 1.2), st.floats(0.5, 1.2)))
@examples(20)
def test_boxes_follow_stretched_pixels(sample: Sample, zooms: tuple[float, float]) -> None:
    example = place(sample, (128, 128), zooms, (0.0, 0.0), stretch)
    assert np.abs(example.boxes_xyxy[0] - bright_extent(example.image)).max() <= 2


@pytest.mark.parametrize("size", [(64, 96), (97, 64), (64, 64)])
def test_boxes_lie_where_the_server_has_them(sample: Sample, size: tuple[int, int]) -> None:
    """Height, then width of the input; also in the centre of it, to the pixel."""
    height, width = sample.size
    for placement in PLACEMENTS.values():
        placed = placement(width, height, size[1], size[0])
        example = letterbox(sample, size, placement)
        kept = placed.to_original(example.boxes_xyxy)
        np.testing.assert_allclose(kept, sample.boxes_xyxy, atol=1e-3)
        assert np.abs(example.boxes_xyxy[0] - bright_extent(example.image)).max() <= 2


def test_stretching_fills_the_input(sample: Sample) -> None:
    example = letterbox(sample, (96, 64), stretch)
    np.testing.assert_allclose(example.boxes_xyxy[0], np.array(BOX) * [0.5, 1, 0.5, 1])
    assert not (example.image == PAD_VALUE).all(axis=-1).any()


def test_what_is_unknown_goes_along(sample: Sample) -> None:
    uncertain = replace(
        sample,
        scores=np.array([0.5], dtype=np.float32),
        crowds_xyxy=np.array([[0, 0, 30, 30], [100, 60, 128, 96]], dtype=np.float32),
        crowd_labels=np.array([0, 1]),
        unlabelled=np.array([2]),
    )
    example = place(uncertain, (96, 128), 2.0, (0.0, 0.0))
    assert example.scores.tolist() == [0.5]
    assert example.ignored_labels.tolist() == [0]  # the other one is cut away
    assert example.ignored_xyxy.tolist() == [[0, 0, 60, 60]]
    assert example.unlabelled.tolist() == [2]
    flipped = flip(example, 1)
    assert flipped.ignored_xyxy.tolist() == [[68, 0, 128, 60]]
    assert flipped.scores.tolist() == [0.5]


def test_the_aspect_ratio_is_drawn(sample: Sample) -> None:
    def ratio(aspect: float, seed: int) -> float:
        config = TrainConfig(dataset="bccd", aspect_jitter=aspect, scale_jitter=(0.5, 0.5))
        view = augment(sample, SIZE, config, np.random.default_rng(seed))
        width, height = (view.boxes_xyxy[0, 2:] - view.boxes_xyxy[0, :2]).tolist()
        return width / height

    assert ratio(0.0, 1) == pytest.approx(40 / 32, rel=0.05)
    ratios = [ratio(0.3, seed) / (40 / 32) for seed in range(20)]
    assert math.exp(-0.32) < min(ratios) < 0.9
    assert 1.1 < max(ratios) < math.exp(0.32)
