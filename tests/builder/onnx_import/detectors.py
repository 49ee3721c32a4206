"""Tiny detectors as others export them: with known objects, or with random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from builder.onnx_import.layouts import BOXES, CLASSES, LABELS, OBJECTNESS, SCORES, Layout

SIDE = 64
STRIDES = (8, 16, 32)
NUM_ROWS = sum((SIDE // stride) ** 2 for stride in STRIDES)
NAMES = ("cat", "dog", "owl")
SMALL = 1e-4
"""Score of rows in which there is nothing."""


@dataclass(frozen=True)
class Thing:
    """An object that a detector finds, whatever the image: box xyxy in pixels."""

    label: int
    score: float
    box: tuple[float, float, float, float]


THINGS = (
    Thing(2, 0.9, (4.0, 8.0, 24.0, 40.0)),
    Thing(0, 0.7, (5.0, 8.0, 25.0, 40.0)),
    Thing(2, 0.6, (5.0, 8.0, 24.0, 40.0)),  # the first again
    Thing(1, 0.5, (30.0, 10.0, 60.0, 50.0)),
)


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def model_of(
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[TensorProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "net", list(inputs), list(outputs), list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def image_port(batch: int | str = "n", side: int | str = SIDE) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, side, side])


# -- known objects --------------------------------------------------------------------------------


def outputs_for(layout: Layout, things: Sequence[Thing] = THINGS) -> dict[str, np.ndarray]:
    """What a detector of this layout gives for one image with these objects, by output."""
    parts_of = {part for output in layout.outputs for part, _ in output.columns}
    has_objectness = OBJECTNESS in parts_of
    num_rows = NUM_ROWS * (3 if has_objectness and not layout.grids else 1)
    rows = {part: np.zeros((num_rows, width)) for part, width in ((BOXES, 4), (OBJECTNESS, 1))}
    wide = len(NAMES) + layout.last_is_background
    probabilities = np.full((num_rows, wide), SMALL)
    labels, scores = np.zeros(num_rows), np.full(num_rows, SMALL)
    rows[BOXES][:] = _as_in(layout, np.array([[0.0, 0.0, 1.0, 1.0]] * num_rows))
    rows[BOXES][: len(things)] = _as_in(layout, np.array([thing.box for thing in things]))
    rows[OBJECTNESS][:] = 0.95
    for row, thing in enumerate(things):
        labels[row], scores[row] = thing.label + layout.from_one, thing.score
        if thing.label < wide:
            probabilities[row, thing.label] = thing.score / (0.95 if has_objectness else 1.0)
    if layout.last_is_background:
        probabilities[:, -1] = 1 - probabilities[:, :-1].sum(axis=1)
    inverse = {
        "none": lambda p: p,
        "sigmoid": lambda p: np.log(p / (1 - p)),
        "softmax": lambda p: np.log(p) + 3.0,
    }[layout.activation]
    found = {}
    for output in layout.outputs:
        parts = []
        for part, width in output.columns:
            if part == SCORES:
                table = inverse(probabilities) if width == CLASSES else scores[:, None]
            else:
                table = labels[:, None] if part == LABELS else rows[part]
            parts.append(table if width else table[:, 0])
        array = np.concatenate(parts, axis=-1)
        if not layout.for_one_image:
            array = array[None]
        part_names = "+".join(part for part, _ in output.columns)
        name = output.names[0] if layout.by_name else part_names
        found[name] = array.swapaxes(1, 2) if output.axis == 1 else array
    return {name: array.astype(np.float32) for name, array in found.items()}


def _as_in(layout: Layout, corners: np.ndarray) -> np.ndarray:
    """Boxes in the convention of a layout, of the first rows."""
    x1, y1, x2, y2 = corners.T
    if layout.units == "shares":
        x1, y1, x2, y2 = (each / SIDE for each in (x1, y1, x2, y2))
    if layout.boxes == "yxyx":
        return np.stack([y1, x1, y2, x2], axis=1)
    if layout.boxes == "xywh":
        return np.stack([x1, y1, x2 - x1, y2 - y1], axis=1)
    if layout.boxes == "xyxy":
        return np.stack([x1, y1, x2, y2], axis=1)
    centred = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1)
    if layout.offsets:
        number = np.arange(len(corners))
        assert len(corners) <= SIDE // STRIDES[0] or len(corners) == NUM_ROWS
        cells = [
            (x, y, stride)
            for stride in layout.grids
            for y in range(SIDE // stride)
            for x in range(SIDE // stride)
        ]
        x, y, stride = np.array(cells, float)[number].T
        centred[:, 0], centred[:, 1] = centred[:, 0] / stride - x, centred[:, 1] / stride - y
        centred[:, 2:] = np.log(centred[:, 2:] / stride[:, None])
    return centred


def known_detector(
    layout: Layout, things: Sequence[Thing] = THINGS, opset: int = 17
) -> onnx.ModelProto:
    """A detector that finds the same things in every image."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Unsqueeze", ["zero", "axis_1"], ["zeros_1"]),
        helper.make_node("Unsqueeze", ["zeros_1", "axis_2"], ["zeros_2"]),
    ]
    weights = [
        numpy_helper.from_array(np.array(0, np.float32), "nothing"),
        numpy_helper.from_array(np.array([1]), "axis_1"),
        numpy_helper.from_array(np.array([2]), "axis_2"),
    ]
    outputs = []
    for name, array in outputs_for(layout, things).items():
        weights.append(numpy_helper.from_array(array, f"known_{name}"))
        zeros = "zero" if layout.for_one_image else f"zeros_{array.ndim - 1}"
        nodes.append(helper.make_node("Add", [f"known_{name}", zeros], [name]))
        dims = array.shape if layout.for_one_image else ["n", *array.shape[1:]]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    image = image_port(1 if layout.for_one_image else "n")
    return model_of(nodes, weights, [image], outputs, opset)


