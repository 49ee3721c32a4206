"""Folded segments compute what they computed, with kernels that runtimes take for integers."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from builder.exporting.integer_kernels import fold_kernels
from builder.exporting.repository import sha256
from serving.artifacts.int8_segments import CPU_FOLDER
from serving.core import segment as segments
from tests.exported import exported_detector


def run(model: onnx.ModelProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {p.name: x for p, x in zip(session.get_inputs(), inputs, strict=True)})


def kernels(model: onnx.ModelProto) -> list[str]:
    """The constant behind every convolution, which is int8 and has one node of its own between."""
    made = {name: node for node in model.graph.node for name in node.output}
    constants = {x.name: numpy_helper.to_array(x) for x in model.graph.initializer}
    found = []
    between = set()
    for conv in (node for node in model.graph.node if node.op_type == "Conv"):
        dequantize = made[conv.input[1]]
        assert dequantize.op_type == "DequantizeLinear"
        kernel, scale, zero = (constants[name] for name in dequantize.input)
        assert kernel.dtype == np.int8
        assert kernel.min() >= -127
        assert scale.shape == (kernel.shape[0],)
        assert (scale > 0).all()
        assert not zero.any()
        found.append(dequantize.input[0])
        between.add(dequantize.output[0])
    assert len(between) == len(found)
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return exported_detector(tmp_path_factory.mktemp("segments"), num_stacks=1)


@pytest.fixture(scope="module")
def folders(exported):
    before = exported.quantize()
    return before, exported.folder / CPU_FOLDER


def test_both_folders_say_of_which_weights(folders):
    records = [json.loads((folder / "quantized.json").read_text()) for folder in folders]
    for record, folder in zip(records, folders, strict=True):
        for name, digest in record.pop("files").items():
            assert sha256(folder / name) == digest
    assert records[0] == records[1]


def test_features_are_the_same(exported, folders):
    values = [np.stack(exported.images[:1])]
    for segment in segments.unit_path(1)[:-1]:
        before, after = (onnx.load(folder / f"{segment.name}.onnx") for folder in folders)
        expected = run(before, values)
        for one, other in zip(expected, run(after, values), strict=True):
            # A value that lies between two steps may be rounded the other way.
            assert np.abs(one - other).mean() < 0.01 * np.abs(one).max()
        values = expected


def test_levels_share_kernels_and_nothing_is_left_behind_a_convolution(folders):
    for segment in segments.unit_path(1):
        model = onnx.load(folders[1] / f"{segment.name}.onnx")
        found = kernels(model)
        assert (len(set(found)) < len(found)) == segment.head
        constants = {x.name for x in model.graph.initializer}
        after_conv = {
            (first.op_type, second.op_type)
            for first, second in pairwise(model.graph.node)
            if first.output[0] in second.input and constants.intersection(second.input)
        }
        assert not after_conv & {("Conv", "Mul"), ("Conv", "Add")}


def small_model(scale: list[float] | None, bias: list[float] | None) -> onnx.ModelProto:
    """A quantised convolution of two channels, and a scale and a shift behind it."""
    constants = {
        "step": np.float32(0.5),
        "zero": np.int8(0),
        "kernel": np.array([1.2, -2.7], np.float32).reshape(2, 1, 1, 1),
        "kernel_step": np.array([0.01, 0.03], np.float32),
        "kernel_zero": np.zeros(2, np.int8),
        "shift": np.array([[[3.0]], [[-1.0]]], np.float32),
    }
    given = ["x_d", "kernel_d"]
    if bias is not None:
        constants["bias"] = np.array(bias, np.float32)
        given.append("bias")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "step", "zero"], ["x_d"]),
        helper.make_node(
            "QuantizeLinear", ["kernel", "kernel_step", "kernel_zero"], ["kernel_q"], axis=0
        ),
        helper.make_node(
            "DequantizeLinear", ["kernel_q", "kernel_step", "kernel_zero"], ["kernel_d"], axis=0
        ),
        helper.make_node("Conv", given, ["conv"], kernel_shape=[1, 1]),
    ]
    last = "conv"
    if scale is not None:
        constants["scale"] = np.array(scale, np.float32).reshape(2, 1, 1)
        nodes.append(helper.make_node("Mul", ["conv", "scale"], ["scaled"]))
        last = "scaled"
    nodes.append(helper.make_node("Add", ["shift", last], ["y"]))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 2, 2])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("bias", [None, [0.5, -2.0]])
@pytest.mark.parametrize("scale", [None, [2.0, 3.0], [-2.0, 0.25]])
def test_scale_of_either_sign_and_shift_are_folded(scale, bias):
    model = small_model(scale, bias)
    folded = fold_kernels(model)
    assert [node.op_type for node in folded.graph.node] == [
        "QuantizeLinear",
        "DequantizeLinear",
        "DequantizeLinear",
        "Conv",
    ]
    kernels(folded)
    x = np.array([[[[1.0, -2.0], [0.2, 7.0]]]], np.float32)
    np.testing.assert_allclose(run(folded, [x])[0], run(model, [x])[0], rtol=1e-5, atol=1e-5)


def test_what_others_use_stays():
    """A convolution whose result is an output too keeps what is behind it."""
    model = small_model([2.0, 3.0], None)
    model.graph.output.append(
        helper.make_tensor_value_info("conv", TensorProto.FLOAT, [1, 2, 2, 2])
    )
    folded = fold_kernels(model)
    assert [node.op_type for node in folded.graph.node][-2:] == ["Mul", "Add"]
    x = np.array([[[[1.0, -2.0], [0.2, 7.0]]]], np.float32)
    for one, other in zip(run(folded, [x]), run(model, [x]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
