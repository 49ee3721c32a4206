"""Statistics of batch normalisation, measured anew on images of the size that is served.

In training they are those of all sizes that batches had, and no size's own: what enters a layer is
spread otherwise where objects are larger in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from builder.modeling.architectures import AnyDetector, at_size
from serving.core.ports import Image

BATCH_SIZE = 16
"""Number of images over which a layer's statistics are taken at once; batches weigh alike."""


@torch.no_grad()
def recalibrate(detector: AnyDetector, images: Sequence[Image]) -> AnyDetector:
    """Return a copy of ``detector`` whose normalisation statistics are those of ``images``.

    They are at the detector's input size, (H, W, 3) uint8 RGB. Nothing is trained. Raises
    ValueError without images, or where there is no normalisation.
    """
    recalibrated = at_size(detector, detector.config.input_size)
    norms = [module for module in recalibrated.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        raise ValueError(f"{detector.config.name} has no normalisation to be recalibrated")
    if not images:
        raise ValueError("recalibration needs at least one image")
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all batches
        norm.train()
    for start in range(0, len(images), BATCH_SIZE):
        recalibrated(torch.from_numpy(np.stack(images[start : start + BATCH_SIZE])))
    return recalibrated.eval()
