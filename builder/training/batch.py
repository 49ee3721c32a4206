"""Batches of examples, as the tensors that a detector takes and learns from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from builder.data.augment import Example
from builder.training.losses import Targets, Truth, assign


def stack_images(examples: Sequence[Example], device: torch.device) -> Tensor:
    """Return the images of ``examples`` as one (B, H, W, 3) uint8 tensor on ``device``."""
    images = torch.from_numpy(np.stack([example.image for example in examples]))
    return images.to(device, non_blocking=True)


def assign_examples(examples: Sequence[Example], anchors: Tensor, num_classes: int) -> Targets:
    """Return the training targets of the (A, 4) ``anchors``, on their device."""
    return assign(anchors, [_truth(example, anchors.device) for example in examples], num_classes)


def _truth(example: Example, device: torch.device) -> Truth:
    arrays = (
        example.boxes_xyxy,
        example.labels,
        example.scores,
        example.ignored_xyxy,
        example.ignored_labels,
        example.unlabelled,
    )
    return Truth(*(torch.from_numpy(array).to(device) for array in arrays))
