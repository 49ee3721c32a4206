"""Segments on TensorRT: plans on one NVIDIA GPU.

    load          host image -> pinned memory -> device            one copy for a batch
    run           captured graph: kernels of one segment           one launch, one wait
    run(head)     the same, and boxes back to pinned memory        one copy inside the graph
    detections    pinned memory -> arrays

Features never leave the device. What a CUDA graph has captured is bound to addresses, so there is
one graph for each (segment, input buffer, output buffer), captured when that combination is first
met; a buffer is of one batch size. A batch takes the free buffer with the lowest number: a request
that is alone always meets the same buffers, whose graphs are captured before the first request.

Batches are padded to the next of ``BATCH_SIZES``; rows do not influence each other, so what is in
the rows beyond is of no consequence. All plans compute in one block of device memory, one at a
time. Needs ``tensorrt`` and ``cuda-python``, and nothing newer than Python 3.10.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
from collections import OrderedDict
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorrt as trt
from cuda.bindings import runtime as cudart

from serving.artifacts.cuda import Gpu, checked
from serving.artifacts.tensorrt_plans import (
    BATCH_SIZES,
    FOLDER,
    MANIFEST,
    PROFILES,
    Plan,
    PlansError,
    profile_of,
    read_plan,
    read_plans,
)
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.ports import Image, Pause, at_once
from serving.core.request import Detections
from serving.core.segment import Segment
from serving.core.timing import time_every_segment
from serving.runners.checks import check_images, check_merge, check_segment, check_select
from serving.runners.rows import copied_rows, every_row, stretches

SINCE_10 = int(trt.__version__.split(".")[0]) >= 10
"""True for TensorRT 10 and later. The tests audit both branches of every ``if SINCE_10`` against
the bindings."""

ALIGNMENT = 256
"""Number of bytes that TensorRT asks every address to be a multiple of."""
MAX_GRAPHS = 512
"""Number of CUDA graphs that are kept. A lone request at each of three batch sizes needs 22 for
seven stacks."""
CHANNEL_VECTOR = 8
"""Number of channels that lie together in the vectorised format."""

DTYPES: dict[Any, type[np.generic]] = {
    trt.DataType.FLOAT: np.float32,
    trt.DataType.HALF: np.float16,
    trt.DataType.INT32: np.int32,
    trt.DataType.UINT8: np.uint8,
}
"""Types of arrays, by TensorRT's types."""


@dataclass(frozen=True)
class _Tensor:
    """The layout in memory of one row of a tensor that crosses a boundary."""

    shape: tuple[int, ...]
    """Shape without the batch; channels last and padded where the format vectorises them."""
    dtype: type[np.generic]

    @property
    def row_bytes(self) -> int:
        """Number of bytes of one row of the batch."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


_Kind = tuple[_Tensor, ...]
"""Layout of all tensors that a segment takes or gives: images, features or detections."""


@dataclass(frozen=True, eq=False)
class _Buffer:
    """Device memory for one batch of a kind, in one piece.

    ``host`` is pinned memory of the same layout, where the host writes or reads it.
    """

    number: int
    address: int
    offsets: tuple[int, ...]
    host: npt.NDArray[np.uint8] | None

    def row_address(self, index: int, tensor: _Tensor, row: int) -> int:
        """Return the address of one row of a tensor in device memory."""
        return self.address + self.offsets[index] + row * tensor.row_bytes

    def view(self, index: int, tensor: _Tensor, rows: int) -> npt.NDArray[Any]:
        """Return the first rows of a tensor in host memory."""
        assert self.host is not None, "features have no host memory"
        shape, offset = (rows, *tensor.shape), self.offsets[index]
        view: npt.NDArray[Any] = np.ndarray(shape, tensor.dtype, self.host.data, offset)
        return view


class _Device:
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
        """Allocate host memory that the device copies from and to by itself."""
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


class _Pool:
    """A pool of buffers of one kind at one padded batch size."""

    def __init__(
        self, device: _Device, kind: _Kind, size: int, pinned: bool, numbers: itertools.count[int]
    ) -> None:
        ends = [0]
        for tensor in kind:
            ends.append(_aligned(ends[-1] + size * tensor.row_bytes))
        self.kind = kind
        self._offsets, self._num_bytes = tuple(ends[:-1]), ends[-1]
        self._device = device
        self._pinned = pinned
        self._numbers = numbers
        self._free: list[tuple[int, _Buffer]] = []

    def take(self) -> _Buffer:
        """Return the free buffer with the lowest number, or a new one.

        Executors bound how many are out at once.
        """
        if self._free:
            return heapq.heappop(self._free)[1]
        return _Buffer(
            next(self._numbers),
            self._device.allocate(self._num_bytes),
            self._offsets,
            self._device.allocate_pinned(self._num_bytes) if self._pinned else None,
        )

    def give(self, buffer: _Buffer) -> None:
        """Take a buffer back."""
        heapq.heappush(self._free, (buffer.number, buffer))


def _aligned(num_bytes: int) -> int:
    """Return the number of bytes, rounded up to whole ``ALIGNMENT``."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


