"""Memory that segments on TensorRT take and give: layouts, buffers, their pools, and the stream."""

from __future__ import annotations

import ctypes
import heapq
import itertools
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import runtime as cudart

from serving.artifacts.cuda import checked

ALIGNMENT = 256
"""Number of bytes that TensorRT asks every address to be a multiple of."""


@dataclass(frozen=True)
class TensorLayout:
    """The layout in memory of one row of a tensor that crosses a boundary."""

    shape: tuple[int, ...]
    """Shape without the batch; channels last and padded where the format vectorises them."""
    dtype: type[np.generic]

    @property
    def row_bytes(self) -> int:
        """Number of bytes of one row of the batch."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


BatchLayout = tuple[TensorLayout, ...]
"""Layout of all tensors that a segment takes or gives: images, features or detections."""


@dataclass(frozen=True, eq=False)
class Buffer:
    """Device memory for one batch of a layout, in one piece.

    ``host`` is pinned memory of the same layout, where the host writes or reads it.
    """

    number: int
    """Place in the order in which the buffers of a runner were made."""
    address: int
    """Address in device memory."""
    offsets: tuple[int, ...]
    """Bytes before each tensor."""
    host: npt.NDArray[np.uint8] | None

    def row_address(self, index: int, tensor: TensorLayout, row: int) -> int:
        """Return the address of one row of a tensor in device memory."""
        return self.address + self.offsets[index] + row * tensor.row_bytes

    def view(self, index: int, tensor: TensorLayout, rows: int) -> npt.NDArray[Any]:
        """Return the first rows of a tensor in host memory, (rows, *shape), not copied."""
        assert self.host is not None, "features have no host memory"
        shape, offset = (rows, *tensor.shape), self.offsets[index]
        view: npt.NDArray[Any] = np.ndarray(shape, tensor.dtype, self.host.data, offset)
        return view


class Device:
    """The memory and the one stream of a device; ``close`` frees everything."""

    def __init__(self) -> None:
        self._resources = ExitStack()
        self.stream = checked(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
        self._resources.callback(lambda: checked(cudart.cudaStreamDestroy(self.stream)))

    def allocate(self, num_bytes: int) -> int:
        """Allocate device memory, and return its address."""
        address = int(checked(cudart.cudaMalloc(max(ALIGNMENT, num_bytes))))
        self._resources.callback(lambda: checked(cudart.cudaFree(address)))
        return address

    def allocate_pinned(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        """Allocate host memory that the device copies from and to by itself, (num_bytes,)."""
        address = int(checked(cudart.cudaMallocHost(num_bytes)))
        self._resources.callback(lambda: checked(cudart.cudaFreeHost(address)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(address))

    def upload(self, target: int, source: npt.NDArray[Any]) -> None:
        """Copy pinned memory to the device, in the stream's order."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        address = source.ctypes.data
        checked(cudart.cudaMemcpyAsync(target, address, source.nbytes, kind, self.stream))

    def download(self, target: npt.NDArray[Any], source: int) -> None:
        """Copy device memory to pinned memory, in the stream's order."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        address = target.ctypes.data
        checked(cudart.cudaMemcpyAsync(address, source, target.nbytes, kind, self.stream))

    def copy(self, target: int, source: int, num_bytes: int) -> None:
        """Copy within the device, in the stream's order."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        checked(cudart.cudaMemcpyAsync(target, source, num_bytes, kind, self.stream))

    def synchronize(self) -> None:
        """Wait until everything in the stream is done. Raises CudaError if something failed."""
        checked(cudart.cudaStreamSynchronize(self.stream))

    def close(self) -> None:
        """Free all memory and the stream."""
        self._resources.close()


class Pool:
    """A pool of buffers of one layout at one padded batch size."""

    def __init__(
        self,
        device: Device,
        layout: BatchLayout,
        size: int,
        pinned: bool,
        numbers: itertools.count[int],
    ) -> None:
        ends = [0]
        for tensor in layout:
            ends.append(_aligned(ends[-1] + size * tensor.row_bytes))
        self.layout = layout
        self._offsets, self._num_bytes = tuple(ends[:-1]), ends[-1]
        self._device = device
        self._pinned = pinned
        self._numbers = numbers
        self._free: list[tuple[int, Buffer]] = []

    def take(self) -> Buffer:
        """Return the free buffer with the lowest number, or a new one.

        Executors bound how many are out at once.
        """
        if self._free:
            return heapq.heappop(self._free)[1]
        return Buffer(
            next(self._numbers),
            self._device.allocate(self._num_bytes),
            self._offsets,
            self._device.allocate_pinned(self._num_bytes) if self._pinned else None,
        )

    def give(self, buffer: Buffer) -> None:
        """Take a buffer back."""
        heapq.heappush(self._free, (buffer.number, buffer))


def _aligned(num_bytes: int) -> int:
    """Return the number of bytes, rounded up to whole ``ALIGNMENT``."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
