"""Segments on torch: eager on a CPU, CUDA graphs on an NVIDIA GPU.

It is the peer that the specialised runtimes are measured against, and what runs where there is none
of them.

On a GPU a boundary between two segments costs one graph launch:

    host     pinned images                                          pinned detections
                  | load                                                    ^ run(head)
    device     images ==stem==> features ==stack_1==> features ==head_1==> detections

* everything that crosses a boundary lies in buffers of fixed addresses, in pools by kind and number
  of rows. The free one that was made first is taken, so that a lone request meets the same ones at
  every depth however deep the one before it went (a stack would hand them out in the other order
  after every other depth);
* ``==>`` is a CUDA graph, captured when a segment first meets a pair of buffers. It ends in a copy
  into the output's buffers, and all graphs share one memory pool for what lies between: that is
  safe because they run one after the other on one stream, and nothing in the pool outlives a run;
* batches are padded with stale rows to the next size in ``GPU_BATCH_SIZES``.

Fused exits are chains of the same programs, captured as one graph. Convolutions run in half
precision, channels last; see ``torch_program`` for what stays in float32.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from serving.artifacts.torch_programs import multiplies_bf16
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.ports import Image, Pause, at_once
from serving.core.request import Detections
from serving.core.segment import Segment
from serving.runners.checks import check_images, check_merge, check_segment, check_select
from serving.runners.rows import copied_rows, every_row, stretches
from serving.runners.torch_program import load_programs

CPU_BATCH_SIZES = (1, 4)
"""Batch sizes that are warmed up and planned with on a CPU, where shapes are dynamic."""
GPU_BATCH_SIZES = (1, 4, 8)
"""Batch sizes that batches are padded to on a GPU."""
MAX_GRAPHS = 512
"""Number of CUDA graphs that are kept; the least recently used one makes room. Three batch sizes of
twenty segments come to sixty; the others are of requests that overtake each other."""
CAPTURE_WARM_UPS = 2
"""Number of runs before a capture, in which libraries choose algorithms and allocate workspaces."""
ALIGNMENT = 256
"""Number of bytes that tensors in a block are aligned to: what vectorised loads and copies want."""

PRECISIONS = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
"""Types that convolutions may run in, by name."""

Program = Callable[..., tuple[Tensor, ...]]
"""Function from tensors to tensors, as ``torch_program.load_programs`` has them; one program or
several in a row."""

Spec = tuple[tuple[int, ...], torch.dtype]
"""Shape of one row, and type of a tensor."""


class TorchRunner:
    """A ``SegmentRunner`` over the programs in ``folder``.

    ``num_threads`` None: all cores; a number holds for the whole process, as torch has it.
    ``device``: ``cpu`` or ``cuda``; None: a GPU if there is one. ``precision`` of convolutions, a
    key of ``PRECISIONS``; None: ``f16`` on a GPU; on a CPU ``bf16`` where it is native and ``f32``
    elsewhere. ``wanted``: the segments to load; None: all. Raises OSError or ValueError when the
    programs are missing or of another model.
    """

    def __init__(
        self,
        folder: Path,
        catalog: Catalog,
        num_threads: int | None,
        device: str | None = None,
        precision: str | None = None,
        wanted: Collection[Segment] | None = None,
    ) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        chosen = precision or _fast_precision(target)
        if chosen not in PRECISIONS:
            raise ValueError(f"precision {chosen!r} is none of {', '.join(PRECISIONS)}")
        self.runtime = f"torch {torch.__version__}"
        self.segments = frozenset(
            segments.every_segment(catalog.num_exits) if wanted is None else wanted
        )
        self._image_shape = (catalog.input_height, catalog.input_width, 3)
        parts = sorted({part for segment in self.segments for part in segment.parts})
        unit = load_programs(folder, catalog, parts, target, PRECISIONS[chosen])
        programs = {
            segment: _chain([unit[part] for part in segment.parts]) for segment in self.segments
        }
        self._lane = self._open_lane(programs, target)
        self.batch_sizes = self._lane.batch_sizes
        self._closed = False

    def load(self, images: Sequence[Image]) -> Batch:
        """Return a batch of images, copied."""
        self._check_open()
        check_images(images, self._image_shape, self.batch_sizes[-1])
        with torch.inference_mode():
            return self._lane.load(images)

    def run(self, segment: Segment, batch: Batch) -> Batch:
        """Run one synchronous inference, without the interpreter lock while the device computes."""
        self._check_open()
        check_segment(segment, batch.depth, self.segments)
        with torch.inference_mode():
            return self._lane.run(segment, batch)

    def select(self, batch: Batch, rows: Sequence[int]) -> Batch:
        """Return a copy of these rows."""
        self._check_open()
        check_select(batch, rows, self.batch_sizes[-1])
        return self._gather([(batch, row) for row in rows])

    def merge(self, batches: Sequence[Batch]) -> Batch:
        """Return a copy of all rows."""
        self._check_open()
        check_merge(batches, self.batch_sizes[-1])
        return self._gather(every_row(batches))

    def release(self, batch: Batch) -> None:
        """Give the batch back to its pool, if it came from one."""
        self._lane.release(batch)

    def detections(self, batch: Batch) -> list[Detections]:
        """Return copies, so the batch can be released."""
        self._check_open()
        boxes, scores, labels, counts = self._lane.arrays(batch)
        return copied_rows(boxes, scores, labels, counts[: batch.size])

    def abort(self) -> None:
        """Do nothing: a call into the runtime cannot be ended."""

    def close(self, pause: Pause = at_once, /) -> None:
        """Free programs, graphs and buffers."""
        self._closed = True
        pause()
        self._lane.close()

    def _open_lane(self, programs: Mapping[Segment, Program], device: torch.device) -> Lane:
        """Return the lane of the programs on ``device``."""
        if device.type == "cuda":
            return Captured(programs, self._image_shape, Cuda(device))
        return Eager(programs)

    def _gather(self, picked: Sequence[tuple[Batch, int]]) -> Batch:
        with torch.inference_mode():
            return self._lane.gather(picked)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the runner is closed")


def _fast_precision(device: torch.device) -> str:
    """Return the precision that convolutions are fastest in on ``device``."""
    if device.type == "cuda":
        return "f16"  # which the kernels are stored in
    return "bf16" if multiplies_bf16(torch.cpu.get_capabilities()) else "f32"


def _chain(programs: Sequence[Program]) -> Program:
    """Return a program that runs these one after the other."""

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        for program in programs:
            tensors = program(*tensors)
        return tensors

    return run


# -- lanes: what a device makes of a program -------------------------------------------------------


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
    buffers: Buffers | None = None
    """Buffers that the tensors lie in, if they go back to a pool when the batch is released."""


class Lane(Protocol):
    """A way to run programs on one device.

    Its caller has checked what it is given, and is in torch's inference mode.
    """

    batch_sizes: tuple[int, ...]

    def load(self, images: Sequence[Image]) -> Batch:
        """Return a batch of images on the device."""

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


class Eager:
    """A lane on which a run allocates what it returns.

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
            for batch, row, _, num_rows in stretches(picked)
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


class Device(Protocol):
    """A GPU, as far as ``Captured`` needs one.

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


@dataclass(slots=True)
class _Pool:
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
        self, specs: Sequence[Spec], rows: int, device: Device, pool: _Pool, mirrored: bool
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


_IMAGES, _FEATURES, _DETECTIONS = "images", "features", "detections"


class Captured:
    """A lane on which runs are replays of graphs over pooled buffers; see the module."""

    batch_sizes: tuple[int, ...] = GPU_BATCH_SIZES

    def __init__(
        self, programs: Mapping[Segment, Program], image_shape: tuple[int, ...], device: Device
    ) -> None:
        self._programs = dict(programs)
        self._device = device
        self._specs = {_IMAGES: [(image_shape, torch.uint8)]}
        self._pools: dict[tuple[str, int], _Pool] = {}
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
        for batch, row, position, num_rows in stretches(picked):
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
        pool = self._pools.setdefault((kind, rows), _Pool())
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
