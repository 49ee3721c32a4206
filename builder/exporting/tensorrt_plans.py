"""Compilation of segments to TensorRT plans: one path for TensorRT 8.6, 10 and 11.

    <segment>.onnx --precision--> typed graph --TensorRT--> tensorrt/<segment>.plan
                                                            tensorrt/plans.json
          all parts of exit k --compose--> one graph -----> <model>_d<k>/1/model.plan as well

What makes a boundary between two segments cheap: features cross it in half precision, eight
channels side by side (``HWC8``), which is what convolutions read and write on tensor cores, so
that no reformatting runs on either side. How many layers of a plan do nothing but reformat is in
the list of plans.

From TensorRT 10 on, networks are strongly typed: each operator runs in the type that
``half_precision`` gave it. TensorRT 8.6 cannot do that; there the graph is float32, half
precision is allowed, and what follows the last convolutions is constrained to float32.

Runs on the machine with the GPU and needs ``tensorrt``, ``cuda-python``, ``onnx`` and numpy there,
and nothing newer than Python 3.10.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import onnx
import tensorrt as trt
from cuda.bindings import runtime as cudart

from builder.exporting.half_precision import to_float, to_half
from serving.artifacts.cuda import Gpu
from serving.artifacts.int8_segments import TENSORRT_FOLDER, read_quantized
from serving.artifacts.onnx_composition import compose
from serving.artifacts.tensorrt_plans import FOLDER, MANIFEST, PROFILES, Plan, Plans
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.command_errors import CommandFailed, InvalidArgument
from serving.core.segment import FEATURE_RANK, Segment

SINCE_10 = int(trt.__version__.split(".")[0]) >= 10
"""Whether TensorRT is 10 or newer: it has strong typing, and the names that came with it.

The tests audit both branches of every ``if SINCE_10`` against the bindings of 8.6, 10 and 11.
"""

PRECISIONS = ("fp16", "int8")
DEFAULT_LEVEL = 3
"""Optimisation level of the builder, TensorRT's own default.

It takes minutes for a segment without a timing cache.
"""
WORKSPACE_BYTES = 4 << 30
"""Upper bound of the bytes that one layer's kernel may use while it runs."""
TACTIC_SOURCES = ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
"""Sources of kernels, TensorRT's own alone: neither cuBLAS nor cuDNN need be installed."""
TIMING_CACHE = "timing.cache"
DEPTH_PLAN = "model.plan"


class PlanBuildError(CommandFailed):
    """Error of a plan that could not be built.

    The message says why, with what TensorRT reported.
    """


