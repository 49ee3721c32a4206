"""Programs as CUDA graphs: a boundary between two segments costs one graph launch.

    host     pinned images                                          pinned detections
                  | load                                                    ^ run(head)
    device     images ==stem==> features ==stack_1==> features ==head_1==> detections

* everything that crosses a boundary lies in ``Buffers``, in pools by kind and number of rows. The
  free one that was made first is taken, so that a lone request meets the same ones at every depth
  however deep the one before it went (a stack would hand them out in the other order after every
  other depth);
* ``==>`` is a CUDA graph, captured when a segment first meets a pair of buffers. It ends in a copy
  into the output's buffers, and all graphs share one memory pool for what lies between: that is
  safe because they run one after the other on one stream, and nothing in the pool outlives a run;
* batches are padded with stale rows to the next size in ``GPU_BATCH_SIZES``.

Fused exits are chains of the same programs, captured as one graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from heapq import heappop, heappush
from typing import Any

import torch
from torch import Tensor

from serving.core import segment as segments
from serving.core.ports import Image
from serving.core.segment import Segment
from serving.runners.rows import contiguous_rows
from serving.runners.torch.buffers import Buffers, Device, Pool
from serving.runners.torch.modes import Batch, Program

GPU_BATCH_SIZES = (1, 4, 8)
"""Batch sizes that batches are padded to on a GPU."""
MAX_GRAPHS = 512
"""Number of CUDA graphs that are kept; the least recently used one makes room. Three batch sizes of
twenty segments come to sixty; the others are of requests that overtake each other."""
CAPTURE_WARM_UPS = 2
"""Number of runs before a capture, in which libraries choose algorithms and allocate workspaces."""


class Cuda:
    """A ``Device`` of CUDA, with one stream, and one memory pool for all graphs."""

    def __init__(self, device: torch.device) -> None:
        # For the whole process: algorithms are tried out once for each shape, before a capture.
        torch.backends.cudnn.benchmark = True
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._memory = torch.cuda.graph_pool_handle()

    def stream(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = torch.cuda.stream(self._stream)
        return context

    def device_block(self, size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.uint8, device=self._device)

    def host_block(self, size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.uint8, pin_memory=True)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        with self.stream():
            for _ in range(CAPTURE_WARM_UPS):
                work()
        self.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads (image decoding, the gateway) may call into CUDA's runtime meanwhile.
        with torch.cuda.graph(
            graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local"
        ):
            work()
        replay: Callable[[], None] = graph.replay
        return replay

    def synchronize(self) -> None:
        self._stream.synchronize()


_IMAGES, _FEATURES, _DETECTIONS = "images", "features", "detections"


class CudaGraphMode:
    """An execution mode in which runs are replays of graphs over pooled buffers; see the module."""

    batch_sizes: tuple[int, ...] = GPU_BATCH_SIZES

    def __init__(
        self, programs: Mapping[Segment, Program], image_shape: tuple[int, ...], device: Device
    ) -> None:
        self._programs = dict(programs)
        self._device = device
        self._specs = {_IMAGES: [(image_shape, torch.uint8)]}
        self._pools: dict[tuple[str, int], Pool] = {}
        # A key holds its buffers: no other can come to lie at the addresses in its graph.
        self._graphs: OrderedDict[tuple[Segment, Buffers, Buffers], Callable[[], None]] = (
            OrderedDict()
        )

    def load(self, images: Sequence[Image]) -> Batch:
        buffers = self._take(_IMAGES, len(images))
        pixels = buffers.host[0].numpy()
        for row, image in enumerate(images):
            pixels[row] = image
        with self._device.stream():
            buffers.to_device()
        # The pinned images may be written again as soon as the batch is released.
        self._device.synchronize()
        return Batch(len(images), segments.IMAGE, False, buffers.tensors, buffers)

    def run(self, segment: Segment, batch: Batch) -> Batch:
        inputs = batch.buffers
        assert inputs is not None, "a released batch"
        kind = _DETECTIONS if segment.head else _FEATURES
        if kind not in self._specs:
            self._learn(kind, segment, inputs)
        output = self._take(kind, inputs.rows)
        replay = self._graph(segment, inputs, output)
        with self._device.stream():
            replay()
            output.to_host()
        self._device.synchronize()
        return Batch(batch.size, segment.stop, not segment.head, output.tensors, output)

    def gather(self, picked: Sequence[tuple[Batch, int]]) -> Batch:
        assert all(batch.buffers is not None for batch, _ in picked), "a released batch"
        gathered = self._take(_FEATURES, len(picked))
        targets, sources = [], []
        for batch, row, position, num_rows in contiguous_rows(picked):
            targets += [tensor[position : position + num_rows] for tensor in gathered.tensors]
            sources += [tensor[row : row + num_rows] for tensor in batch.tensors]
        with self._device.stream():
            torch._foreach_copy_(targets, sources)
        self._device.synchronize()
        return Batch(len(picked), picked[0][0].depth, True, gathered.tensors, gathered)

    def release(self, batch: Batch) -> None:
        buffers, batch.buffers = batch.buffers, None
        if buffers is not None:
            heappush(buffers.pool.free, buffers)

    def arrays(self, batch: Batch) -> list[Any]:
        assert batch.buffers is not None, "a released batch"
        return [tensor.numpy() for tensor in batch.buffers.host]

    def close(self) -> None:
        self._device.synchronize()
        self._graphs.clear()
        self._pools.clear()
        self._programs.clear()

    def _take(self, kind: str, size: int) -> Buffers:
        """Return free buffers with room for ``size`` rows, or new ones.

        Executors bound how many are out at once.
        """
        rows = next(rows for rows in self.batch_sizes if rows >= size)
        pool = self._pools.setdefault((kind, rows), Pool())
        if pool.free:
            return heappop(pool.free)
        with self._device.stream():
            buffers = Buffers(self._specs[kind], rows, self._device, pool, kind != _FEATURES)
        self._device.synchronize()
        return buffers

    def _learn(self, kind: str, segment: Segment, inputs: Buffers) -> None:
        """Learn from one run what the outputs of this kind are like."""
        with self._device.stream():
            outputs = self._programs[segment](*inputs.tensors)
        self._device.synchronize()
        self._specs[kind] = [(tuple(x.shape[1:]), x.dtype) for x in outputs]

    def _graph(self, segment: Segment, inputs: Buffers, output: Buffers) -> Callable[[], None]:
        """Return the replay of ``segment`` between these buffers, captured if it is new."""
        key = (segment, inputs, output)
        replay = self._graphs.get(key)
        if replay is None:
            program = self._programs[segment]

            def work() -> None:
                torch._foreach_copy_(list(output.tensors), list(program(*inputs.tensors)))

            replay = self._graphs[key] = self._device.capture(work)
            while len(self._graphs) > MAX_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return replay
