"""What a training sees of its images, step by step, and what it is validated on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from builder.config.configuration import Config
from builder.config.detector import DetectorConfig
from builder.data import Dataset
from builder.data.augment import letterbox
from builder.data.loader import epoch_batches
from builder.modeling.exits import Inputs
from builder.training.batch import Batch, make_batch, stack_images
from serving.core.letterbox import PLACEMENTS

HELD_OUT_BATCH = 8
"""Number of images that are validated at a time."""


class Views(Protocol):
    """Source of the batches of a training, a function of the epoch."""

    def steps(self, epoch: int) -> Iterator[list[Batch]]:
        """Yield, for each step of an epoch, this process's share of the batch in micro-batches."""
        ...

    def held_out(self) -> Iterator[Inputs]:
        """Yield the held-out images in order, some at a time, as the server places them."""
        ...


@dataclass(frozen=True, slots=True)
class AugmentedViews:
    """Views that are made when they are asked for, by augmentation."""

    config: Config
    dataset: Dataset
    held_out_images: Dataset | None = None
    part: tuple[int, int] = (0, 1)
    """This process's number, and how many share each batch."""

    def steps(self, epoch: int) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each step."""
        detector, recipe = self.config.detector, self.config.train
        placement, count = PLACEMENTS[detector.resize], recipe.micro_batches
        batches = epoch_batches(
            self.dataset, detector.input_size, recipe, epoch, self.part, placement
        )
        for examples in batches:
            yield [make_batch(examples[index::count]) for index in range(count)]

    def held_out(self) -> Iterator[Inputs]:
        """Yield held-out images, (B, H, W, 3) uint8."""
        if self.held_out_images is not None:
            yield from placed(self.config.detector, self.held_out_images)


def placed(config: DetectorConfig, dataset: Dataset) -> Iterator[Inputs]:
    """Yield the images of a data set in order, (B, H, W, 3) uint8, as the server places them."""
    placement = PLACEMENTS[config.resize]
    for start in range(0, len(dataset.samples), HELD_OUT_BATCH):
        samples = dataset.samples[start : start + HELD_OUT_BATCH]
        yield stack_images([letterbox(sample, config.input_size, placement) for sample in samples])
