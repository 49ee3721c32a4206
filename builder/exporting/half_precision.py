"""Conversion of float32 segments to half precision up to the last convolutions, as on a GPU.

    images uint8 -> normalise -> | backbone, stacks, towers -> | select, decode, suppress -> boxes
                     float32     |          float16            |          float32
                                 ^ cast                        ^ cast

*Body* is whatever a convolution or a feature map is made of, without the normalisation of pixels;
it is in float16, and so are features at the boundaries of a segment. The rest stays in float32:
half precision would move boxes of large images by half a pixel and overflow in products of sides.

Needs the package ``onnx`` alone (1.16 or newer) and Python 3.10, since it also runs beside the
TensorRT builder. ``convert_float_to_float16`` of ONNX Runtime is not that, and it casts around
every single node that is to stay, through half precision in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference, version_converter
from onnx.reference import ReferenceEvaluator

from serving.core.segment import FEATURE_RANK

FLOAT, HALF, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
HALF_SCALES_OPSET = 19
"""First operator set whose (de)quantisation takes scales in half precision."""
HALF_SCALES_IR = 9
MAX_SCALE_ERROR = 0.01
"""Most relative error of a quantisation scale in half precision, which is coarse below 6e-5."""
PROBED_BATCHES = (2, 3)
KEEPS_FLOAT32 = {"Resize": (1, 2)}
"""Inputs that are float32 whatever the type of the first, by operator: region and scales."""


def to_float(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same segment, all in float32, in the form that builders take without trouble.

    Kernels stored in half precision are widened on disk instead of by the graph; images are cast
    before they are transposed, since TensorRT computes nothing on uint8; what depends on constants
    and static dimensions alone is computed here. The outputs are the same bit by bit. The argument
    is left alone.
    """
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    _cast_images_first(converted.graph)
    _fold_constants(converted)
    onnx.checker.check_model(converted, full_check=True)
    return converted


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a unit segment in mixed precision, as drawn in the module's docstring.

    Every operator's type is explicit, which strongly typed builders need. Features at the
    boundaries are float16, images uint8, detections as they were. A model with (de)quantisation is
    raised to operator set 19, where its scales may be in half precision as well. The argument is
    left alone.

    Raises ValueError if a quantisation scale is too small for half precision.
    """
    if any(node.op_type in QUANTIZERS for node in model.graph.node):
        model = version_converter.convert_version(model, HALF_SCALES_OPSET)
        model.ir_version = max(model.ir_version, HALF_SCALES_IR)
    half = _Typing(to_float(model)).run()
    onnx.checker.check_model(half, full_check=True)
    return half


def half_tensors(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the tensors that are to be in half precision.

    They are the outputs of all nodes that a convolution or a feature map is made of, without those
    between uint8 images and the first convolution.
    """
    producers = {name: node for node in graph.node for name in node.output}
    goals = [node for node in graph.node if node.op_type == "Conv"]
    goals += [producers[port.name] for port in graph.output if _is_feature(port)]
    wanted: set[str] = set()
    while goals:
        node = goals.pop()
        if node.output[0] not in wanted:
            wanted.update(node.output)
            goals += [producers[name] for name in node.input if name in producers]
    pixels = {port.name for port in graph.input if port.type.tensor_type.elem_type == UINT8}
    for node in graph.node:
        # The quantisation of a convolution's input belongs to the convolution.
        if node.op_type not in ("Conv", *QUANTIZERS) and pixels & set(node.input):
            pixels.update(node.output)
    return wanted - pixels


def _inferred(model: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    """Return inputs, outputs and the tensors between, with their types and known dimensions."""
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    return iter((*graph.input, *graph.value_info, *graph.output))


def _is_feature(port: onnx.ValueInfoProto) -> bool:
    tensor = port.type.tensor_type
    return tensor.elem_type == FLOAT and len(tensor.shape.dim) == FEATURE_RANK


# -- the same in float32 --------------------------------------------------------------------------


def _cast_images_first(graph: onnx.GraphProto) -> None:
    """Reorder images -> Transpose -> Cast to images -> Cast -> Transpose."""
    images = {port.name for port in graph.input if port.type.tensor_type.elem_type == UINT8}
    transposes = {
        node.output[0]: node
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0] in images
    }
    for cast in [node for node in graph.node if node.op_type == "Cast"]:
        transpose = transposes.get(cast.input[0])
        if transpose is not None:
            result = cast.output[0]
            cast.input[0], cast.output[0] = transpose.input[0], f"{transpose.input[0]}/cast"
            transpose.input[0], transpose.output[0] = cast.output[0], result
            nodes = list(graph.node)
            first, second = nodes.index(transpose), nodes.index(cast)
            nodes[first], nodes[second] = nodes[second], nodes[first]
            _set_nodes(graph, nodes)


def _fold_constants(model: onnx.ModelProto) -> None:
    """Compute what does not depend on inputs: constants, and dimensions other than the batch.

    What comes out the same with two batch sizes is constant; a shape to be taken that differs in
    its first dimension alone gets 0 there, which says "as it is".
    """
    graph = model.graph
    once, again = (_computed(model, batch) for batch in PROBED_BATCHES)
    constants = {name: array for name, array in once.items() if np.array_equal(array, again[name])}
    for node in graph.node:
        name = node.input[1] if node.op_type == "Reshape" else ""
        if name in once and name not in constants:
            first, second = once[name], again[name]
            if (first[0], second[0]) == PROBED_BATCHES and np.array_equal(first[1:], second[1:]):
                node.input[1] = f"{name}/shape"
                constants[node.input[1]] = np.concatenate([[0], first[1:]])
    _replace(graph, constants)


