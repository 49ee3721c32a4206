"""Engines of TensorRT: plans as they are loaded, bound to buffers, and run."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorrt as trt

from serving.artifacts.tensorrt_plans import PROFILES, Plan, PlansError, profile_of
from serving.runners.tensorrt.memory import BatchLayout, Buffer, Device, TensorLayout

SINCE_10 = int(trt.__version__.split(".")[0]) >= 10
"""True for TensorRT 10 and later. The tests audit both branches of every ``if SINCE_10`` against
the bindings."""

CHANNEL_VECTOR = 8
"""Number of channels that lie together in the vectorised format."""

DTYPES: dict[Any, type[np.generic]] = {
    trt.DataType.FLOAT: np.float32,
    trt.DataType.HALF: np.float16,
    trt.DataType.INT32: np.int32,
    trt.DataType.UINT8: np.uint8,
}
"""Types of arrays, by TensorRT's types."""


class Engine:
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
        self.inputs: BatchLayout = ()
        self.outputs: BatchLayout = ()

    def prepare(self, device: Device, scratch: int, scratch_bytes: int) -> None:
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
        self.inputs = tuple(self._layout(batch_one, name) for name in self._plan.inputs)
        self.outputs = tuple(self._layout(batch_one, name) for name in self._plan.outputs)

    def bind(self, padded: int, given: Buffer, taken: Buffer) -> None:
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

    def enqueue(self, padded: int, device: Device) -> None:
        """Run as bound, in the stream's order."""
        context = self._contexts[profile_of(padded)]
        self._require(context.execute_async_v3(int(device.stream)), "run")

    def _layout(self, context: trt.IExecutionContext, name: str) -> TensorLayout:
        """Return how one row of the tensor ``name`` lies in memory."""
        shape = tuple(context.get_tensor_shape(name))[1:]
        memory_format = self._engine.get_tensor_format(name)
        if memory_format == trt.TensorFormat.HWC8:
            channels, height, width = shape
            padded = -(-channels // CHANNEL_VECTOR) * CHANNEL_VECTOR
            shape = (height, width, padded)
        elif memory_format != trt.TensorFormat.LINEAR:
            raise PlansError(f"{name} of {self._name} has a format this runner does not know")
        if min(shape, default=1) < 1:
            raise PlansError(f"{name} of {self._name} has a size that depends on the data")
        return TensorLayout(shape, DTYPES[self._engine.get_tensor_dtype(name)])

    def _require(self, done: bool, what: str) -> None:
        """Raise RuntimeError, which says what the engine does not do, unless it is ``done``."""
        if not done:
            raise RuntimeError(f"TensorRT: {self._name} does not {what} (see its log)")