# -- random weights -------------------------------------------------------------------------------


def random_detector(
    side: int | str = SIDE,
    batch: int | str = "n",
    rows_of_batch: int = 0,
    change: Callable[[onnx.ModelProto], None] = lambda model: None,
) -> onnx.ModelProto:
    """A YOLOv8 with random weights, for an image from 0 to 1 of any side or of one.

    ``rows_of_batch``: what it reshapes the axis of images to; 0: as it is."""
    random = np.random.default_rng(0)
    width = 4 + len(NAMES)
    nodes, weights, flat = [], [], []
    for stride in STRIDES:
        kernel = random.normal(0, 4.0 / stride, (width, 3, stride, stride))
        kernel -= kernel.mean(axis=(1, 2, 3), keepdims=True)
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"kernel_{stride}"))
        target = np.array([rows_of_batch, width, -1])
        weights.append(numpy_helper.from_array(target, f"shape_{stride}"))
        nodes += [
            helper.make_node(
                "Conv", ["image", f"kernel_{stride}"], [f"map_{stride}"], strides=[stride, stride]
            ),
            helper.make_node("Reshape", [f"map_{stride}", f"shape_{stride}"], [f"rows_{stride}"]),
        ]
        flat.append(f"rows_{stride}")
    scale = np.array([SIDE] * 4 + [1] * len(NAMES), np.float32)[None, :, None]
    weights.append(numpy_helper.from_array(scale, "scale"))
    nodes += [
        helper.make_node("Concat", flat, ["raw"], axis=2),
        helper.make_node("Sigmoid", ["raw"], ["shares"]),
        helper.make_node("Mul", ["shares", "scale"], ["output0"]),
    ]
    output = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [batch, width, "rows"])
    made = model_of(nodes, weights, [image_port(batch, side)], [output])
    change(made)
    return made


def first_image(model: onnx.ModelProto) -> None:
    """Take the first image and decode it, as graphs do that were traced for one."""
    graph = model.graph
    ones = np.ones(NUM_ROWS, np.float32)
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(0), "first"),
            numpy_helper.from_array(np.array([0]), "front"),
            numpy_helper.from_array(ones, "ones"),
        ]
    )
    graph.node.append(helper.make_node("Gather", ["output0", "first"], ["table"], axis=0))
    names = []
    for number in range(4 + len(NAMES)):
        number_of = numpy_helper.from_array(np.array(number), f"number_{number}")
        graph.initializer.append(number_of)
        graph.node.extend(
            [
                helper.make_node("Gather", ["table", number_of.name], [f"of_{number}"], axis=0),
                helper.make_node("Mul", [f"of_{number}", "ones"], [f"same_{number}"]),
                helper.make_node("Unsqueeze", [f"same_{number}", "front"], [f"row_{number}"]),
            ]
        )
        names.append(f"row_{number}")
    graph.node.append(helper.make_node("Concat", names, ["rows"], axis=0))
    graph.output[0].name = "rows"


