"""The runner on OpenVINO: batches in pooled tensors, which compiled segments are bound to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openvino as ov

from serving.artifacts.int8_segments import CPU_FOLDER
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.ports import Image, Pause, no_pause
from serving.core.request import Detections
from serving.core.segment import Segment
from serving.runners.checks import check_images, check_segment
from serving.runners.compiled_cache import CompiledCache
from serving.runners.gathering import GatheringRunner
from serving.runners.openvino.compiling import BOUNDARIES, Compiler, multiplies_bf16
from serving.runners.rows import contiguous_rows, copied_rows, sizes_up_to

BATCH_SIZES = (1, 4)
"""Batch sizes that segments are compiled for. Four images at once take 0.83 of the time of four
alone on two cores; two save less than the memory and the start-up time of another set of compiled
models are worth."""


class _Pool:
    """A pool of tensor lists of one kind: what a segment takes or gives at one batch size.

    Last in, first out, so that a lone request keeps meeting the same, still cached, memory.
    """

    def __init__(self, ports: Sequence[Any]) -> None:
        self._kinds = [(port.get_element_type(), port.shape) for port in ports]
        self._free: list[list[ov.Tensor]] = []

    def take(self) -> list[ov.Tensor]:
        """Return a free list, or a new one; executors bound how many are out at once."""
        return self._free.pop() if self._free else [ov.Tensor(*kind) for kind in self._kinds]

    def give(self, tensors: list[ov.Tensor]) -> None:
        """Take a list back."""
        self._free.append(tensors)


@dataclass(slots=True, eq=False)
class Batch:
    """A batch as tensors on the device.

    ``size`` rows are meant; the tensors have as many as the batch size they were compiled for.
    """

    size: int
    depth: int
    """Depth of the features, or of the exit of detections; ``segments.IMAGE`` for images."""
    features: bool
    """True if they are features: neither images nor detections."""
    tensors: list[ov.Tensor]
    pool: _Pool | None = field(repr=False)
    """Pool that the tensors go to when the batch is released; None from then on."""


@dataclass(slots=True)
class _Compiled:
    """A segment compiled for one batch size, and the tensors it is bound to at the moment."""

    request: ov.InferRequest
    inputs: _Pool
    outputs: _Pool
    bound_inputs: list[ov.Tensor] | None = None
    bound_outputs: list[ov.Tensor] | None = None

    def infer(self, inputs: list[ov.Tensor], outputs: list[ov.Tensor]) -> None:
        """Run the segment from ``inputs`` to ``outputs``.

        Binding costs a microsecond a tensor, so it is done only when something changed. What the
        call returns is not looked at, and would be a copy of all outputs, were they not shared.
        """
        if inputs is not self.bound_inputs:
            for index, tensor in enumerate(inputs):
                self.request.set_input_tensor(index, tensor)
            self.bound_inputs = inputs
        if outputs is not self.bound_outputs:
            for index, tensor in enumerate(outputs):
                self.request.set_output_tensor(index, tensor)
            self.bound_outputs = outputs
        self.request.infer(share_outputs=True)


class OpenVinoRunner(GatheringRunner[Batch]):
    """A ``SegmentRunner`` over the ONNX files in ``folder``.

    ``num_threads`` None: all cores. ``num_instances``: how many runners, this one and its replicas,
    run at a time, each on so many threads. ``precision`` of convolutions: ``bf16`` or ``f32``;
    ``int8``, of the quantised segments, with what surrounds convolutions, and features, in the one
    of the two that is fast here; None: that one. ``wanted``: the segments to compile; None: all.
    ``batch_sizes``: those to compile them for, some of ``BATCH_SIZES``. ``cache``: where compiled
    segments are looked for and kept; None: nowhere. Raises ValueError for
    bfloat16 on a CPU that does not multiply it.
    """

    def __init__(
        self,
        folder: Path,
        catalog: Catalog,
        num_threads: int | None,
        precision: str | None = None,
        wanted: Collection[Segment] | None = None,
        num_instances: int = 1,
        cache: CompiledCache | None = None,
        batch_sizes: tuple[int, ...] = BATCH_SIZES,
    ) -> None:
        self.runtime = f"openvino {ov.__version__.split('-')[0]}"
        self.batch_sizes = sizes_up_to(batch_sizes, catalog.max_batch)
        self.segments = frozenset(
            segments.every_segment(catalog.num_exits) if wanted is None else wanted
        )
        self._image_shape = (catalog.input_height, catalog.input_width, 3)
        has_bf16 = multiplies_bf16()
        if precision == "bf16" and not has_bf16:
            raise ValueError("this CPU does not multiply bfloat16")
        source = folder / CPU_FOLDER if precision == "int8" else folder
        around = precision if precision in BOUNDARIES else "bf16" if has_bf16 else "f32"
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": num_instances,
            "INFERENCE_PRECISION_HINT": around,
            "INFERENCE_NUM_THREADS": (num_threads or 0) * num_instances,
            # For each run the plugin ties the calling thread to a core and lets it go afterwards.
            # A single thread gains nothing by it, and unit segments lose a tenth of their time.
            "ENABLE_CPU_PINNING": num_threads != 1,
        }
        files = {
            part: source / catalog.segment_file(part.name)
            for part in sorted({part for segment in self.segments for part in segment.parts})
        }
        weights = None if catalog.weights is None else source / catalog.weights.file
        keys = [(segment, size) for segment in sorted(self.segments) for size in self.batch_sizes]
        loaded = Compiler(config, around).load(keys, files, weights, cache)
        self._models = loaded.models
        self._held_weights, self._held_blobs = loaded.weights, loaded.blobs
        self._set_up()

    def replica(self) -> OpenVinoRunner:
        """Return a runner over the same compiled segments, for another thread.

        Its buffers are its own, and so is its end.
        """
        self._check_open()
        other = copy(self)
        other._set_up()
        return other

    def _set_up(self) -> None:
        """Make the requests and the buffers of this instance."""
        self._pools: dict[tuple[Any, ...], _Pool] = {}
        self._compiled = {
            key: _Compiled(
                model.create_infer_request(), self._pool(model.inputs), self._pool(model.outputs)
            )
            for key, model in self._models.items()
        }
        self._images = {
            size: compiled.inputs
            for (segment, size), compiled in self._compiled.items()
            if segment.start == segments.IMAGE
        }
        self._closed = False

    # -- SegmentRunner --------------------------------------------------------------------------

    def load(self, images: Sequence[Image]) -> Batch:
        """Return a batch of images, copied."""
        self._check_open()
        check_images(images, self._image_shape, self.batch_sizes[-1])
        size = len(images)
        pool = self._images[self._compiled_size(size)]
        batch = Batch(size, segments.IMAGE, False, pool.take(), pool)
        pixels = batch.tensors[0].data
        for row, image in enumerate(images):
            pixels[row] = image
        return batch

    def run(self, segment: Segment, batch: Batch) -> Batch:
        """Run one synchronous inference, without the interpreter lock."""
        self._check_open()
        check_segment(segment, batch.depth, self.segments)
        compiled = self._compiled[segment, self._compiled_size(batch.size)]
        pool = compiled.outputs
        output = Batch(batch.size, segment.stop, not segment.head, pool.take(), pool)
        compiled.infer(batch.tensors, output.tensors)
        return output

    def release(self, batch: Batch) -> None:
        """Give the batch's tensors back to their pool."""
        if batch.pool is not None:
            batch.pool.give(batch.tensors)
            batch.pool = None

    def detections(self, batch: Batch) -> list[Detections]:
        """Return copies, so the batch can be released."""
        self._check_open()
        boxes, scores, labels, counts = (tensor.data for tensor in batch.tensors)
        return copied_rows(boxes, scores, labels, counts[: batch.size])

    def abort(self) -> None:
        """Do nothing: a call into the runtime cannot be ended."""

    def close(self, pause: Pause = no_pause, /) -> None:
        """Free models and buffers, one model after the other.

        With the last reference to a model goes some 20 ms of the interpreter lock: its destructor
        has the C library give back what all of the process has freed (OpenVINO 2026.4.1).
        """
        self._closed = True
        self._compiled, self._images, self._pools = {}, {}, {}
        models = list(self._models.values())
        self._models = {}
        while models:
            pause()
            models.pop()
        self._held_weights, self._held_blobs = [], []

    # -- inside -----------------------------------------------------------------------------------

    def _compiled_size(self, size: int) -> int:
        """Return the smallest compiled batch size that holds ``size`` rows."""
        return next(compiled for compiled in self.batch_sizes if compiled >= size)

    def _gather(self, picked: Sequence[tuple[Batch, int]]) -> Batch:
        """Return a copy of these rows of features."""
        assert all(batch.pool is not None for batch, _ in picked), "a batch has been released"
        pool = self._compiled[segments.stack(1), self._compiled_size(len(picked))].inputs
        gathered = Batch(len(picked), picked[0][0].depth, True, pool.take(), pool)
        for batch, row, position, num_rows in contiguous_rows(picked):
            for source, target in zip(batch.tensors, gathered.tensors, strict=True):
                # numpy shows bfloat16 as float16; copying between equal types moves bits unchanged.
                target.data[position : position + num_rows] = source.data[row : row + num_rows]
        return gathered

    def _pool(self, ports: Sequence[Any]) -> _Pool:
        """Return the pool for these inputs or outputs.

        A stack's outputs are the next one's inputs.
        """
        key = tuple((port.get_element_type().get_type_name(), tuple(port.shape)) for port in ports)
        return self._pools.setdefault(key, _Pool(ports))
