"""Segments compiled for this CPU, for each batch size, or taken from where they were kept.

Fused segments are composed from the unit segments in memory, so no weight is on disk twice. The
float32 weights that compiled models begin with are in memory once in a process, whatever segments,
batch sizes and input sizes share them; what each packs for its own kernels is its own.
Decoding and non-maximum suppression stay in float32: the plugin lowers precision only up to the
last convolution.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
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

from serving.core.segment import FEATURE_RANK, Segment
from serving.runners.compiled_cache import Blob, CompiledCache

log = logging.getLogger(__name__)

BOUNDARIES = {"bf16": ov.Type.bf16, "f32": ov.Type.f32}
"""Types of features, by the precision of convolutions where that is not int8."""

MIN_SHARED_BYTES = 1024
"""Size of the smallest half-precision weight that is shared; the many small ones are not worth
their bookkeeping."""

Weight = npt.NDArray[np.float32]

_weights: WeakValueDictionary[bytes, Weight] = WeakValueDictionary()
"""Weights of all runners of this process, by the digest of their half-precision contents. The
runners hold them."""

Key = tuple[Segment, int]
"""A segment, and the batch size that it is compiled for."""


@dataclass(frozen=True, slots=True)
class CompiledSegments:
    """Compiled models, and the memory that they read, which must live as long as they do."""

    models: Mapping[Key, ov.CompiledModel]
    weights: list[list[Weight]] = field(default_factory=list)
    """Weights that models were compiled of."""
    blobs: list[Blob] = field(default_factory=list)
    """Files of models that were restored, which have their weights there."""


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


class Compiler:
    """A compiler of segments for this CPU, in one precision.

    ``config`` is the plugin's; ``boundary``, a key of ``BOUNDARIES``, the type of features.
    """

    def __init__(self, config: Mapping[str, Any], boundary: str) -> None:
        self._core = _core()
        self._config = dict(config)
        self._boundary = BOUNDARIES[boundary]

    def load(
        self,
        wanted: Sequence[Key],
        files: Mapping[Segment, Path],
        weights: Path | None,
        cache: CompiledCache | None,
    ) -> CompiledSegments:
        """Return the segments that are ``wanted``: from the cache, or compiled now, and kept there.

        ``files`` are those of the unit segments that they consist of, and ``weights`` the file that
        these have theirs in, if they share one. Raises OSError, and RuntimeError for what OpenVINO
        cannot compile.
        """
        names: dict[Key, str] = {}
        found: dict[Key, ov.CompiledModel] = {}
        blobs: list[Blob] = []
        if cache is not None:
            names = self._names(wanted, files, weights)
            with _threads() as pool:
                restored = pool.map(lambda key: self._restored(cache, names[key], blobs), wanted)
                found = {key: model for key, model in zip(wanted, restored, strict=True) if model}
        missing = [key for key in wanted if key not in found]
        if not missing:
            return CompiledSegments(found, blobs=blobs)
        unit = {part: self._core.read_model(path) for part, path in files.items()}
        held = [_share_weights(model) for model in unit.values()]

        def compile_one(key: Key) -> ov.CompiledModel:
            compiled = self._compile(unit, *key)
            if cache is not None:
                exported = BytesIO()
                compiled.export_model(exported)
                cache.put(names[key], exported.getvalue())
            return compiled

        with _threads() as pool:  # compiling releases the interpreter lock
            compiled = dict(zip(missing, pool.map(compile_one, missing), strict=True))
        return CompiledSegments({**found, **compiled}, held, blobs)

    def _names(
        self, wanted: Sequence[Key], files: Mapping[Segment, Path], weights: Path | None
    ) -> dict[Key, str]:
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

    def _restored(
        self, cache: CompiledCache, name: str, blobs: list[Blob]
    ) -> ov.CompiledModel | None:
        """Return the compiled segment that is kept as ``name``; None if there is none.

        What it was read from is added to ``blobs``.
        """
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
        blobs.append(blob)
        return model

    def _compile(
        self, unit: Mapping[Segment, ov.Model], segment: Segment, size: int
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
    plugin = _core()
    facts = [plugin.get_property("CPU", "FULL_DEVICE_NAME")]
    facts += sorted(plugin.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
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