def unbatched(model: onnx.ModelProto) -> None:
    """Take the first image, and put the axes of that in another order and back."""
    graph = model.graph
    graph.output[0].name = "rows"
    graph.initializer.append(numpy_helper.from_array(np.array(0), "first"))
    graph.node.extend(
        [
            helper.make_node("Gather", ["output0", "first"], ["table"], axis=0),
            helper.make_node("Transpose", ["table"], ["turned"], perm=[1, 0]),
            helper.make_node("Transpose", ["turned"], ["rows"], perm=[1, 0]),
        ]
    )


def branched(model: onnx.ModelProto) -> None:
    """Let dark images go another way than light ones, as torch does where rows may be missing."""
    graph = model.graph

    def branch(name: str, factor: float) -> onnx.GraphProto:
        return helper.make_graph(
            [helper.make_node("Mul", ["output0", f"{name}_factor"], [f"{name}_rows"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_rows", TensorProto.FLOAT, [None] * 3)],
            [numpy_helper.from_array(np.array(factor, np.float32), f"{name}_factor")],
        )

    graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "grey"))
    graph.node.extend(
        [
            helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
            helper.make_node("Greater", ["mean", "grey"], ["light"]),
            helper.make_node(
                "If",
                ["light"],
                ["rows"],
                then_branch=branch("light_branch", 1.0),
                else_branch=branch("dark_branch", 0.5),
            ),
        ]
    )
    graph.output[0].name = "rows"


def decoder_detector(num_exits: int = 3, num_queries: int = 12, width: int = 8) -> onnx.ModelProto:
    """A detector of layers that refine queries by what an encoder saw, with outputs of each: random
    weights, outputs ``logits_1``, ``boxes_1``, ``logits_2`` and so on."""
    random = np.random.default_rng(0)
    weights: list[TensorProto] = []

    def weight(name: str, *shape: int, scale: float = 0.5) -> str:
        array = random.normal(0, scale, shape).astype(np.float32)
        weights.append(numpy_helper.from_array(array, name))
        return name

    cells = (SIDE // 16) ** 2
    weights.append(numpy_helper.from_array(np.array([0, width, cells]), "flat"))
    kernel = random.normal(0, 0.25, (width, 3, 16, 16))
    kernel -= kernel.mean(axis=(1, 2, 3), keepdims=True)
    weights.append(numpy_helper.from_array(kernel.astype(np.float32), "kernel"))
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["map"], strides=[16, 16]),
        helper.make_node("Reshape", ["map", "flat"], ["memory"]),  # (n, width, cells)
        helper.make_node("MatMul", [weight("asked", num_queries, width), "memory"], ["seen_0"]),
        helper.make_node("Tanh", ["seen_0"], ["attended_0"]),
        helper.make_node("Transpose", ["memory"], ["values"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["attended_0", "values"], ["query_0"]),
    ]
    outputs = []
    for number in range(1, num_exits + 1):
        nodes += [
            helper.make_node("MatMul", [f"query_{number - 1}", "memory"], [f"seen_{number}"]),
            helper.make_node("Softmax", [f"seen_{number}"], [f"attended_{number}"], axis=2),
            helper.make_node("MatMul", [f"attended_{number}", "values"], [f"gathered_{number}"]),
            helper.make_node(
                "Add", [f"query_{number - 1}", f"gathered_{number}"], [f"query_{number}"]
            ),
            helper.make_node(
                "MatMul",
                [f"query_{number}", weight(f"of_class_{number}", width, len(NAMES))],
                [f"logits_{number}"],
            ),
            helper.make_node(
                "MatMul",
                [f"query_{number}", weight(f"of_box_{number}", width, 4)],
                [f"raw_{number}"],
            ),
            helper.make_node("Sigmoid", [f"raw_{number}"], [f"boxes_{number}"]),
        ]
        outputs += [
            helper.make_tensor_value_info(
                f"{name}_{number}", TensorProto.FLOAT, ["n", num_queries, columns]
            )
            for name, columns in (("logits", len(NAMES)), ("boxes", 4))
        ]
    return model_of(nodes, weights, [image_port()], outputs)
