"""Batches of examples, as the tensors that a detector takes and learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from builder.data.augment import Example
from builder.modeling.exits import Inputs
from builder.training.losses import Targets, Truth, assign


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some images of one step, or what a frozen backbone made of them, and what is in them."""

    inputs: Inputs
    truths: tuple[Truth, ...]
    """What is known about each image."""
    input_size: tuple[int, int]
    """Size of the images, (height, width) in pixels."""
    targets: Targets | None = None
    """What follows of the truths for the anchors, if it is at hand."""

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(
            move(self.inputs, device),
            tuple(truth.to(device) for truth in self.truths),
            self.input_size,
            self.targets and self.targets.to(device),
        )


def make_batch(examples: Sequence[Example]) -> Batch:
    """Return examples of one size as a batch."""
    height, width = examples[0].image.shape[:2]
    return Batch(stack_images(examples), tuple(map(_truth, examples)), (height, width))


def move(inputs: Inputs, device: torch.device) -> Inputs:
    """Return the inputs of a detector on a device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, non_blocking=True)
    return [x.to(device, non_blocking=True) for x in inputs]


def stack_images(examples: Sequence[Example]) -> Tensor:
    """Return the images of ``examples`` as one (B, H, W, 3) uint8 tensor."""
    return torch.from_numpy(np.stack([example.image for example in examples]))


def assign_examples(examples: Sequence[Example], anchors: Tensor, num_classes: int) -> Targets:
    """Return the training targets of the (A, 4) ``anchors``, on their device."""
    truths = [_truth(example).to(anchors.device) for example in examples]
    return assign(anchors, truths, num_classes)


def _truth(example: Example) -> Truth:
    arrays = (
        example.boxes_xyxy,
        example.labels,
        example.scores,
        example.ignored_xyxy,
        example.ignored_labels,
        example.unlabelled,
    )
    return Truth(*map(torch.from_numpy, arrays))
