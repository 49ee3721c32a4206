"""Segments on OpenVINO's CPU plugin: the embedded engine.

What makes a boundary between two segments cheap here:

* features cross it in the type and the layout that the plugin computes in (bfloat16 where the CPU
  multiplies it natively, channels last), so that no reordering runs on either side;
* shapes are static, one compiled model for each batch size in ``BATCH_SIZES``: with a dynamic
  batch the plugin falls back to slower layouts (1.6 times the time of a stack);
* inputs and outputs are bound to pooled tensors: nothing is allocated or copied on the way.

Fused segments are composed from the unit segments in memory, so no weight is on disk twice. The
float32 weights that compiled models begin with are in memory once in a process, whatever segments,
batch sizes and input sizes share them; what each packs for its own kernels is its own.
Decoding and non-maximum suppression stay in float32: the plugin lowers precision only up to the
last convolution.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops
from openvino.preprocess import PrePostProcessor

from serving.artifacts.int8_segments import CPU_FOLDER
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.ports import Image, Pause, at_once
from serving.core.request import Detections
from serving.core.segment import Segment
from serving.runners.checks import check_images, check_merge, check_segment, check_select
from serving.runners.compiled_cache import Blob, CompiledCache
from serving.runners.rows import copied_rows, every_row, sizes_up_to, stretches

log = logging.getLogger(__name__)

BATCH_SIZES = (1, 4)
"""Batch sizes that segments are compiled for. Four images at once take 0.83 of the time of four
alone on two cores; two save less than the memory and the start-up time of another set of compiled
models are worth."""

BOUNDARIES = {"bf16": ov.Type.bf16, "f32": ov.Type.f32}
"""Types of features, by the precision of convolutions where that is not int8."""

FEATURE_RANK = 4
"""Number of dimensions of feature maps; images and detections have fewer, or another element
type."""


MIN_SHARED_BYTES = 1024
"""Size of the smallest half-precision weight that is shared; the many small ones are not worth
their bookkeeping."""

Weight = npt.NDArray[np.float32]

_weights: WeakValueDictionary[bytes, Weight] = WeakValueDictionary()
"""Weights of all runners of this process, by the digest of their half-precision contents. The
runners hold them."""


@cache
def _core() -> ov.Core:
    """Return the one ``ov.Core`` of this process, until it ends.

    Each has a stack for signal handlers of its own, and the end of one may leave that of another,
    which is gone, in place: then the next signal is a segmentation fault (OpenVINO 2026.4.1).
    """
    return ov.Core()


def multiplies_bf16() -> bool:
    """Return whether this CPU multiplies bfloat16 natively."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


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


