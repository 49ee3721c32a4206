"""A stand-in for ``tensorrt`` and ``cuda.bindings.runtime`` on a machine without a GPU.

    plan       a header and an ONNX file, which ONNX Runtime runs
    device     memory behind addresses that the host cannot read, full of NaN at first
    stream     work is done when somebody waits for it, on what is in memory then
    graph      the addresses as they were when it was captured

So a wrong address, a missing wait, memory freed or reused too early, or a shape that no profile
takes shows as a wrong answer or as an error code, as on a device. Every public name here is one of
the real bindings' in that version; ``test_tensorrt_bindings.py`` compares them.
"""

# ruff: noqa: N801, N802, N803, N815 - the names are those of the bindings

from __future__ import annotations

import contextlib
import enum
import functools
import importlib
import itertools
import json
import shutil
import sys
import types
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, shape_inference

from serving.core.catalog import Catalog
from serving.core.segment import Segment
from tests.shared import alone

POISON = 0xFF
"""As bytes of a float of any width: NaN."""
SCRATCH_BYTES = 1000
ALIGNMENT = 256
FAKED_MODULES = ("tensorrt", "cuda", "cuda.bindings", "cuda.bindings.runtime")
USERS = (
    "builder.exporting.tensorrt_plans",
    "builder.exporting.plan_store",
    "serving.runners.tensorrt.engines",
    "serving.runners.tensorrt.memory",
    "serving.runners.tensorrt.runner",
    "serving.triton_backend.plans",
)
VERSIONS = ("8.6.1", "10.13.3.9", "11.4.0.106")


# -- CUDA ----------------------------------------------------------------------------------------


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1


class Fault(Exception):
    """Memory that is not there."""


Work = Callable[[], None]


@dataclass(eq=False)
class Stream:
    handle: int
    queue: list[Work] = field(default_factory=list)
    captured: list[Work] | None = None
    invalid: bool = False

    def __int__(self) -> int:
        return self.handle

    def add(self, work: Work) -> None:
        (self.queue if self.captured is None else self.captured).append(work)


@dataclass(eq=False)
class Graph:
    work: list[Work]
    destroyed: bool = False


