"""Batches: complete, shuffled, repeatable."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from builder.config.recipe import TrainConfig
from builder.data.dataset import Dataset
from builder.data.loader import epoch_batches, input_size_of, steps_per_epoch
from tests.builder.data.samples import make_sample

SIZE = (128, 128)
PLAIN = TrainConfig(
    dataset="bccd",
    batch_size=4,
    horizontal_flip=False,
    scale_jitter=(1.0, 1.0),
    brightness_jitter=0.0,
    contrast_jitter=0.0,
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Forty images whose grey level is their number."""
    folder = tmp_path_factory.mktemp("images")
    return Dataset(
        ("x",),
        tuple(
            make_sample(folder / f"{index}.png", np.full((8, 8, 3), index, dtype=np.uint8))
            for index in range(40)
        ),
    )


def seen(images: Dataset, count: int, epoch: int, config: TrainConfig = PLAIN) -> list[list[int]]:
    """The images of each batch of an epoch over the first ``count``."""
    dataset = Dataset(images.classes, images.samples[:count])
    batches = epoch_batches(dataset, SIZE, config, epoch)
    return [[int(example.image[0, 0, 0]) for example in batch] for batch in batches]


@pytest.mark.parametrize(("count", "steps"), [(3, 1), (4, 1), (9, 2), (40, 10)])
def test_whole_batches(images: Dataset, count: int, steps: int) -> None:
    batches = seen(images, count, 0)
    assert len(batches) == steps == steps_per_epoch(count, PLAIN)
    flat = [value for batch in batches for value in batch]
    assert len(set(flat)) == len(flat) == min(count, steps * 4)


def test_an_epoch_is_a_function_of_seed_and_number(images: Dataset) -> None:
    assert seen(images, 40, 1) == seen(images, 40, 1)
    assert seen(images, 40, 1) != seen(images, 40, 2)


def test_leaving_early_ends_the_threads(images: Dataset) -> None:
    before = set(threading.enumerate())
    batches = epoch_batches(images, SIZE, PLAIN, 0)
    next(batches)
    assert set(threading.enumerate()) - before
    batches.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before


def test_an_epoch_of_some_images(images: Dataset) -> None:
    config = replace(PLAIN, images_per_epoch=12)
    epochs = [[value for batch in seen(images, 40, k, config) for value in batch] for k in range(2)]
    assert [len(set(epoch)) for epoch in epochs] == [12, 12]
    assert epochs[0] != epochs[1]
    assert steps_per_epoch(40, config) == 3


def test_an_epoch_of_more_images_than_there_are(images: Dataset) -> None:
    flat = [v for batch in seen(images, 5, 0, replace(PLAIN, images_per_epoch=12)) for v in batch]
    assert sorted(flat[:5]) == sorted(flat[5:10]) == list(range(5))
    assert len(flat) == 12


def test_every_batch_has_one_size(images: Dataset) -> None:
    config = replace(PLAIN, input_sizes=(32, 64, 96))
    sizes = [
        {example.image.shape for example in batch}
        for batch in epoch_batches(images, SIZE, config, 0)
    ]
    assert all(len(of_batch) == 1 for of_batch in sizes)
    drawn = [shape for (shape,) in sizes]
    assert set(drawn) == {(side, side, 3) for side in (32, 64, 96)}
    assert drawn == [
        (*input_size_of(config, SIZE, 0, step), 3) for step in range(len(images.samples) // 4)
    ]
