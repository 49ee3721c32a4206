"""Mixed precision: what is in float16, what is not, and that the answers stay."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from builder.exporting.half_precision import to_float, to_half
from serving.core import segment as segments
from tests.builder.exporting.half_nodes import half_nodes
from tests.exported import exported_detector

FEATURE_ERROR = 5e-3
"""Of the largest value, for one segment: half precision keeps 11 bits, and rounds a dozen times."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return exported_detector(tmp_path_factory.mktemp("segments"))


@pytest.fixture(scope="module")
def models(exported):
    return {
        segments.parse(name): onnx.load(exported.folder / entry.file)
        for name, entry in exported.catalog.segments.items()
    }


def run(model, inputs):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    wanted = {"tensor(float16)": np.float16, "tensor(float)": np.float32}
    ports = session.get_inputs()
    feed = {
        port.name: array.astype(wanted.get(port.type, array.dtype))
        for port, array in zip(ports, inputs, strict=True)
    }
    return session.run(None, feed)


def chain(models, images, depth, convert):
    """Outputs of every segment on the way to exit ``depth``."""
    values, outputs = [np.stack(images)], {}
    for segment in segments.unit_path(depth):
        values = outputs[segment] = run(convert(models[segment]), values)
    return outputs


def test_each_half_precision_segment_agrees_with_float32(models, exported):
    values = [np.stack(exported.images)]
    for segment in segments.unit_path(3)[:-1]:
        expected = run(models[segment], values)
        for wide, half in zip(expected, run(to_half(models[segment]), values), strict=True):
            assert half.dtype == np.float16
            error = np.abs(half.astype(np.float32) - wide).max()
            assert error < FEATURE_ERROR * np.abs(wide).max()
        values = expected


def test_boxes_after_a_chain_in_half_precision_agree_with_float32(models, exported):
    head = segments.head(3)
    boxes, scores, labels, counts = chain(models, exported.images, 3, lambda model: model)[head]
    found = chain(models, exported.images, 3, to_half)[head]
    near = np.abs(boxes[:, :, None] - found[0][:, None]).max(-1) < 1.0
    near &= np.abs(scores[:, :, None] - found[1][:, None]) < 0.02
    near &= labels[:, :, None] == found[2][:, None]
    assert counts.min() > 10
    assert near.any(-1).mean() > 0.9


def test_the_float32_form_computes_the_same_bits(models, exported):
    for size in (1, 3):
        expected = chain(models, exported.images[:size], 2, lambda model: model)
        actual = chain(models, exported.images[:size], 2, to_float)
        for segment, outputs in expected.items():
            for before, after in zip(outputs, actual[segment], strict=True):
                np.testing.assert_array_equal(before, after)


def test_convolutions_are_in_half_and_tails_are_not(models):
    for segment, model in models.items():
        half = to_half(model)
        in_half = {node.name for node in half_nodes(half)}
        convolutions = [node.name for node in half.graph.node if node.op_type == "Conv"]
        assert convolutions
        assert set(convolutions) <= in_half
        if segment.head:
            last = max(i for i, node in enumerate(half.graph.node) if node.op_type == "Conv")
            tail = half.graph.node[last + 1 :]
            # What the last convolution of one level feeds may stand before that of another.
            decisions = [node for node in tail if node.op_type not in ("Mul", "Add", "Relu")]
            assert {"TopK", "Exp", "Sigmoid", "ReduceMax"} <= {n.op_type for n in decisions}
            assert not in_half.intersection(node.name for node in decisions)
            kinds = {node.op_type for node in half.graph.node if node.name in in_half}
            assert kinds <= {"Conv", "Mul", "Add", "Relu"}


def test_features_are_half_images_uint8_and_detections_unchanged(models):
    kinds = {"features": TensorProto.FLOAT16, "images": TensorProto.UINT8}
    for segment, model in models.items():
        half = to_half(model)
        source = "images" if segment.start == segments.IMAGE else "features"
        given = {port.type.tensor_type.elem_type for port in half.graph.input}
        assert given == {kinds[source]}
        taken = [port.type.tensor_type.elem_type for port in half.graph.output]
        if segment.head:
            before = [port.type.tensor_type.elem_type for port in model.graph.output]
            assert taken == before
        else:
            assert set(taken) == {TensorProto.FLOAT16}


def test_pixels_are_cast_first_and_normalised_in_float32(models):
    half = to_half(models[segments.STEM])
    (image,) = [port.name for port in half.graph.input]
    (first,) = [node for node in half.graph.node if image in node.input]
    assert first.op_type == "Cast"
    in_half = {node.name for node in half_nodes(half)}
    normalising = [node for node in half.graph.node if node.op_type in ("Sub", "Div")]
    assert len(normalising) == 2
    assert not in_half.intersection(node.name for node in normalising)


def test_nothing_is_left_that_depends_on_shapes_or_constants_alone(models):
    for model in models.values():
        for converted in (to_float(model), to_half(model)):
            kinds = {node.op_type for node in converted.graph.node}
            assert not kinds & {"Shape", "Constant", "ConstantOfShape", "Trilu", "Range"}
            constants = {tensor.name for tensor in converted.graph.initializer}
            assert not [n for n in converted.graph.node if constants.issuperset(n.input)]


def test_kernels_are_stored_once_in_the_type_they_are_used_in(models):
    for model in models.values():
        tensors = {tensor.name: tensor for tensor in to_half(model).graph.initializer}
        used = {n.input[1] for n in to_half(model).graph.node if n.op_type == "Conv"}
        assert {tensors[name].data_type for name in used} == {TensorProto.FLOAT16}
        contents = [tensors[name].raw_data for name in used]
        assert len(contents) == len(set(contents))


def test_the_original_is_left_alone(models):
    for model in models.values():
        before = model.SerializeToString(deterministic=True)
        to_half(model)
        assert model.SerializeToString(deterministic=True) == before


def test_scales_that_half_precision_cannot_hold_are_refused():
    """A convolution with a quantised input of a tiny scale."""
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, 4, 4])
        for name in ("p3", "p3_out")
    ]
    constants = {
        "scale": np.float32(1e-8),
        "zero": np.int8(0),
        "kernel": np.ones((1, 1, 1, 1), np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["p3", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Conv", ["d", "kernel"], ["p3_out"]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "tiny", ports[:1], ports[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ValueError, match="scale scale is too small for half"):
        to_half(model)
