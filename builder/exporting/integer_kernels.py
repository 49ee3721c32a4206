"""Conversion of quantised segments to the form that CPU runtimes compute in integers.

    kernel -> quantise -> dequantise -> conv -> scale -> shift       what calibration writes
    int8 kernel -> dequantise -> conv with bias                      the same function

OpenVINO computes a convolution in integers where its kernel is a constant behind nothing but a
dequantisation of its own. The kernels of a head, which levels share, each with a scale of its own
behind the convolution, are not: so the scale goes into the dequantisation, and the shift becomes a
bias.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

LEAST, MOST = -127, 127
"""Range of a kernel's integers, symmetric so that their sign can change with that of the scale."""

Array = npt.NDArray[np.float32]


def fold_kernels(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of ``model`` whose convolutions have constant integer kernels.

    ``model`` has a pair of (de)quantisation nodes for each kernel, as ``int8_segments`` writes it.
    """
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    _Folding(folded.graph).run()
    onnx.checker.check_model(folded, full_check=True)
    return folded


class _Folding:
    """One graph whose kernels are folded; it is changed in place."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._constants = {x.name: numpy_helper.to_array(x) for x in graph.initializer}
        self._made_by = {name: node for node in graph.node for name in node.output}
        self._users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._users[name].append(node)
        self._outputs = {port.name for port in graph.output}
        self._kernels: dict[bytes, str] = {}
        """Names of the kernels so far by their values: levels of a head share them."""
        self._gone: set[str] = set()
        """Outputs of nodes that are to be dropped; a convolution may have taken over the name."""

    def run(self) -> None:
        """Fold every convolution and drop what is then used by nothing."""
        nodes = []
        for node in list(self._graph.node):
            if node.op_type == "Conv":
                nodes.append(self._fold(node))
            nodes.append(node)
        kept = [
            node for node in nodes if node.op_type == "Conv" or self._gone.isdisjoint(node.output)
        ]
        used = {name for node in kept for name in node.input}
        constants = [
            numpy_helper.from_array(array, name)
            for name, array in self._constants.items()
            if name in used
        ]
        for field, values in (
            (self._graph.node, kept),
            (self._graph.initializer, constants),
            (self._graph.value_info, []),
        ):
            del field[:]
            field.extend(values)

    def _fold(self, conv: onnx.NodeProto) -> onnx.NodeProto:
        """Give ``conv`` an integer kernel and the scale and shift behind it.

        Returns the dequantisation of the kernel.
        """
        dequantize = self._made_by[conv.input[1]]
        quantize = self._made_by[dequantize.input[0]]
        self._gone |= {dequantize.output[0], quantize.output[0]}
        values, step = (self._constants[name] for name in quantize.input[:2])
        integers = np.clip(np.rint(values / _by_channel(step)), LEAST, MOST).astype(np.int8)
        has_bias = len(conv.input) > 2
        bias = self._constants[conv.input[2]] if has_bias else np.zeros_like(step)
        output = conv.output[0]
        scale, shift = np.ones_like(step), np.zeros_like(step)
        factor = self._behind(output, "Mul", step.shape)
        if factor is not None:
            scale, output = factor
        term = self._behind(output, "Add", step.shape)
        if term is not None:
            shift, output = term
        integers = np.where(_by_channel(scale) < 0, -integers, integers)
        name = conv.output[0]
        # A kernel that is shared must share its zeros too, or OpenVINO takes it for a float one.
        inputs = [
            self._kernel(integers, f"{name}_kernel"),
            self._add(f"{name}_kernel_scale", step * np.abs(scale)),
            quantize.input[2],
        ]
        given = [conv.input[0], f"{name}_kernel_dequantized"]
        if has_bias or term is not None:
            given.append(self._add(f"{name}_bias", bias * scale + shift))
        del conv.input[:]
        conv.input.extend(given)
        conv.output[0] = output
        return helper.make_node("DequantizeLinear", inputs, given[1:2], name=given[1], axis=0)

    def _behind(self, name: str, kind: str, shape: tuple[int, ...]) -> tuple[Array, str] | None:
        """Drop the only user of ``name``, if it is of this kind; return what it applies and gives.

        That is its constant for each channel and the name of its output. Returns None if there is
        no such user.
        """
        users = self._users[name]
        if name in self._outputs or len(users) != 1 or users[0].op_type != kind:
            return None
        (user,) = users
        constants = [self._constants[other] for other in user.input if other in self._constants]
        if len(constants) != 1 or constants[0].size not in (1, *shape):
            return None
        self._gone.add(user.output[0])
        return np.broadcast_to(constants[0].reshape(-1), shape), user.output[0]

    def _kernel(self, integers: npt.NDArray[np.int8], name: str) -> str:
        key = integers.tobytes() + str(integers.shape).encode()
        if key not in self._kernels:
            self._kernels[key] = self._add(name, integers)
        return self._kernels[key]

    def _add(self, name: str, array: npt.NDArray[np.generic]) -> str:
        self._constants[name] = array
        return name


def _by_channel(array: Array) -> Array:
    return array.reshape(-1, 1, 1, 1)