class OpenVinoRunner:
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
        self._core = _core()
        has_bf16 = multiplies_bf16()
        if precision == "bf16" and not has_bf16:
            raise ValueError("this CPU does not multiply bfloat16")
        source = folder / CPU_FOLDER if precision == "int8" else folder
        around = precision if precision in BOUNDARIES else "bf16" if has_bf16 else "f32"
        self._boundary = BOUNDARIES[around]
        self._config = {
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
        self._held_weights: list[list[Weight]] = []
        self._held_blobs: list[Blob] = []  # models that were restored have their weights there
        weights = None if catalog.weights is None else source / catalog.weights.file
        self._models = self._load(cache, files, weights)
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

    def select(self, batch: Batch, rows: Sequence[int]) -> Batch:
        """Return a copy of these rows: two bytes an element, once, when a cohort splits."""
        self._check_open()
        check_select(batch, rows, self.batch_sizes[-1])
        return self._gather([(batch, row) for row in rows])

    def merge(self, batches: Sequence[Batch]) -> Batch:
        """Return a copy of all rows, once, when cohorts join."""
        self._check_open()
        check_merge(batches, self.batch_sizes[-1])
        return self._gather(every_row(batches))

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

    def close(self, pause: Pause = at_once, /) -> None:
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

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the runner is closed")

    def _gather(self, picked: Sequence[tuple[Batch, int]]) -> Batch:
        """Return a copy of these rows of features."""
        assert all(batch.pool is not None for batch, _ in picked), "a batch has been released"
        pool = self._compiled[segments.stack(1), self._compiled_size(len(picked))].inputs
        gathered = Batch(len(picked), picked[0][0].depth, True, pool.take(), pool)
        for batch, row, position, num_rows in stretches(picked):
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

    def _load(
        self, cache: CompiledCache | None, files: dict[Segment, Path], weights: Path | None
    ) -> dict[tuple[Segment, int], ov.CompiledModel]:
        """Return every segment compiled for every batch size: from the cache, or now."""
        wanted = [(segment, size) for segment in sorted(self.segments) for size in self.batch_sizes]
        names: dict[tuple[Segment, int], str] = {}
        found: dict[tuple[Segment, int], ov.CompiledModel] = {}
        if cache is not None:
            names = self._names(wanted, files, weights)
            with _threads() as pool:
                restored = pool.map(lambda key: self._restored(cache, names[key]), wanted)
                found = {key: model for key, model in zip(wanted, restored, strict=True) if model}
        missing = [key for key in wanted if key not in found]
        if not missing:
            return found
        unit = {part: self._core.read_model(path) for part, path in files.items()}
        self._held_weights = [_share_weights(model) for model in unit.values()]

        def compile_one(key: tuple[Segment, int]) -> ov.CompiledModel:
            compiled = self._compile(unit, *key)
            if cache is not None:
                exported = BytesIO()
                compiled.export_model(exported)
                cache.put(names[key], exported.getvalue())
            return compiled

        with _threads() as pool:  # compiling releases the interpreter lock
            compiled = dict(zip(missing, pool.map(compile_one, missing), strict=True))
        return {**found, **compiled}

    def _names(
        self,
        wanted: Sequence[tuple[Segment, int]],
        files: dict[Segment, Path],
        weights: Path | None,
    ) -> dict[tuple[Segment, int], str]:
        """Return what each compiled segment is kept as: a digest of all that it depends on."""
        paths = [Path(__file__), *((weights,) if weights is not None else ())]
        common = [
            ov.__version__,
            _processor(),
            self._config,
            self._boundary.get_type_name(),
            *(sha256(path.read_bytes()).hexdigest() for path in paths),
        ]
        digests = {part: sha256(path.read_bytes()).hexdigest() for part, path in files.items()}

        def name(segment: Segment, size: int) -> str:
            facts = [*common, [digests[part] for part in segment.parts], segment.name, size]
            return sha256(json.dumps(facts).encode()).hexdigest()

        return {key: name(*key) for key in wanted}

    def _restored(self, cache: CompiledCache, name: str) -> ov.CompiledModel | None:
        """Return the compiled segment that is kept as ``name``; None if there is none."""
        blob = cache.get(name)
        if blob is None:
            return None
        try:
            model = self._core.import_model(
                ov.Tensor(blob, shared_memory=True), "CPU", self._config
            )
        except RuntimeError as error:
            log.warning("a compiled model that was kept cannot be used: %s", error)
            cache.drop(name)
            return None
        self._held_blobs.append(blob)
        return model

    def _compile(
        self, unit: dict[Segment, ov.Model], segment: Segment, size: int
    ) -> ov.CompiledModel:
        """Compile ``segment``, composed of the models in ``unit``, for one batch size."""
        model = _compose([unit[part] for part in segment.parts])
        model.reshape({port: [size, *list(port.get_partial_shape())[1:]] for port in model.inputs})
        model = self._with_boundary_type(model)
        return self._core.compile_model(model, "CPU", self._config)

    def _with_boundary_type(self, model: ov.Model) -> ov.Model:
        """Return the model with features in the boundary's type, channels last."""
        processor = PrePostProcessor(model)
        sides = ((model.inputs, processor.input), (model.outputs, processor.output))
        for ports, access in sides:
            for index, port in enumerate(ports):
                if port.get_element_type() == ov.Type.f32 and len(port.shape) == FEATURE_RANK:
                    info = access(index)
                    info.model().set_layout(ov.Layout("NCHW"))
                    info.tensor().set_layout(ov.Layout("NHWC"))
                    info.tensor().set_element_type(self._boundary)
        return processor.build()


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads. What has not begun when somebody is interrupted never does."""
    pool = ThreadPoolExecutor()
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@cache
def _processor() -> str:
    """Return what tells this CPU from others that compiled models would not fit."""
    core = _core()
    facts = [core.get_property("CPU", "FULL_DEVICE_NAME")]
    facts += sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts += [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return "; ".join(facts)


def _share_weights(model: ov.Model) -> list[Weight]:
    """Widen the larger half-precision weights of ``model`` into arrays that equal ones share.

    Returns the arrays, which must live as long as what is compiled of the model. Left alone, each
    compiled model would widen them into memory of its own: a third of what it takes.
    """
    held = []
    for convert in model.get_ops():
        if convert.get_type_name() != "Convert" or convert.get_element_type() != ov.Type.f32:
            continue
        source = convert.input_value(0).get_node()
        if source.get_type_name() != "Constant" or source.get_element_type() != ov.Type.f16:
            continue
        if source.data.nbytes < MIN_SHARED_BYTES:
            continue
        digest = sha256(repr(source.data.shape).encode() + source.data.tobytes()).digest()
        weight = _weights.get(digest)
        if weight is None:
            weight = _weights[digest] = source.data.astype(np.float32)
        held.append(weight)
        convert.output(0).replace(ops.constant(weight, shared_memory=True).output(0))
    return held


def _compose(parts: Sequence[ov.Model]) -> ov.Model:
    """Return one model that feeds each part's outputs to the next part's inputs.

    The parts are left alone.
    """
    models = [part.clone() for part in parts]
    outputs = [result.input_value(0) for result in models[0].get_results()]
    for model in models[1:]:
        for parameter, output in zip(model.get_parameters(), outputs, strict=True):
            parameter.output(0).replace(output)
        outputs = [result.input_value(0) for result in model.get_results()]
    return ov.Model([ops.result(output) for output in outputs], models[0].get_parameters())
