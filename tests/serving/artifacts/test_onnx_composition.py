"""One graph from several: names, order, and what cannot be put together."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from serving.artifacts.onnx_composition import compose


def model(operator: str, constant: float, source: str, target: str, opset: int = 17):
    """``target = source operator constant``, with the same inner names in every model."""
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2])
        for name in (source, target)
    ]
    nodes = [
        helper.make_node(operator, [source, "constant"], ["inner"], name="first"),
        helper.make_node("Clip", ["inner", "", "bound"], [target]),
    ]
    constants = {"constant": constant, "bound": 100.0}
    tensors = [numpy_helper.from_array(np.float32(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, operator, ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_each_part_takes_what_the_last_one_gave():
    parts = [model("Add", 1, "p3", "p3_out"), model("Mul", 10, "p3", "p3_out")]
    whole = compose([*parts, model("Sub", 3, "p3", "boxes")])
    onnx.checker.check_model(whole, full_check=True)
    (result,) = ReferenceEvaluator(whole).run(None, {"p3": np.array([[1, 200]], np.float32)})
    np.testing.assert_array_equal(result, [[17, 97]])


def test_inputs_and_outputs_keep_their_names_and_nothing_clashes():
    whole = compose([model("Add", 1, "images", "p3_out"), model("Mul", 2, "p3", "boxes")])
    assert [port.name for port in whole.graph.input] == ["images"]
    assert [port.name for port in whole.graph.output] == ["boxes"]
    assert [node.name for node in whole.graph.node] == ["0/first", "", "1/first", ""]
    assert {tensor.name for tensor in whole.graph.initializer} == {
        "0/constant",
        "0/bound",
        "1/constant",
        "1/bound",
    }


def test_parts_are_left_alone():
    part = model("Add", 1, "p3", "p3_out")
    before = part.SerializeToString(deterministic=True)
    compose([part, part])
    assert part.SerializeToString(deterministic=True) == before


def test_one_part_is_itself():
    (result,) = ReferenceEvaluator(compose([model("Add", 1, "a", "b")])).run(
        None, {"a": np.zeros((1, 2), np.float32)}
    )
    np.testing.assert_array_equal(result, [[1, 1]])


def test_different_operator_sets_are_refused():
    with pytest.raises(ValueError, match="different operator sets"):
        compose([model("Add", 1, "a", "b"), model("Add", 1, "a", "b", opset=19)])
