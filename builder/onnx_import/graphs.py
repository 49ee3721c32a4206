"""Pieces of graphs: operators written one after the other, and segments made of nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from builder.onnx_import.branches import inputs_of
from builder.onnx_import.sizing import BATCH

REDUCE_AXES_AS_INPUT = 18
"""Operator set from which reductions take their axes as an input."""


class Operators:
    """Operators in their order, each called as a function of the names of its inputs.

    All names begin with ``prefix``, which no other piece of the same graph has.
    """

    def __init__(self, prefix: str, opset: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self._prefix = prefix
        self._opset = opset

    def _name(self, what: str) -> str:
        return f"{self._prefix}/{what}_{len(self.nodes) + len(self.initializers)}"

    def constant(self, value: Any, kind: npt.DTypeLike = np.float32) -> str:
        """Return the name of a constant."""
        name = self._name("constant")
        self.initializers[name] = numpy_helper.from_array(np.array(value, kind), name)
        return name

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append an operator; return the name of its only output."""
        return self.several(1, kind, *inputs, **attributes)[0]

    def several(self, count: int, kind: str, *inputs: str, **attributes: Any) -> list[str]:
        """Append an operator; return the names of its outputs."""
        name = self._name(kind)
        outputs = [name, *(f"{name}_{number}" for number in range(1, count))]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return outputs

    def named(self, tensor: str, name: str) -> None:
        """Give a tensor another name, which is not prefixed."""
        self.nodes.append(helper.make_node("Identity", [tensor], [name], name=f"{name}/named"))

    def cast(self, tensor: str, kind: int) -> str:
        """Return the tensor in another type."""
        return self("Cast", tensor, to=kind)

    def columns(self, tensor: str, first: int, last: int, axis: int = 2) -> str:
        """Return a range of the columns of a tensor."""
        ends = [self.constant([value], np.int64) for value in (first, last, axis)]
        return self("Slice", tensor, *ends)

    def with_axis(self, tensor: str, axis: int) -> str:
        """Return a tensor with an axis of one more."""
        return self("Unsqueeze", tensor, self.constant([axis], np.int64))

    def without_axis(self, tensor: str, axis: int) -> str:
        """Return a tensor without an axis of one."""
        return self("Squeeze", tensor, self.constant([axis], np.int64))

    def reshape(self, tensor: str, *dims: int) -> str:
        """Return a tensor in another shape; 0: as it is, -1: what is left."""
        return self("Reshape", tensor, self.constant(dims, np.int64))

    def largest(self, tensor: str, axis: int) -> str:
        """Return the largest along an axis, which goes."""
        if self._opset >= REDUCE_AXES_AS_INPUT:
            return self("ReduceMax", tensor, self.constant([axis], np.int64), keepdims=0)
        return self("ReduceMax", tensor, axes=[axis], keepdims=0)

    def best(self, tensor: str, count: int) -> tuple[str, str]:
        """Return the largest ``count`` values in each row of a (B, N) tensor, and their places."""
        values, places = self.several(2, "TopK", tensor, self.constant([count], np.int64), axis=1)
        return values, places

    def rows(self, tensor: str, places: str, width: int) -> str:
        """Return rows (B, K, width) of a tensor (B, N, width), at ``places`` (B, K)."""
        ones = self.constant([1, 1, width], np.int64)
        return self(
            "GatherElements", tensor, self("Expand", self.with_axis(places, 2), ones), axis=1
        )


def port(name: str, kind: int, dims: Sequence[int | str]) -> onnx.ValueInfoProto:
    """Return an input or output with a first dimension for images, or ``dims[0]`` of them."""
    return helper.make_tensor_value_info(name, kind, list(dims))


def batched(max_batch: int | None, *dims: int) -> list[int | str]:
    """Return the shape of a tensor of any number of images, or of ``max_batch`` alone."""
    return [BATCH if max_batch is None else max_batch, *dims]


def make_segment(
    name: str,
    nodes: Iterable[onnx.NodeProto],
    initializers: Mapping[str, TensorProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    like: onnx.ModelProto,
) -> onnx.ModelProto:
    """Return a model of these nodes, which are in their order, with the weights that they use.

    Operator set and version of the format are those of ``like``.
    """
    nodes = list(nodes)
    used = {tensor for node in nodes for tensor in inputs_of(node)}
    used |= {value.name for value in outputs}
    graph = helper.make_graph(
        nodes,
        name,
        inputs,
        outputs,
        [tensor for key, tensor in initializers.items() if key in used],
    )
    return helper.make_model(
        graph,
        opset_imports=like.opset_import,
        ir_version=like.ir_version,
        producer_name="punctual",
    )
