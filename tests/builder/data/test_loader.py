"""Batches: complete, shuffled, repeatable."""

from __future__ import annotations

import numpy as np
import pytest

from builder.config import TrainConfig
from builder.data.dataset import Dataset
from builder.data.loader import epoch_batches, steps_per_epoch
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
    batches = epoch_batches(images, SIZE, PLAIN, 0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