@dataclass(slots=True, eq=False)
class Batch:
    """A batch as rows on the device.

    ``size`` of them are meant; there is room for ``padded``.
    """

    size: int
    padded: int
    depth: int
    """Depth of the features, or of the exit of detections; ``segments.IMAGE`` for images."""
    buffer: _Buffer = field(repr=False)
    pool: _Pool | None = field(repr=False)
    """Pool that the buffer goes to when the batch is released; None from then on."""

    @property
    def features(self) -> bool:
        """True if they are features, which alone the host never sees."""
        return self.buffer.host is None


class _Engine:
    """A loaded plan, with an execution context for each optimisation profile."""

    def __init__(self, runtime: trt.Runtime, name: str, plan: Plan, data: bytes) -> None:
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise PlansError(f"TensorRT cannot load {plan.file} (its message is in the log)")
        self._engine: trt.ICudaEngine = engine
        self._name = name
        self._plan = plan
        self._contexts: list[trt.IExecutionContext] = []
        if SINCE_10:
            self.scratch_bytes = int(engine.device_memory_size_v2)
        else:
            self.scratch_bytes = int(engine.device_memory_size)
        self.inputs: _Kind = ()
        self.outputs: _Kind = ()

    def prepare(self, device: _Device, scratch: int, scratch_bytes: int) -> None:
        """Make the contexts, which compute in ``scratch``, and look at the shapes of tensors."""
        for index in range(len(PROFILES)):
            if SINCE_10:
                context = self._engine.create_execution_context(
                    trt.ExecutionContextAllocationStrategy.USER_MANAGED
                )
                context.set_device_memory(scratch, scratch_bytes)
            else:
                context = self._engine.create_execution_context_without_device_memory()
                context.device_memory = scratch
            chosen = context.set_optimization_profile_async(index, int(device.stream))
            self._require(chosen, f"take profile {index}")
            device.synchronize()
            self._contexts.append(context)
        batch_one = self._contexts[profile_of(1)]
        for name in self._plan.inputs:
            row = tuple(self._engine.get_tensor_shape(name))[1:]
            self._require(batch_one.set_input_shape(name, (1, *row)), f"take {name}")
        self.inputs = tuple(self._tensor(batch_one, name) for name in self._plan.inputs)
        self.outputs = tuple(self._tensor(batch_one, name) for name in self._plan.outputs)

    def bind(self, padded: int, given: _Buffer, taken: _Buffer) -> None:
        """Bind shapes and addresses of the next runs with a batch of ``padded``."""
        context = self._contexts[profile_of(padded)]
        for name, offset in zip(self._plan.inputs, given.offsets, strict=True):
            row = tuple(self._engine.get_tensor_shape(name))[1:]
            self._require(context.set_input_shape(name, (padded, *row)), f"take {padded} rows")
            address = given.address + offset
            self._require(context.set_tensor_address(name, address), f"read {name}")
        for name, offset in zip(self._plan.outputs, taken.offsets, strict=True):
            address = taken.address + offset
            self._require(context.set_tensor_address(name, address), f"write {name}")

    def enqueue(self, padded: int, device: _Device) -> None:
        """Run as bound, in the stream's order."""
        context = self._contexts[profile_of(padded)]
        self._require(context.execute_async_v3(int(device.stream)), "run")

    def _tensor(self, context: trt.IExecutionContext, name: str) -> _Tensor:
        """Return how one row of the tensor ``name`` lies in memory."""
        shape = tuple(context.get_tensor_shape(name))[1:]
        layout = self._engine.get_tensor_format(name)
        if layout == trt.TensorFormat.HWC8:
            channels, height, width = shape
            padded = -(-channels // CHANNEL_VECTOR) * CHANNEL_VECTOR
            shape = (height, width, padded)
        elif layout != trt.TensorFormat.LINEAR:
            raise PlansError(f"{name} of {self._name} has a format this runner does not know")
        if min(shape, default=1) < 1:
            raise PlansError(f"{name} of {self._name} has a size that depends on the data")
        return _Tensor(shape, DTYPES[self._engine.get_tensor_dtype(name)])

    def _require(self, done: bool, what: str) -> None:
        """Raise RuntimeError, which says what the engine does not do, unless it is ``done``."""
        if not done:
            raise RuntimeError(f"TensorRT: {self._name} does not {what} (see its log)")


class TensorRtRunner:
    """A ``SegmentRunner`` over the plans in ``folder/tensorrt``.

    ``num_threads`` is of no consequence here. ``wanted``: the segments to load; None: all.

    Raises PlansError for plans of another GPU, TensorRT version or model, and for files that are
    not what was built; CudaError without a GPU.
    """

    def __init__(
        self,
        folder: Path,
        catalog: Catalog,
        num_threads: int | None,
        wanted: Collection[Segment] | None = None,
    ) -> None:
        self.runtime = f"tensorrt {trt.__version__}"
        self.batch_sizes: tuple[int, ...] = BATCH_SIZES
        self.segments = frozenset(
            segments.every_segment(catalog.num_exits) if wanted is None else wanted
        )
        manifest = read_plans(folder, catalog.file_name(MANIFEST))
        manifest.check(trt.__version__, Gpu.current(cudart), catalog.digest)
        plans = {segment: manifest.plan(segment.name) for segment in sorted(self.segments)}
        self._image = _Tensor((catalog.input_height, catalog.input_width, 3), np.uint8)
        self._closed = False
        self._pools: dict[tuple[_Kind, int], _Pool] = {}
        self._graphs: OrderedDict[tuple[Segment, int, int], Any] = OrderedDict()
        self._numbers = itertools.count()
        self._engines: dict[Segment, _Engine] = {}
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._trt = trt.Runtime(self._logger)
        self._device = _Device()
        try:
            self._engines = {
                segment: _Engine(self._trt, segment.name, plan, read_plan(folder / FOLDER, plan))
                for segment, plan in plans.items()
            }
            self._prepare()
            noise = np.zeros(self._image.shape, np.uint8)
            for _ in time_every_segment(self, noise, catalog.num_exits, lambda: 0.0):
                pass  # captures what a lone request will meet
        except BaseException:
            self.close()
            raise

    # -- SegmentRunner --------------------------------------------------------------------------

    def load(self, images: Sequence[Image]) -> Batch:
        """Return a batch of images, on its way to the device."""
        self._check_open()
        check_images(images, self._image.shape, BATCH_SIZES[-1])
        pool = self._pool((self._image,), _padded(len(images)))
        # An upload of released images may still be reading this memory. It does no harm: nobody
        # wants those any more, and this upload comes after it.
        batch = _batch(pool, len(images), segments.IMAGE)
        pixels = batch.buffer.view(0, self._image, len(images))
        for row, image in enumerate(images):
            pixels[row] = image
        self._device.upload(batch.buffer.address, pixels)
        return batch

    def run(self, segment: Segment, batch: Batch) -> Batch:
        """Run one segment and wait for its end, without the interpreter lock."""
        self._check_open()
        check_segment(segment, batch.depth, self.segments)
        engine = self._engines[segment]
        output = _batch(self._pool(engine.outputs, batch.padded), batch.size, segment.stop)
        try:
            self._launch(segment, engine, batch, output)
        except BaseException:
            self.release(output)
            raise
        return output

    def select(self, batch: Batch, rows: Sequence[int]) -> Batch:
        """Return a copy of these rows of features, within the device."""
        self._check_open()
        check_select(batch, rows, BATCH_SIZES[-1])
        return self._gather([(batch, row) for row in rows])

    def merge(self, batches: Sequence[Batch]) -> Batch:
        """Return a copy of all rows, within the device."""
        self._check_open()
        check_merge(batches, BATCH_SIZES[-1])
        return self._gather(every_row(batches))

    def release(self, batch: Batch) -> None:
        """Give the batch's buffer back to its pool.

        What is in the stream comes before whatever uses the memory next.
        """
        if batch.pool is not None:
            batch.pool.give(batch.buffer)
            batch.pool = None

    def detections(self, batch: Batch) -> list[Detections]:
        """Return copies, so the batch can be released."""
        self._check_open()
        assert batch.pool is not None, "the batch has been released"
        boxes, scores, labels, counts = (
            batch.buffer.view(index, tensor, batch.size)
            for index, tensor in enumerate(batch.pool.kind)
        )
        return copied_rows(boxes, scores, labels, counts)

    def abort(self) -> None:
        """Do nothing: a call into the runtime cannot be ended."""

    def close(self, pause: Pause = at_once, /) -> None:
        """Free graphs, plans, memory and the stream."""
        if self._closed:
            return
        pause()
        self._closed = True
        with ExitStack() as stack:
            stack.callback(self._device.close)
            stack.callback(self._engines.clear)
            stack.callback(self._pools.clear)
            for graph in self._graphs.values():
                stack.callback(_destroy, graph)
            self._graphs.clear()

    # -- inside -----------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the runner is closed")

    def _prepare(self) -> None:
        """Make all contexts, in one block of memory, since one runs at a time."""
        scratch_bytes = max(engine.scratch_bytes for engine in self._engines.values())
        scratch = self._device.allocate(scratch_bytes)
        features = set()
        for segment, engine in self._engines.items():
            engine.prepare(self._device, scratch, scratch_bytes)
            if segment.start == segments.IMAGE and engine.inputs != (self._image,):
                raise PlansError(f"the plan of {segment.name} takes images {engine.inputs}")
            features |= {engine.inputs} if segment.start != segments.IMAGE else set()
            features |= {engine.outputs} if not segment.head else set()
        if len(features) > 1:
            raise PlansError(f"plans that lay out features differently: {features}")

    def _gather(self, picked: Sequence[tuple[Batch, int]]) -> Batch:
        """Return a copy of these rows of features, within the device, in the stream's order."""
        pools = {batch.pool for batch, _ in picked}
        kinds = {pool.kind for pool in pools if pool is not None}
        assert None not in pools, "a batch has been released"
        (kind,) = kinds  # _prepare has seen that all features are alike
        size = len(picked)
        gathered = _batch(self._pool(kind, _padded(size)), size, picked[0][0].depth)
        for batch, row, position, num_rows in stretches(picked):
            for index, tensor in enumerate(kind):
                self._device.copy(
                    gathered.buffer.row_address(index, tensor, position),
                    batch.buffer.row_address(index, tensor, row),
                    num_rows * tensor.row_bytes,
                )
        return gathered

    def _pool(self, kind: _Kind, padded: int) -> _Pool:
        """Return the pool for these inputs or outputs.

        A stack's outputs are the next one's inputs.
        """
        if (kind, padded) not in self._pools:
            pinned = all(tensor.dtype != np.float16 for tensor in kind)  # not features
            self._pools[kind, padded] = _Pool(self._device, kind, padded, pinned, self._numbers)
        return self._pools[kind, padded]

    def _launch(self, segment: Segment, engine: _Engine, given: Batch, taken: Batch) -> None:
        """Replay the graph of this segment between these two batches.

        If there is none, run without, then capture it.
        """
        key = (segment, given.buffer.number, taken.buffer.number)
        graph = self._graphs.get(key)
        if graph is not None:
            self._graphs.move_to_end(key)
            checked(cudart.cudaGraphLaunch(graph, self._device.stream))
            self._device.synchronize()
            return
        engine.bind(given.padded, given.buffer, taken.buffer)
        # This run also does the work that TensorRT defers when a shape has changed, which could
        # not be captured.
        self._enqueue(engine, given.padded, taken)
        self._device.synchronize()
        self._graphs[key] = self._capture(engine, given.padded, taken)
        if len(self._graphs) > MAX_GRAPHS:
            _destroy(self._graphs.popitem(last=False)[1])

    def _enqueue(self, engine: _Engine, padded: int, taken: Batch) -> None:
        """Run the engine as it is bound, and copy what the host reads, in the stream's order."""
        engine.enqueue(padded, self._device)
        if taken.buffer.host is not None:
            self._device.download(taken.buffer.host, taken.buffer.address)

    def _capture(self, engine: _Engine, padded: int, taken: Batch) -> Any:
        """Return a graph of what ``_enqueue`` does with the engine as it is bound."""
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(cudart.cudaStreamBeginCapture(self._device.stream, mode))
        try:
            self._enqueue(engine, padded, taken)
        finally:  # a stream must not be left capturing
            ended = cudart.cudaStreamEndCapture(self._device.stream)
        graph = checked(ended)
        try:
            return checked(cudart.cudaGraphInstantiate(graph, 0))
        finally:
            checked(cudart.cudaGraphDestroy(graph))


def _destroy(graph: Any) -> None:
    """Free an instantiated graph."""
    checked(cudart.cudaGraphExecDestroy(graph))


def _padded(size: int) -> int:
    """Return the smallest batch size with graphs that holds ``size`` rows."""
    return next(padded for padded in BATCH_SIZES if padded >= size)


def _batch(pool: _Pool, size: int, depth: int) -> Batch:
    """Return a batch of ``size`` rows in a buffer of ``pool``."""
    return Batch(size, _padded(size), depth, pool.take(), pool)
