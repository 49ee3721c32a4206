"""Batches of augmented examples, prepared ahead of the training step by a few threads.

All randomness comes from (seed, epoch, position): the same epoch gives the same batches whatever
the threads do, and a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np

from builder.config.named import TrainConfig
from builder.data.augment import Example, augment
from builder.data.dataset import Dataset

THREADS = min(8, len(os.sched_getaffinity(0)))
AHEAD = 3
"""Number of batches prepared in advance."""


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Return the number of whole batches in an epoch, at least one.

    The rest is left out (other samples each time).
    """
    return max(1, num_samples // batch_size)


def epoch_batches(
    dataset: Dataset,
    input_size: tuple[int, int],
    config: TrainConfig,
    epoch: int,
    part: tuple[int, int] = (0, 1),
) -> Iterator[list[Example]]:
    """Yield the batches of one epoch, shuffled; of each, part i of n where ``part`` is (i, n)."""
    index, num_parts = part
    order = np.random.default_rng((config.seed, epoch)).permutation(len(dataset.samples))
    steps = steps_per_epoch(len(order), config.batch_size)

    def example(position: int) -> Example:
        random = np.random.default_rng((config.seed, epoch, position))
        return augment(dataset.samples[order[position]], input_size, config, random)

    with ThreadPoolExecutor(THREADS) as pool:
        batches = (
            [
                pool.submit(example, position)
                for position in range(
                    step * config.batch_size + index,
                    min((step + 1) * config.batch_size, len(order)),
                    num_parts,
                )
            ]
            for step in range(steps)
        )
        pending: deque[list[Future[Example]]] = deque(islice(batches, AHEAD))
        while pending:
            futures = pending.popleft()
            yield [future.result() for future in futures]
            pending.extend(islice(batches, 1))