class Memory:
    """Allocations by address; host memory has the addresses it has, device memory made-up ones."""

    def __init__(self) -> None:
        self.blocks: dict[int, np.ndarray] = {}
        self._next = 1 << 46

    def allocate_device(self, num_bytes: int) -> int:
        address, self._next = self._next, self._next + (num_bytes // ALIGNMENT + 2) * ALIGNMENT
        self.blocks[address] = np.full(num_bytes, POISON, np.uint8)
        return address

    def allocate_host(self, num_bytes: int) -> int:
        block = np.full(num_bytes, POISON, np.uint8)
        self.blocks[block.ctypes.data] = block
        return block.ctypes.data

    def free(self, address: int) -> bool:
        block = self.blocks.pop(address, None)
        if block is not None:
            block[:] = POISON
        return block is not None

    def view(self, address: int, num_bytes: int) -> np.ndarray:
        for start, block in self.blocks.items():
            offset = address - start
            if offset >= 0 and offset + num_bytes <= block.size:
                return block[offset : offset + num_bytes]
        raise Fault(f"{num_bytes} bytes at {address:#x}")

    def on_device(self, address: int) -> bool:
        return address >= 1 << 46 and address < self._next


class CudaRuntime:
    """``cuda.bindings.runtime``: each call returns its error code first."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = 1

    def __init__(self) -> None:
        self._state = FakeDevice()

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(found) or isinstance(found, type):
            return found
        return object.__getattribute__(self, "_state").instrument(name, found)

    def cudaGetDevice(self) -> tuple[Any, ...]:
        gpu = self._state.gpu
        return (cudaError_t.cudaSuccess, 0) if gpu else (cudaError_t.cudaErrorNoDevice, None)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return cudaError_t.cudaSuccess, self._state.gpu

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._state.outside_capture(lambda: self._state.memory.allocate_device(size))

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        return self._state.outside_capture(lambda: self._state.memory.allocate_host(size))

    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:
        done = self._state.memory.free(devPtr)
        return (cudaError_t.cudaSuccess if done else cudaError_t.cudaErrorInvalidValue,)

    def cudaFreeHost(self, ptr: int) -> tuple[Any, ...]:
        return self.cudaFree(ptr)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: Any) -> Any:
        memory = self._state.memory
        sides = {
            cudaMemcpyKind.cudaMemcpyHostToDevice: (True, False),
            cudaMemcpyKind.cudaMemcpyDeviceToHost: (False, True),
            cudaMemcpyKind.cudaMemcpyDeviceToDevice: (True, True),
        }[kind]
        if (memory.on_device(dst), memory.on_device(src)) != sides:
            return (cudaError_t.cudaErrorInvalidValue,)

        def copy() -> None:
            memory.view(dst, count)[:] = memory.view(src, count)

        stream.add(copy)
        return (cudaError_t.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        return cudaError_t.cudaSuccess, self._state.new_stream()

    def cudaStreamDestroy(self, stream: Any) -> tuple[Any, ...]:
        return self._state.drop(self._state.streams, stream.handle)

    def cudaStreamSynchronize(self, stream: Any) -> tuple[Any, ...]:
        if stream.captured is not None:
            stream.invalid = True
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        work, stream.queue = stream.queue, []
        try:
            for item in work:
                item()
        except Fault as fault:
            self._state.faults.append(str(fault))
            return (cudaError_t.cudaErrorIllegalAddress,)
        return (cudaError_t.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[Any, ...]:
        assert stream.captured is None
        stream.captured, stream.invalid = [], False
        return (cudaError_t.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: Any) -> tuple[Any, ...]:
        work, stream.captured = stream.captured, None
        if stream.invalid:
            return cudaError_t.cudaErrorStreamCaptureInvalidated, None
        graph = Graph(work)
        self._state.graphs.add(graph)
        return cudaError_t.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        executable = Graph(list(graph.work))
        self._state.executables.add(executable)
        return cudaError_t.cudaSuccess, executable

    def cudaGraphLaunch(self, graphExec: Any, stream: Any) -> tuple[Any, ...]:
        if graphExec not in self._state.executables:
            return (cudaError_t.cudaErrorInvalidResourceHandle,)
        for work in graphExec.work:
            stream.add(work)
        return (cudaError_t.cudaSuccess,)

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        self._state.graphs.remove(graph)
        return (cudaError_t.cudaSuccess,)

    def cudaGraphExecDestroy(self, graphExec: Any) -> tuple[Any, ...]:
        self._state.executables.remove(graphExec)
        return (cudaError_t.cudaSuccess,)


class FakeDevice:
    """What a test may look at and change."""

    def __init__(self) -> None:
        self.gpu: Any = types.SimpleNamespace(name=b"Imaginary GPU", major=9, minor=0)
        self.memory = Memory()
        self.streams: dict[int, Stream] = {}
        self.graphs: set[Graph] = set()
        self.executables: set[Graph] = set()
        self.calls: Counter[str] = Counter()
        self.faults: list[str] = []
        self.failures: dict[str, cudaError_t] = {}
        """Call -> what its next use returns instead of being done."""
        self._handles = itertools.count(16, 16)

    def instrument(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.calls[name] += 1
            if name in self.failures:
                return self.failures.pop(name), None
            return call(*arguments)

        return counted

    def outside_capture(self, act: Callable[[], Any]) -> tuple[Any, ...]:
        """What may not be called while a stream captures."""
        capturing = [stream for stream in self.streams.values() if stream.captured is not None]
        for stream in capturing:
            stream.invalid = True
        if capturing:
            return cudaError_t.cudaErrorStreamCaptureUnsupported, None
        return cudaError_t.cudaSuccess, act()

    def new_stream(self) -> Stream:
        stream = Stream(next(self._handles))
        self.streams[stream.handle] = stream
        return stream

    def drop(self, where: dict[int, Any], handle: int) -> tuple[Any, ...]:
        gone = where.pop(handle, None) is None
        return (cudaError_t.cudaErrorInvalidResourceHandle if gone else cudaError_t.cudaSuccess,)

    @property
    def leaks(self) -> int:
        """Allocations, streams and graphs that nobody freed."""
        held: tuple[Sized, ...] = (self.memory.blocks, self.streams, self.graphs, self.executables)
        return sum(map(len, held))


@functools.lru_cache(maxsize=64)
def _session(model: bytes) -> onnxruntime.InferenceSession:
    """What runs a plan; it keeps nothing between two runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# -- TensorRT ------------------------------------------------------------------------------------


def make_tensorrt(version: str, device: FakeDevice) -> Any:
    """The module ``tensorrt`` of one version, over ``device``."""
    major = int(version.split(".", maxsplit=1)[0])
    trt = types.ModuleType("tensorrt")
    vars(trt)["__version__"] = version

    def enumeration(name: str, *members: str) -> Any:
        made: Any = enum.IntEnum(name, members, start=0)  # type: ignore[misc] # its name is a string
        setattr(trt, name, made)
        return made

    data_type = enumeration("DataType", "FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8")
    tensor_format = enumeration("TensorFormat", "LINEAR", "CHW2", "HWC8")
    layer_type = enumeration("LayerType", "CONVOLUTION", "CAST", "ELEMENTWISE", "CONSTANT")
    enumeration("MemoryPoolType", "WORKSPACE")
    enumeration("ProfilingVerbosity", "LAYER_NAMES_ONLY", "NONE", "DETAILED")
    enumeration("LayerInformationFormat", "ONELINE", "JSON")
    enumeration("TacticSource", "EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
    weak = ("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS") if major < 11 else ()
    builder_flag = enumeration("BuilderFlag", "TF32", *weak)
    creation = (["EXPLICIT_BATCH"] if major < 11 else []) + (
        ["STRONGLY_TYPED"] if major >= 10 else []
    )
    creation_flag = enumeration("NetworkDefinitionCreationFlag", *creation)
    if major >= 10:
        enumeration("ExecutionContextAllocationStrategy", "STATIC", "USER_MANAGED")

    types_of = {
        TensorProto.FLOAT: data_type.FLOAT,
        TensorProto.FLOAT16: data_type.HALF,
        TensorProto.INT8: data_type.INT8,
        TensorProto.INT32: data_type.INT32,
        TensorProto.INT64: data_type.INT32,
        TensorProto.BOOL: data_type.BOOL,
        TensorProto.UINT8: data_type.UINT8,
    }
    numpy_types = {"FLOAT": "f4", "HALF": "f2", "INT32": "i4", "UINT8": "u1"}

    class ILogger:
        Severity = enum.IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING"], start=0)
        INTERNAL_ERROR, ERROR, WARNING = Severity

        def log(self, severity: Any, msg: str) -> None:
            raise NotImplementedError

    class Logger(ILogger):
        def __init__(self, min_severity: Any = ILogger.WARNING) -> None:
            self._messages: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            self._messages.append(msg)

    class ITensor:
        def __init__(self, name: str, dtype: Any, shape: tuple[int, ...], typed: bool) -> None:
            self.name, self.shape = name, shape
            self.allowed_formats = 1 << tensor_format.LINEAR
            self.is_shape_tensor = False
            self._dtype, self._typed = dtype, typed

        @property
        def dtype(self) -> Any:
            return self._dtype

        @dtype.setter
        def dtype(self, value: Any) -> None:
            assert not self._typed, "types of a strongly typed network are inferred"
            self._dtype = value

    class ILayer:
        def __init__(self, node: onnx.NodeProto, tensors: dict[str, ITensor]) -> None:
            kinds = {"Conv": layer_type.CONVOLUTION, "Cast": layer_type.CAST}
            self.name = node.name
            self.type = kinds.get(node.op_type, layer_type.ELEMENTWISE)
            self._inputs = [tensors.get(name) for name in node.input]
            self._outputs = [tensors[name] for name in node.output if name]
            self.num_inputs, self.num_outputs = len(self._inputs), len(self._outputs)
            self._output_types: dict[int, Any] = {}

        def get_input(self, index: int) -> ITensor | None:
            return self._inputs[index]

        def get_output(self, index: int) -> ITensor | None:
            return self._outputs[index]

        if major < 11:
            precision: Any = None

            def set_output_type(self, index: int, dtype: Any) -> None:
                self._output_types[index] = dtype

    class INetworkDefinition:
        def __init__(self, flags: int) -> None:
            typed = major >= 10 and flags >> creation_flag.STRONGLY_TYPED & 1
            self._typed = bool(typed) or major >= 11
            self._inputs: list[ITensor] = []
            self._outputs: list[ITensor] = []
            self._layers: list[ILayer] = []
            self._model = b""

        def _read(self, model: onnx.ModelProto) -> str:
            """What is wrong with the model."""
            if major < 10 and model.opset_import[0].version > 17:
                return f"opset {model.opset_import[0].version} is not supported"
            graph = shape_inference.infer_shapes(model, strict_mode=True).graph
            tensors = {}
            for port in (*graph.input, *graph.value_info, *graph.output):
                kind = port.type.tensor_type
                shape = tuple(dim.dim_value or -1 for dim in kind.shape.dim)
                tensors[port.name] = ITensor(
                    port.name, types_of[kind.elem_type], shape, self._typed
                )
            images = {name for name, x in tensors.items() if x.dtype == data_type.UINT8}
            for node in model.graph.node:
                if images.intersection(node.input) and node.op_type != "Cast":
                    return f"{node.name}: uint8 can only be cast"
            self._inputs = [tensors[port.name] for port in model.graph.input]
            self._outputs = [tensors[port.name] for port in model.graph.output]
            self._layers = [ILayer(node, tensors) for node in model.graph.node]
            self._model = model.SerializeToString()
            return ""

        num_inputs = property(lambda self: len(self._inputs))
        num_outputs = property(lambda self: len(self._outputs))
        num_layers = property(lambda self: len(self._layers))

        def get_input(self, index: int) -> ITensor:
            return self._inputs[index]

        def get_output(self, index: int) -> ITensor:
            return self._outputs[index]

        def get_layer(self, index: int) -> ILayer:
            return self._layers[index]

    class ParserError:
        def __init__(self, description: str) -> None:
            self._description = description

        def desc(self) -> str:
            return self._description

    class OnnxParser:
        def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
            self._network = network
            self._errors: list[Any] = []

        num_errors = property(lambda self: len(self._errors))

        def parse(self, model: bytes) -> bool:
            problem = self._network._read(onnx.load_from_string(model))
            self._errors = [ParserError(problem)] if problem else []
            return not problem

        def get_error(self, index: int) -> ParserError:
            return self._errors[index]

    class ITimingCache:
        def __init__(self, blob: bytes) -> None:
            self._blob = blob or f"timings {version} {device.gpu.name}\n".encode()

        def serialize(self) -> memoryview:
            return memoryview(self._blob)

    class IOptimizationProfile:
        def __init__(self) -> None:
            self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            self._shapes[input] = (tuple(min), tuple(opt), tuple(max))

    class IBuilderConfig:
        def __init__(self) -> None:
            self.builder_optimization_level = 3
            self.max_aux_streams = -1
            self.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
            self._flags: set[Any] = set()
            self._pools: dict[Any, int] = {}
            self._profiles: list[IOptimizationProfile] = []
            self._cache: ITimingCache | None = None
            self._sources = 0

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            self._pools[pool] = pool_size

        def set_tactic_sources(self, tactic_sources: int) -> bool:
            self._sources = tactic_sources
            return True

        def set_flag(self, flag: Any) -> None:
            self._flags.add(flag)

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            self._profiles.append(profile)
            return len(self._profiles) - 1

        def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
            if serialized_timing_cache and not serialized_timing_cache.startswith(b"timings "):
                return None
            return ITimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            fits = cache._blob.startswith(ITimingCache(b"")._blob.rstrip())
            self._cache = cache if fits else self._cache
            return fits

        def get_timing_cache(self) -> ITimingCache | None:
            return self._cache

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            if device.gpu is None:
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        def create_network(self, flags: int = 0) -> INetworkDefinition:
            return INetworkDefinition(flags)

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(
            self, network: INetworkDefinition, config: IBuilderConfig
        ) -> memoryview | None:
            problem = self._problem(network, config)
            if problem:
                self._logger.log(ILogger.ERROR, problem)
                return None
            assert config._cache is not None
            config._cache._blob += b"timed\n"
            header = {
                "version": version,
                "gpu": device.gpu.name.decode(),
                "inputs": [_port(port) for port in network._inputs],
                "outputs": [_port(port) for port in network._outputs],
                "profiles": [profile._shapes for profile in config._profiles],
                "layers": [layer.name for layer in network._layers],
                "level": config.builder_optimization_level,
                "float32": [
                    layer.name
                    for layer in network._layers
                    if getattr(layer, "precision", None) == data_type.FLOAT
                ],
            }
            return memoryview(json.dumps(header).encode() + b"\0" + network._model)

        def _problem(self, network: INetworkDefinition, config: IBuilderConfig) -> str:
            lowered = {flag.name for flag in config._flags}
            if network._typed and lowered & set(weak):
                return "precision flags do not go with a strongly typed network"
            for port in (*network._inputs, *network._outputs):
                vectorised = port.allowed_formats == 1 << tensor_format.HWC8
                if vectorised and port.dtype != data_type.HALF:
                    return f"{port.name}: no implementation obeys the requested format"
                if port.dtype == data_type.HALF and not network._typed and "FP16" not in lowered:
                    return f"{port.name}: half precision is not enabled"
            kinds = {node.op_type for node in onnx.load_from_string(network._model).graph.node}
            if "QuantizeLinear" in kinds and not network._typed and "INT8" not in lowered:
                return "int8 is not enabled"
            return "" if config._profiles else "dynamic shapes need an optimisation profile"

    def _port(tensor: ITensor) -> dict[str, Any]:
        layout = tensor_format(tensor.allowed_formats.bit_length() - 1)
        return {
            "name": tensor.name,
            "dtype": tensor.dtype.name,
            "format": layout.name,
            "shape": tensor.shape,
        }

    class IExecutionContext:
        _scratch: tuple[int, int] | None
        _profile: dict[str, Any] | None
        _deferred: bool

        def __init__(self, engine: ICudaEngine) -> None:
            self._engine = engine
            self._scratch = None
            self._profile = None
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._addresses: dict[str, int] = {}
            self._deferred = True

        if major >= 10:

            def set_device_memory(self, memory: int, size: int) -> None:
                self._scratch = (memory, size)

        else:
            device_memory = property(
                None, lambda self, memory: setattr(self, "_scratch", (memory, SCRATCH_BYTES))
            )

        def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
            if profile_index in self._engine._taken or stream_handle not in device.streams:
                return False
            self._engine._taken.add(profile_index)
            self._profile = self._engine._header["profiles"][profile_index]
            return True

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            if self._profile is None or name not in self._profile:
                return False
            low, _, high = self._profile[name]
            if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
                return False
            self._deferred |= self._shapes.get(name) != tuple(shape)
            self._shapes[name] = tuple(shape)
            return True

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            if name in self._shapes:
                return self._shapes[name]
            batch = next(iter(self._shapes.values()), (-1,))[0]
            return (batch, *self._engine._ports[name]["shape"][1:])

        def set_tensor_address(self, name: str, memory: int) -> bool:
            if name not in self._engine._ports or memory % ALIGNMENT:
                return False
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            stream = device.streams[stream_handle]
            ready = self._addresses.keys() == self._engine._ports.keys()
            if stream.captured is not None and self._deferred:
                stream.invalid = True
                return False
            if not ready or self._scratch is None or self._scratch[1] < SCRATCH_BYTES:
                return False
            self._deferred = False
            addresses, batch = (
                dict(self._addresses),
                self.get_tensor_shape(next(iter(self._shapes)))[0],
            )
            scratch = self._scratch
            stream.add(lambda: self._engine._execute(addresses, batch, scratch))
            return True

    class EngineInspector:
        def __init__(self, engine: ICudaEngine) -> None:
            self._engine = engine

        def get_engine_information(self, format: Any) -> str:
            names = self._engine._header["layers"]
            layers = [{"Name": name, "LayerType": "Fusion"} for name in names]
            if any(port["format"] == "HWC8" for port in self._engine._header["outputs"]):
                copied = "Reformatting CopyNode for Output Tensor 0"
                layers.append({"Name": copied, "LayerType": "Reformat"})
            return json.dumps({"Layers": layers, "Bindings": list(self._engine._ports)})

    class ICudaEngine:
        def __init__(self, header: dict[str, Any], model: bytes) -> None:
            self._header = header
            self._ports = {port["name"]: port for port in (*header["inputs"], *header["outputs"])}
            self._taken: set[int] = set()
            self._session = _session(model)

        num_io_tensors = property(lambda self: len(self._ports))

        if major >= 10:
            device_memory_size_v2 = SCRATCH_BYTES

            def create_execution_context(self, strategy: Any) -> IExecutionContext:
                assert strategy == trt.ExecutionContextAllocationStrategy.USER_MANAGED
                return IExecutionContext(self)

        else:
            device_memory_size = SCRATCH_BYTES

            def create_execution_context_without_device_memory(self) -> IExecutionContext:
                return IExecutionContext(self)

        def create_engine_inspector(self) -> EngineInspector:
            return EngineInspector(self)

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(self._ports[name]["shape"])

        def get_tensor_dtype(self, name: str) -> Any:
            return data_type[self._ports[name]["dtype"]]

        def get_tensor_format(self, name: str) -> Any:
            return tensor_format[self._ports[name]["format"]]

        def _execute(self, addresses: dict[str, int], batch: int, scratch: tuple[int, int]) -> None:
            device.memory.view(*scratch)[:] = POISON
            feed = {}
            for port, declared in zip(
                self._header["inputs"], self._session.get_inputs(), strict=True
            ):
                array = self._memory(port, batch, addresses)
                if port["format"] == "HWC8":
                    array = array[..., : port["shape"][1]].transpose(0, 3, 1, 2)
                wanted = {"tensor(float)": np.float32}.get(declared.type, array.dtype)
                feed[port["name"]] = np.ascontiguousarray(array, wanted)
            names = [port["name"] for port in self._header["outputs"]]
            results = self._session.run(names, feed)
            for port, result in zip(self._header["outputs"], results, strict=True):
                array = self._memory(port, batch, addresses)
                if port["format"] == "HWC8":
                    array[..., : port["shape"][1]] = result.transpose(0, 2, 3, 1)
                else:
                    array[:] = result

        def _memory(
            self, port: dict[str, Any], batch: int, addresses: dict[str, int]
        ) -> np.ndarray:
            shape = port["shape"][1:]
            if port["format"] == "HWC8":
                channels, height, width = shape
                shape = [height, width, -(-channels // 8) * 8]
            dtype = np.dtype(numpy_types[port["dtype"]])
            num_bytes = batch * int(np.prod(shape, dtype=int)) * dtype.itemsize
            return (
                device.memory.view(addresses[port["name"]], num_bytes)
                .view(dtype)
                .reshape(batch, *shape)
            )

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            header, _, model = bytes(serialized_engine).partition(b"\0")
            try:
                return ICudaEngine(json.loads(header), model)
            except ValueError:
                self._logger.log(ILogger.ERROR, "not a plan")
                return None

    made = (
        ILogger, Logger, ITensor, ILayer, INetworkDefinition, ParserError, OnnxParser,
        ITimingCache, IOptimizationProfile, IBuilderConfig, Builder, IExecutionContext,
        EngineInspector, ICudaEngine, Runtime,
    )  # fmt: skip
    for kind in made:
        setattr(trt, kind.__name__, kind)
    assert builder_flag
    return trt


@contextlib.contextmanager
def fake_cuda(version: str = VERSIONS[1]) -> Iterator[FakeDevice]:
    """Put the fakes where ``import`` finds them, for modules that are imported inside."""
    runtime = CudaRuntime()
    bindings = types.ModuleType("cuda.bindings")
    vars(bindings)["runtime"] = runtime
    fakes: tuple[Any, ...] = (
        make_tensorrt(version, runtime._state),
        types.ModuleType("cuda"),
        bindings,
        runtime,
    )
    affected = (*FAKED_MODULES, *USERS)
    before = {name: sys.modules.pop(name) for name in affected if name in sys.modules}
    sys.modules.update(zip(FAKED_MODULES, fakes, strict=True))
    try:
        yield runtime._state
    finally:
        for name in affected:
            sys.modules.pop(name, None)
        sys.modules.update(before)


# -- plans of the small detector -----------------------------------------------------------------


def build_fake_plans(folder: Path, catalog: Catalog, version: str) -> Path:
    """Plans of the segments in ``folder`` for an imaginary GPU, built once; where they are."""
    target = folder / f"imaginary-{version}"
    with alone(target):
        if not target.exists():
            target.mkdir()
            for path in folder.glob("*.onnx"):
                shutil.copy(path, target)
            with fake_cuda(version):
                tensorrt_plans = importlib.import_module("builder.exporting.tensorrt_plans")
                tensorrt_plans.build_plans(target, catalog)
    return target


@contextlib.contextmanager
def fake_runners(version: str = VERSIONS[1]) -> Iterator[tuple[Any, FakeDevice]]:
    """The module of ``TensorRtRunner``, and the device that it works on. What the module
    imported stays with it."""
    with fake_cuda(version) as device:
        yield importlib.import_module("serving.runners.tensorrt.runner"), device


def open_fake_runner(
    folder: Path,
    catalog: Catalog,
    num_threads: int | None,
    version: str = VERSIONS[1],
    wanted: Collection[Segment] | None = None,
) -> Any:
    """``TensorRtRunner`` over plans for an imaginary GPU."""
    plans = build_fake_plans(folder, catalog, version)
    with fake_runners(version) as (module, _):
        return module.TensorRtRunner(plans, catalog, num_threads, wanted)


def open_real_runner(
    folder: Path,
    catalog: Catalog,
    num_threads: int | None,
    wanted: Collection[Segment] | None = None,
) -> Any:
    """``TensorRtRunner`` over plans that are built here, quickly, for the GPU of this machine."""
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    if not (folder / "tensorrt" / "plans.json").exists():
        importlib.import_module("builder.exporting.tensorrt_plans").build_plans(
            folder, catalog, level=0
        )
    module = importlib.import_module("serving.runners.tensorrt.runner")
    return module.TensorRtRunner(folder, catalog, num_threads, wanted)
