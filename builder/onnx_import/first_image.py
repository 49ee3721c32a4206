"""A graph that takes the first image of a batch, made to go on with all of them.

Who decodes boxes in Python writes ``boxes[0]``, and what is traced then has one image for ever. The
tensors behind that lack the axis of images; here they get it back, in front. That is possible as
long as operators work on each number, or on axes that they name.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, helper, numpy_helper

ELEMENTWISE = frozenset(
    [
        "Abs",
        "Add",
        "Cast",
        "Ceil",
        "Clip",
        "Div",
        "Exp",
        "Floor",
        "Identity",
        "Log",
        "Max",
        "Min",
        "Mul",
        "Neg",
        "Pow",
        "Reciprocal",
        "Relu",
        "Round",
        "Sigmoid",
        "Sqrt",
        "Sub",
        "Tanh",
    ]
)
"""Operators that work on each number, whatever the axes."""
BY_AXIS = frozenset(("Concat", "Gather", "Softmax"))
"""Operators that work along the one axis which an attribute names."""
BY_AXES = frozenset(("Squeeze", "Unsqueeze"))
"""Operators that work on the axes which their second input names."""

Constants = Mapping[str, npt.NDArray[np.int64]]


def with_all_images(
    graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...] | None], constants: Constants
) -> bool:
    """Let ``graph``, for one image, go on with all images where it takes the first; say if it can.

    ``shapes`` are those for one image; without an axis of images, of what is behind such a place.
    A graph that cannot be changed is left as it was.
    """
    changed = onnx.GraphProto()
    changed.CopyFrom(graph)
    without: set[str] = set()  # tensors that lacked the axis
    for node in changed.node:
        if _takes_first(node, shapes, constants):
            without.add(node.output[0])
            whole = helper.make_node("Identity", node.input[:1], node.output, name=node.name)
            node.CopyFrom(whole)
        elif without.intersection(node.input):
            if not _shifted(changed, node, without, shapes, constants):
                return False
            without.update(node.output)
    if without:
        graph.CopyFrom(changed)
    return bool(without)


def _takes_first(
    node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...] | None], constants: Constants
) -> bool:
    """Return whether a node takes the first image of a tensor that has an axis of one."""
    if node.op_type != "Gather" or _axis(node) != 0 or node.input[1] not in constants:
        return False
    shape, index = shapes.get(node.input[0]), constants[node.input[1]]
    return bool(shape and len(shape) > 1 and shape[0] == 1 and index.shape == () and index == 0)


def _shifted(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    without: set[str],
    shapes: Mapping[str, tuple[int, ...] | None],
    constants: Constants,
) -> bool:
    """Let a node work on tensors with an axis more in front; return whether it can."""
    if node.op_type in ELEMENTWISE:
        # Beside a tensor of more axes, or of fewer that is behind the place too, the new one would
        # meet another.
        ranks = {name: len(shapes.get(name) or ()) for name in node.input}
        known = all(shapes.get(name) is not None for name in node.input)
        inner = {rank for name, rank in ranks.items() if name in without}
        return known and inner == {max(ranks.values())}
    if node.op_type in BY_AXIS:
        data = node.input[:1] if node.op_type == "Gather" else node.input
        if not without.issuperset(data) or without.intersection(set(node.input) - set(data)):
            return False
        axis = _axis(node)
        if axis >= 0:
            for attribute in [each for each in node.attribute if each.name == "axis"]:
                node.attribute.remove(attribute)
            node.attribute.append(helper.make_attribute("axis", axis + 1))
        return True
    if node.op_type in BY_AXES:
        if len(node.input) < 2 or node.input[1] not in constants or node.input[1] in without:
            return False
        axes = constants[node.input[1]]
        name = f"{node.output[0]}/axes_of_images"
        moved = np.where(axes < 0, axes, axes + 1)
        graph.initializer.append(numpy_helper.from_array(moved, name))
        node.input[1] = name
        return True
    return False


def _axis(node: onnx.NodeProto) -> int:
    """Return the attribute ``axis`` of a node; what it is without one."""
    usual = -1 if node.op_type == "Softmax" else 0
    stated = (x.i for x in node.attribute if x.name == "axis" and x.type == AttributeProto.INT)
    return next(stated, usual)
