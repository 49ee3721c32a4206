"""The runner on TensorRT: batches in pooled buffers, and a CUDA graph for each pair of them."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt
from cuda.bindings import runtime as cudart

from serving.artifacts.cuda import Gpu, checked
from serving.artifacts.tensorrt_plans import (
    BATCH_SIZES,
    FOLDER,
    MANIFEST,
    PlansError,
    read_plan,
    read_plans,
)
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.ports import Image, Pause, no_pause
from serving.core.request import Detections
from serving.core.segment import Segment
from serving.core.timing import time_every_segment
from serving.runners.checks import check_images, check_segment
from serving.runners.gathering import GatheringRunner
from serving.runners.rows import contiguous_rows, copied_rows
from serving.runners.tensorrt.engines import Engine
from serving.runners.tensorrt.memory import BatchLayout, Buffer, Device, Pool, TensorLayout

MAX_GRAPHS = 512
"""Number of CUDA graphs that are kept. A lone request at each of three batch sizes needs 22 for
seven stacks."""


@dataclass(slots=True, eq=False)
class Batch:
    """A batch as rows on the device.

    ``size`` of them are meant; there is room for ``padded``.
    """

    size: int
    padded: int
    depth: int
    """Depth of the features, or of the exit of detections; ``segments.IMAGE`` for images."""
    buffer: Buffer = field(repr=False)
    pool: Pool | None = field(repr=False)
    """Pool that the buffer goes to when the batch is released; None from then on."""

    @property
    def features(self) -> bool:
        """True if they are features, which alone the host never sees."""
        return self.buffer.host is None


class TensorRtRunner(GatheringRunner[Batch]):
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
        self._image = TensorLayout((catalog.input_height, catalog.input_width, 3), np.uint8)
        self._closed = False
        self._pools: dict[tuple[BatchLayout, int], Pool] = {}
        self._graphs: OrderedDict[tuple[Segment, int, int], Any] = OrderedDict()
        self._numbers = itertools.count()
        self._engines: dict[Segment, Engine] = {}
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._trt = trt.Runtime(self._logger)
        self._device = Device()
        try:
            self._engines = {
                segment: Engine(self._trt, segment.name, plan, read_plan(folder / FOLDER, plan))
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
            for index, tensor in enumerate(batch.pool.layout)
        )
        return copied_rows(boxes, scores, labels, counts)

    def abort(self) -> None:
        """Do nothing: a call into the runtime cannot be ended."""

    def close(self, pause: Pause = no_pause, /) -> None:
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
        layouts = {pool.layout for pool in pools if pool is not None}
        assert None not in pools, "a batch has been released"
        (layout,) = layouts  # _prepare has seen that all features are alike
        size = len(picked)
        gathered = _batch(self._pool(layout, _padded(size)), size, picked[0][0].depth)
        for batch, row, position, num_rows in contiguous_rows(picked):
            for index, tensor in enumerate(layout):
                self._device.copy(
                    gathered.buffer.row_address(index, tensor, position),
                    batch.buffer.row_address(index, tensor, row),
                    num_rows * tensor.row_bytes,
                )
        return gathered

    def _pool(self, layout: BatchLayout, padded: int) -> Pool:
        """Return the pool for these inputs or outputs.

        A stack's outputs are the next one's inputs.
        """
        if (layout, padded) not in self._pools:
            pinned = all(tensor.dtype != np.float16 for tensor in layout)  # not features
            self._pools[layout, padded] = Pool(self._device, layout, padded, pinned, self._numbers)
        return self._pools[layout, padded]

    def _launch(self, segment: Segment, engine: Engine, given: Batch, taken: Batch) -> None:
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

    def _enqueue(self, engine: Engine, padded: int, taken: Batch) -> None:
        """Run the engine as it is bound, and copy what the host reads, in the stream's order."""
        engine.enqueue(padded, self._device)
        if taken.buffer.host is not None:
            self._device.download(taken.buffer.host, taken.buffer.address)

    def _capture(self, engine: Engine, padded: int, taken: Batch) -> Any:
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


def _batch(pool: Pool, size: int, depth: int) -> Batch:
    """Return a batch of ``size`` rows in a buffer of ``pool``."""
    return Batch(size, _padded(size), depth, pool.take(), pool)
