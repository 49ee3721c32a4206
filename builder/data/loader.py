"""Batches of augmented examples, prepared ahead of the training step by a few threads.

All randomness comes from (seed, epoch, position): the same epoch gives the same batches whatever
the threads do, and a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np

from builder.config.recipe import TrainConfig
from builder.data.augment import Example, Placement, augment
from builder.data.dataset import NUM_THREADS, Dataset
from serving.core.letterbox import fit

AHEAD = 3
"""Number of batches prepared in advance."""


def steps_per_epoch(num_samples: int, config: TrainConfig) -> int:
    """Return the number of whole batches in an epoch, at least one.

    The rest is left out (other samples each time). An epoch with a number of images has as many
    batches as that makes, however many samples there are.
    """
    return max(1, (config.images_per_epoch or num_samples) // config.batch_size)


def input_size_of(
    config: TrainConfig, input_size: tuple[int, int], epoch: int, step: int
) -> tuple[int, int]:
    """Return the (height, width) of a step's batch: one of the recipe's, if it has any.

    Otherwise it is ``input_size``.
    """
    if not config.input_sizes:
        return input_size
    side = int(np.random.default_rng((config.seed, epoch, step, 0x512E)).choice(config.input_sizes))
    return side, side


def epoch_batches(
    dataset: Dataset,
    input_size: tuple[int, int],
    config: TrainConfig,
    epoch: int,
    part: tuple[int, int] = (0, 1),
    placement: Placement = fit,
) -> Iterator[list[Example]]:
    """Yield the batches of one epoch, shuffled; of each, part i of n where ``part`` is (i, n).

    All images of a batch have one size.
    """
    index, num_parts = part
    steps = steps_per_epoch(len(dataset.samples), config)
    random = np.random.default_rng((config.seed, epoch))
    # An epoch of more images than there are begins anew with all of them.
    rounds = -(-steps * config.batch_size // len(dataset.samples)) if config.images_per_epoch else 1
    order = np.concatenate([random.permutation(len(dataset.samples)) for _ in range(rounds)])

    def example(position: int) -> Example:
        random = np.random.default_rng((config.seed, epoch, position))
        size = input_size_of(config, input_size, epoch, position // config.batch_size)
        return augment(dataset.samples[order[position]], size, config, random, placement)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
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
