"""Statistics of batch normalisation, measured anew on images of the size that is served.

In training they are those of all sizes that batches had, and no size's own: what enters a layer is
spread otherwise where objects are larger in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from builder.modeling.architectures import AnyDetector, at_size
from builder.modeling.exits import Inputs
from serving.core.ports import Image

BATCH_SIZE = 16
"""Number of images over which a layer's statistics are taken at once; batches weigh alike."""


def recalibrate(detector: AnyDetector, images: Sequence[Image]) -> AnyDetector:
    """Return a copy of ``detector`` whose normalisation statistics are those of ``images``.

    They are at the detector's input size, (H, W, 3) uint8 RGB. Nothing is trained. Raises
    ValueError without images, or where there is no normalisation.
    """
    recalibrated = at_size(detector, detector.config.input_size)
    batches = (
        torch.from_numpy(np.stack(images[start : start + BATCH_SIZE]))
        for start in range(0, len(images), BATCH_SIZE)
    )
    measure_statistics(recalibrated, batches)
    return recalibrated.eval()


@torch.no_grad()
def measure_statistics(detector: AnyDetector, batches: Iterable[Inputs]) -> None:
    """Give ``detector`` the normalisation statistics of some batches, which weigh alike.

    Those of its backbone stay as they are where batches are what a backbone makes of images. Raises
    ValueError without batches, or where there is no normalisation.
    """
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise ValueError("recalibration needs at least one image")
    passed = set(detector.modules())
    if not isinstance(first, Tensor):
        passed -= set(detector.backbone.modules())
    norms = [module for module in passed if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        raise ValueError(f"{detector.config.name} has no normalisation to be recalibrated")
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all batches
        norm.train()
    for batch in chain([first], remaining):
        detector(batch)
    for norm in norms:
        norm.eval()