def build_plans(
    folder: Path,
    catalog: Catalog,
    depth_folder: Callable[[int], Path] | None = None,
    precision: str = PRECISIONS[0],
    *,
    digest: str | None = None,
    timing_cache: Path | None = None,
    level: int = DEFAULT_LEVEL,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Plans:
    """Compile every unit segment and every fused exit of one input size of the model in ``folder``.

    The plans are for the GPU and the TensorRT of this machine.

    Writes ``tensorrt/<segment>.plan`` and ``tensorrt/plans.json`` into ``folder``, of one size of
    several under names that carry it, and, with ``depth_folder``, the fused exit of each depth once
    more as ``depth_folder(depth)/model.plan``. ``precision`` of convolutions is ``fp16``, or
    ``int8`` from what ``quantize_segments`` wrote of the entry with this ``digest`` (None: that of
    ``catalog``, its only size).
    ``timing_cache`` is a file of kernel timings that is read, extended and kept (None:
    ``tensorrt/timing.cache``): the stacks are isomorphic, so all but the first are quick.
    ``level`` is the builder's optimisation level, 0 to 5. Prints a line for each plan.

    Raises GpuError, PlanBuildError, and InvalidArgument where nothing was quantised; plans of an
    earlier build are then not valid any more.
    """
    if precision not in PRECISIONS:
        raise PlanBuildError(f"no precision {precision!r}: there are {', '.join(PRECISIONS)}")
    if catalog.max_batch is not None and catalog.max_batch < PROFILES[-1][-1]:
        raise PlanBuildError(
            f"{catalog.name} is run on {catalog.max_batch} images at a time, plans are for up to "
            f"{PROFILES[-1][-1]}: export it for any number of images, and import it again"
        )
    gpu = Gpu.current(cudart)
    target = folder / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    list_of_plans = target / catalog.file_name(MANIFEST)
    list_of_plans.unlink(missing_ok=True)
    unit = dict(_unit_models(folder, catalog, precision, digest or catalog.digest))
    compiler = _Compiler(precision, level, workspace_bytes, timing_cache or target / TIMING_CACHE)
    plans = {}
    for segment in segments.every_segment(catalog.num_exits):
        model = compose([unit[part] for part in segment.parts])
        compiled = compiler.compile(segment.name, model)
        path = target / catalog.file_name(f"{segment.name}.plan")
        _write(path, compiled.plan)
        if depth_folder is not None and segment in segments.fused_segments(catalog.num_exits):
            _write(depth_folder(segment.stop) / DEPTH_PLAN, compiled.plan)
        plans[segment.name] = Plan(
            file=path.name,
            sha256=hashlib.sha256(compiled.plan).hexdigest(),
            inputs=tuple(port.name for port in model.graph.input),
            outputs=tuple(port.name for port in model.graph.output),
            layers=compiled.layers,
            reformats=compiled.reformats,
        )
        print(f"{segment.name:10} {compiled}", flush=True)
    manifest = Plans(
        tensorrt=trt.__version__,
        gpu=gpu,
        model_digest=catalog.digest,
        precision=precision,
        level=level,
        profiles=PROFILES,
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        plans=plans,
    )
    _write(list_of_plans, (json.dumps(manifest.to_json(), indent=2) + "\n").encode())
    return manifest


def _unit_models(
    folder: Path, catalog: Catalog, precision: str, digest: str
) -> Iterator[tuple[Segment, onnx.ModelProto]]:
    """Yield every unit segment in the types that this TensorRT wants to see."""
    source = folder
    if precision == "int8":
        source = folder / TENSORRT_FOLDER
        try:
            read_quantized(source, digest)
        except ValueError as error:
            raise InvalidArgument(str(error)) from error
    convert = to_half if SINCE_10 else to_float
    for segment in segments.unit_segments(catalog.num_exits):
        yield segment, convert(onnx.load(source / catalog.segments[segment.name].file))


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


class _Log(trt.ILogger):
    """A log that keeps the last errors, since TensorRT's functions return nothing but None."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: deque[str] = deque(maxlen=8)

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        """Keep ``message`` if it is an error; called by TensorRT."""
        if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
            self.errors.append(message)

    def raise_error(self, what: str) -> NoReturn:
        """Raise PlanBuildError with what was reported since the last time."""
        details = "; ".join(self.errors) or "TensorRT gives no reason"
        self.errors.clear()
        raise PlanBuildError(f"{what}: {details}")


@dataclass(frozen=True)
class _Compiled:
    plan: bytes
    layers: int | None
    reformats: int | None
    seconds: float

    def __str__(self) -> str:
        counts = f"{self.layers} layers, {self.reformats} of them only reformat"
        if self.layers is None:
            counts = "layers not known"
        return f"{len(self.plan) / 1e6:6.1f} MB, {counts}, {self.seconds:.0f} s"


class _Compiler:
    """One TensorRT builder with its timing cache."""

    def __init__(
        self, precision: str, level: int, workspace_bytes: int, timing_cache: Path
    ) -> None:
        self._log = _Log()
        self._precision = precision
        self._level = level
        self._workspace_bytes = workspace_bytes
        self._timing_cache = timing_cache
        try:
            self._builder = trt.Builder(self._log)
        except TypeError:  # what the bindings raise when the library made no builder
            self._log.raise_error("TensorRT does not start (is there a CUDA driver?)")

    def compile(self, name: str, model: onnx.ModelProto) -> _Compiled:
        """Return ``model`` as a plan. Raises PlanBuildError."""
        started_s = time.monotonic()
        network = self._network(name, model)
        config = self._config(network)
        self._set_timing_cache(config)
        serialized = self._builder.build_serialized_network(network, config)
        if serialized is None:
            self._log.raise_error(f"TensorRT cannot build {name}")
        plan = bytes(serialized)
        _write(self._timing_cache, bytes(config.get_timing_cache().serialize()))
        layers, reformats = self._inspect(name, plan)
        return _Compiled(plan, layers, reformats, time.monotonic() - started_s)

    def _network(self, name: str, model: onnx.ModelProto) -> trt.INetworkDefinition:
        if SINCE_10:
            flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        else:
            flags = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        network = self._builder.create_network(flags)
        parser = trt.OnnxParser(network, self._log)
        if not parser.parse(model.SerializeToString()):
            found = [parser.get_error(index).desc() for index in range(parser.num_errors)]
            self._log.errors.extend(found)
            self._log.raise_error(f"TensorRT cannot read {name}")
        features = set()
        ports = [network.get_input(index) for index in range(network.num_inputs)]
        ports += [network.get_output(index) for index in range(network.num_outputs)]
        for port in ports:
            if len(port.shape) == FEATURE_RANK and port.dtype != trt.DataType.UINT8:
                features.add(port.name)
                if not SINCE_10:
                    port.dtype = trt.DataType.HALF
                port.allowed_formats = 1 << int(trt.TensorFormat.HWC8)
            else:
                port.allowed_formats = 1 << int(trt.TensorFormat.LINEAR)
        if not SINCE_10:
            _constrain_tail(network, features)
        return network

    def _config(self, network: trt.INetworkDefinition) -> trt.IBuilderConfig:
        config = self._builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self._workspace_bytes)
        config.builder_optimization_level = self._level
        # One stream is what a captured graph replays without joins, and what a segment is timed on.
        config.max_aux_streams = 0
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        sources = (getattr(trt.TacticSource, source) for source in TACTIC_SOURCES)
        config.set_tactic_sources(sum(1 << int(source) for source in sources))
        if not SINCE_10:
            config.set_flag(trt.BuilderFlag.FP16)
            config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
            if self._precision == "int8":
                config.set_flag(trt.BuilderFlag.INT8)
        for sizes in PROFILES:
            profile = self._builder.create_optimization_profile()
            for index in range(network.num_inputs):
                port = network.get_input(index)
                row = tuple(port.shape)[1:]
                profile.set_shape(port.name, *((size, *row) for size in sizes))
            config.add_optimization_profile(profile)
        return config

    def _set_timing_cache(self, config: trt.IBuilderConfig) -> None:
        """Set the timing cache to what is in its file.

        A file of another GPU or version gives nothing: its timings mean nothing here.
        """
        known = self._timing_cache.read_bytes() if self._timing_cache.exists() else b""
        cache = config.create_timing_cache(known)
        if cache is None or not config.set_timing_cache(cache, False):
            print(f"{self._timing_cache} is of another GPU or TensorRT: started anew", flush=True)
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def _inspect(self, name: str, plan: bytes) -> tuple[int, int] | tuple[None, None]:
        """Return how many layers a plan has, and how many of them only reformat.

        Both are None when the inspector's answer is not what its documentation says, which is no
        reason to lose a plan.
        """
        runtime = trt.Runtime(self._log)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            self._log.raise_error(f"TensorRT cannot load the plan of {name} that it built")
        inspector: trt.EngineInspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        try:
            layers = json.loads(text)["Layers"]
            return len(layers), sum(map(_reformats, layers))
        except (ValueError, KeyError, TypeError):
            return None, None


def _reformats(layer: str | dict[str, object]) -> bool:
    """Return whether one entry of the engine inspector's list is a layer that only reformats."""
    described = layer if isinstance(layer, str) else f"{layer['LayerType']} {layer['Name']}"
    return "Reformat" in described


def _constrain_tail(network: trt.INetworkDefinition, features: set[str]) -> None:
    """Constrain the layers of a weakly typed network that are to stay in float32.

    They are those that neither a convolution nor a feature map is made of. ``features`` names the
    network's feature maps.
    """
    wanted = set(features)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    for layer in reversed(layers):  # the parser adds them in topological order
        outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
        inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
        inputs = [tensor for tensor in inputs if tensor is not None]
        convolution = layer.type == trt.LayerType.CONVOLUTION
        if convolution or not wanted.isdisjoint(tensor.name for tensor in outputs):
            wanted.update(tensor.name for tensor in inputs)
        elif layer.type != trt.LayerType.CAST:  # a cast says itself what it gives
            _constrain(layer, inputs, outputs)


def _constrain(layer: trt.ILayer, inputs: list[trt.ITensor], outputs: list[trt.ITensor]) -> None:
    """Compute and store the floats of ``layer`` in float32.

    Layers on integers, conditions and shapes have no precision to be set.
    """
    if SINCE_10:
        raise AssertionError("a strongly typed network takes no constraints")
    floats = (trt.DataType.FLOAT, trt.DataType.HALF)
    if any(tensor.is_shape_tensor for tensor in outputs):
        return
    if any(tensor.dtype in floats for tensor in (*inputs, *outputs)):
        layer.precision = trt.DataType.FLOAT
        for index, tensor in enumerate(outputs):
            if tensor.dtype in floats:
                layer.set_output_type(index, trt.DataType.FLOAT)
