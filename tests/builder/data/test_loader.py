"""Batches: complete, shuffled, repeatable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builder.config import TrainConfig
from builder.data.dataset import Dataset, Sample
from builder.data.loader import epoch_batches, steps_per_epoch

SIZE = (128, 128)
PLAIN = TrainConfig(
    dataset="bccd",
    batch_size=4,
    horizontal_flip=False,
    scale_jitter=(1.0, 1.0),
    brightness_jitter=0.0,
    contrast_jitter=0.0,
)


def dataset(count: int) -> Dataset:
    """Images whose grey level is their number."""
    return Dataset(
        ("x",),
        tuple(
            Sample(
                str(index),
                Path(str(index)),
                np.full((8, 8, 3), index, dtype=np.uint8),
                np.zeros((0, 4), dtype=np.float32),
                np.zeros(0, dtype=np.int64),
            )
            for index in range(count)
        ),
    )


def seen(count: int, epoch: int, config: TrainConfig = PLAIN) -> list[list[int]]:
    batches = epoch_batches(dataset(count), SIZE, config, epoch)
    return [[int(example.image[0, 0, 0]) for example in batch] for batch in batches]


@pytest.mark.parametrize(("count", "steps"), [(3, 1), (4, 1), (9, 2), (40, 10)])
def test_whole_batches(count: int, steps: int) -> None:
    batches = seen(count, 0)
    assert len(batches) == steps == steps_per_epoch(count, 4)
    flat = [value for batch in batches for value in batch]
    assert len(set(flat)) == len(flat) == min(count, steps * 4)


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    assert seen(40, 1) == seen(40, 1)
    assert seen(40, 1) != seen(40, 2)


def test_leaving_early_ends_the_threads() -> None:
    batches = epoch_batches(dataset(40), SIZE, PLAIN, 0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
