"""Execution modes: how programs run on a device. Here the plain one, in which torch is eager."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from serving.core import segment as segments
from serving.core.ports import Image
from serving.core.segment import Segment
from serving.runners.rows import contiguous_rows
from serving.runners.torch.buffers import Buffers

CPU_BATCH_SIZES = (1, 4)
"""Batch sizes that are warmed up and planned with on a CPU, where shapes are dynamic."""

Program = Callable[..., tuple[Tensor, ...]]
"""Function from tensors to tensors, as ``programs.load_programs`` has them; one program or several
in a row."""


@dataclass(slots=True, eq=False)
class Batch:
    """A batch as tensors on the device.

    ``size`` rows are meant; there may be more.
    """

    size: int
    depth: int
    """Depth of the features, or of the exit of detections; ``segments.IMAGE`` for images."""
    features: bool
    """True if they are features: neither images nor detections."""
    tensors: tuple[Tensor, ...]
    """Images (B, H, W, 3) uint8; or features, one (B, C, H, W) for each level; or detections:
    boxes, scores, labels and counts, as a head gives them."""
    buffers: Buffers | None = None
    """Buffers that the tensors lie in, if they go back to a pool when the batch is released."""


class ExecutionMode(Protocol):
    """A way to run programs on one device.

    Its caller has checked what it is given, and is in torch's inference mode.
    """

    batch_sizes: tuple[int, ...]

    def load(self, images: Sequence[Image]) -> Batch:
        """Return a batch of images, (H, W, 3) uint8 each, on the device."""

    def run(self, segment: Segment, batch: Batch) -> Batch:
        """Return features, or detections that ``arrays`` can read."""

    def gather(self, picked: Sequence[tuple[Batch, int]]) -> Batch:
        """Return a copy of these rows of features, all at one depth."""

    def release(self, batch: Batch) -> None:
        """Take the batch's memory back."""

    def arrays(self, batch: Batch) -> list[Any]:
        """Return boxes, scores, labels and counts in host memory.

        They are valid until the batch is released.
        """

    def close(self) -> None:
        """Free everything."""


class EagerMode:
    """An execution mode in which a run allocates what it returns.

    Memory goes with the last reference.
    """

    batch_sizes: tuple[int, ...] = CPU_BATCH_SIZES

    def __init__(self, programs: Mapping[Segment, Program]) -> None:
        self._programs = dict(programs)

    def load(self, images: Sequence[Image]) -> Batch:
        pixels = torch.from_numpy(np.stack(images))
        return Batch(len(images), segments.IMAGE, False, (pixels,))

    def run(self, segment: Segment, batch: Batch) -> Batch:
        outputs = self._programs[segment](*batch.tensors)
        return Batch(batch.size, segment.stop, not segment.head, outputs)

    def gather(self, picked: Sequence[tuple[Batch, int]]) -> Batch:
        parts = [
            [tensor[row : row + num_rows] for tensor in batch.tensors]
            for batch, row, _, num_rows in contiguous_rows(picked)
        ]
        # What is joined is channels last, as all of its parts are.
        gathered = tuple(map(torch.cat, zip(*parts, strict=True)))
        return Batch(len(picked), picked[0][0].depth, True, gathered)

    def release(self, batch: Batch) -> None:
        pass

    def arrays(self, batch: Batch) -> list[Any]:
        return [tensor.numpy() for tensor in batch.tensors]

    def close(self) -> None:
        self._programs.clear()