def _computed(model: onnx.ModelProto, batch: int) -> dict[str, npt.NDArray[Any]]:
    """Return every tensor that is known before there are inputs, if there are ``batch`` of them."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    for port in (*probe.graph.input, *probe.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = batch
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    constants: dict[str, npt.NDArray[Any]] = {}
    num_nodes = -1
    while num_nodes != len(probe.graph.node):  # what was computed lets more shapes be inferred
        num_nodes = len(probe.graph.node)
        dims = {port.name: port.type.tensor_type.shape.dim for port in _inferred(probe)}
        constants.update((x.name, numpy_helper.to_array(x)) for x in probe.graph.initializer)
        for node in probe.graph.node:
            if node.op_type == "Shape":
                sizes = [dim.dim_value for dim in dims.get(node.input[0], [])]
                if sizes and all(sizes):
                    constants[node.output[0]] = np.array(sizes, np.int64)
            elif node.op_type not in QUANTIZERS and all(x in constants for x in node.input if x):
                # Quantised kernels stay: builders look for their (de)quantisation.
                feed = {name: constants[name] for name in node.input if name}
                results = ReferenceEvaluator(node, opsets=opsets).run(None, feed)
                constants.update(zip(node.output, map(np.asarray, results), strict=True))
        _replace(probe.graph, constants)
    return constants


def _replace(graph: onnx.GraphProto, constants: Mapping[str, npt.NDArray[Any]]) -> None:
    """Put initializers in the place of the nodes that compute ``constants``."""
    needed, kept = {port.name for port in graph.output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output) and node.output[0] not in constants:
            needed.update(node.input)
            kept.append(node)
    _set_nodes(graph, reversed(kept))
    del graph.initializer[:]
    graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in constants.items() if name in needed
    )
    del graph.value_info[:]


def _set_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    copies = []
    for node in nodes:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copies.append(copied)
    del graph.node[:]
    graph.node.extend(copies)


# -- half precision -------------------------------------------------------------------------------


class _Typing:
    """One pass over a graph in its order, which gives every operator its type.

    It keeps the type of every float tensor so far and casts where an operator wants another.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._floats = {
            port.name for port in _inferred(model) if port.type.tensor_type.elem_type == FLOAT
        } | {tensor.name for tensor in model.graph.initializer if tensor.data_type == FLOAT}
        self._model = model
        self._body = half_tensors(model.graph)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._types = dict.fromkeys(self._floats, FLOAT)
        self._cast: dict[tuple[str, int], str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def run(self) -> onnx.ModelProto:
        """Return the typed model; to be called once."""
        graph = self._model.graph
        for port in (*graph.input, *graph.output):
            if _is_feature(port):
                port.type.tensor_type.elem_type = HALF
                self._types[port.name] = HALF
        for node in graph.node:
            self._place(node)
        _set_nodes(graph, self._nodes)
        del graph.initializer[:]
        graph.initializer.extend(self._initializers.values())
        del graph.value_info[:]
        return self._model

    def _place(self, node: onnx.NodeProto) -> None:
        wanted = HALF if node.output[0] in self._body else FLOAT
        keeps = KEEPS_FLOAT32.get(node.op_type, ())
        if node.op_type == "Cast":
            to = next(attribute for attribute in node.attribute if attribute.name == "to")
            to.i = wanted if to.i == FLOAT else to.i
        else:
            inputs = [
                self._as(name, FLOAT if index in keeps else wanted, node.op_type)
                for index, name in enumerate(node.input)
            ]
            node.input[:] = inputs
        self._nodes.append(node)
        self._types.update((name, wanted) for name in node.output if name in self._floats)

    def _as(self, name: str, wanted: int, user: str) -> str:
        """Return the name of tensor ``name`` in the type ``wanted``, if it is a float at all."""
        if name in self._constants:
            return self._constant(self._constants[name], wanted, user)
        if name not in self._floats or self._types[name] == wanted:
            return name
        if (name, wanted) not in self._cast:
            suffix = "half" if wanted == HALF else "float"
            cast = helper.make_node(
                "Cast", [name], [f"{name}/{suffix}"], name=f"{name}/to_{suffix}", to=wanted
            )
            self._nodes.append(cast)
            self._cast[name, wanted] = cast.output[0]
        return self._cast[name, wanted]

    def _constant(self, tensor: onnx.TensorProto, wanted: int, user: str) -> str:
        if tensor.data_type != FLOAT or wanted == FLOAT:
            self._initializers[tensor.name] = tensor
            return str(tensor.name)
        name = f"{tensor.name}/half"
        if name not in self._initializers:
            wide = numpy_helper.to_array(tensor)
            half = wide.astype(np.float16)
            if user in QUANTIZERS and wide.ndim < FEATURE_RANK:
                error = np.abs(half.astype(np.float32) - wide) / np.abs(wide)
                if not np.all(error <= MAX_SCALE_ERROR):
                    raise ValueError(f"the quantisation scale {tensor.name} is too small for half")
            self._initializers[name] = numpy_helper.from_array(half, name)
        return name
