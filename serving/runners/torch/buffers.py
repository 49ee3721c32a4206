"""Buffers of a GPU: tensors at addresses that stay, so that CUDA graphs may keep them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import count
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

ALIGNMENT = 256
"""Number of bytes that tensors in a block are aligned to: what vectorised loads and copies want."""

Spec = tuple[tuple[int, ...], torch.dtype]
"""Shape of one row, and type of a tensor."""


class Device(Protocol):
    """A GPU, as far as ``Buffers`` and ``CudaGraphMode`` need one.

    Work is asynchronous until ``synchronize``.
    """

    def stream(self) -> AbstractContextManager[Any]:
        """Return a context in which work goes to the one stream."""

    def device_block(self, size: int) -> Tensor:
        """Return ``size`` zero bytes on the device."""

    def host_block(self, size: int) -> Tensor:
        """Return ``size`` zero bytes of host memory that the device copies by itself."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return ``work``, on tensors that exist already, as something to call on the stream."""

    def synchronize(self) -> None:
        """Wait until the stream is done."""


@dataclass(slots=True)
class Pool:
    """A pool of buffers of one kind and size that nobody uses.

    It is a heap, with the one that was made first on top.
    """

    free: list[Buffers] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)


class Buffers:
    """Tensors of ``rows`` rows at fixed addresses in one block of device memory.

    With ``mirrored`` the block has a mirror in host memory, so that all of them cross in one copy.
    Features lie channels last.
    """

    def __init__(
        self, specs: Sequence[Spec], rows: int, device: Device, pool: Pool, mirrored: bool
    ) -> None:
        sizes = [rows * prod(shape) * dtype.itemsize for shape, dtype in specs]
        offsets = [0]
        for size in sizes:
            offsets.append(offsets[-1] + -(-size // ALIGNMENT) * ALIGNMENT)

        def views(block: Tensor) -> tuple[Tensor, ...]:
            return tuple(
                _view(block[offset : offset + size], spec, rows)
                for spec, offset, size in zip(specs, offsets, sizes, strict=False)
            )

        self.rows = rows
        self.pool = pool
        self._number = next(pool.numbers)
        self._block = device.device_block(offsets[-1])
        self.tensors = views(self._block)
        self._host_block = device.host_block(offsets[-1]) if mirrored else None
        self.host = () if self._host_block is None else views(self._host_block)

    def __lt__(self, other: Buffers) -> bool:
        return self._number < other._number

    def to_device(self) -> None:
        """Start to copy what the host has written."""
        self._block.copy_(self._host_block, non_blocking=True)

    def to_host(self) -> None:
        """Start to copy what the device has written."""
        if self._host_block is not None:
            self._host_block.copy_(self._block, non_blocking=True)


def _view(part: Tensor, spec: Spec, rows: int) -> Tensor:
    """Return bytes as a tensor of ``spec`` with ``rows`` rows."""
    shape, dtype = spec
    tensor = part.view(dtype)
    if dtype.is_floating_point and len(shape) == len(("channels", "height", "width")):
        channels, height, width = shape
        return tensor.view(rows, height, width, channels).permute(0, 3, 1, 2)
    return tensor.view(rows, *shape)
