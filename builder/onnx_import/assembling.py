"""Segments around a graph that others made: pixels before it, boxes behind it, boundaries in it.

    stem      images uint8 -> pixels as the network wants them -> its nodes -> feature_0, ...
    stack k   feature_0, ... -> its nodes -> the same ports
    head k    feature_0, ... -> its nodes -> boxes, scores, labels, counts

Features cross a boundary as float32, whatever type they are in inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from builder.exporting.contract import DETECTIONS, IMAGES
from builder.onnx_import.boundary import Tensor
from builder.onnx_import.branches import rename
from builder.onnx_import.cutting import Names, assign_slots, cut
from builder.onnx_import.errors import ForeignModelError
from builder.onnx_import.graphs import Operators, batched, make_segment, port
from builder.onnx_import.layouts import Preprocessing
from builder.onnx_import.postprocessing import Selection, add_detections, num_detections
from builder.onnx_import.reading import opset_of
from builder.onnx_import.recognising import Reading
from builder.onnx_import.sizing import ImageInput, Size
from serving.core import segment as segments

NET = "net/"
"""Prefix of all names of the graph that others made, so that they meet no other."""


@dataclass(frozen=True)
class Plan:
    """All that segments of one input size are made of."""

    model: onnx.ModelProto
    """The graph at this size, for any number of images or for one."""
    image: ImageInput
    size: Size
    preprocessing: Preprocessing
    exits: Sequence[Names]
    """Tensors that each exit ends in."""
    tensors: Mapping[str, Tensor]
    """What crosses boundaries, by name."""
    readings: Sequence[Reading]
    """How the outputs of each exit are read."""
    selection: Selection
    max_batch: int | None
    """1: one image at a time; None: any number."""

    @property
    def max_detections(self) -> int:
        """Most boxes that an exit gives for one image."""
        return max(
            num_detections(reading.num_rows, reading.layout, reading.numbers, self.selection)
            for reading in self.readings
        )


def make_segments(plan: Plan) -> dict[str, onnx.ModelProto]:
    """Return the unit segments, by name."""
    return _Assembly(plan).make()


class _Assembly:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._opset = opset_of(plan.model)
        self._cut = cut(plan.model.graph, plan.image.name, plan.exits)
        shapes = {name: tensor.shape for name, tensor in plan.tensors.items()}
        self._slots, self._held = assign_slots(self._cut.live, shapes)
        self._weights = {
            f"{NET}{tensor.name}": _renamed(tensor) for tensor in plan.model.graph.initializer
        }

    def make(self) -> dict[str, onnx.ModelProto]:
        made = {segments.STEM.name: self._stem()}
        for depth in range(1, len(self._plan.readings) + 1):
            made[segments.stack(depth).name] = self._stack(depth)
            made[segments.head(depth).name] = self._head(depth)
        return made

    # -- segments -----------------------------------------------------------------------------

    def _stem(self) -> onnx.ModelProto:
        plan = self._plan
        before, after = Operators("pixels", self._opset), Operators("out", self._opset)
        before.named(_pixels(before, plan), f"{NET}{plan.image.name}")
        self._give(after, 0, "")
        height, width = plan.size
        images = port(IMAGES, TensorProto.UINT8, batched(plan.max_batch, height, width, 3))
        return self._segment(
            segments.STEM.name, (before, self._cut.trunk[0], after), [images], self._ports("")
        )

    def _stack(self, depth: int) -> onnx.ModelProto:
        before, after = Operators("in", self._opset), Operators("out", self._opset)
        self._take(before, depth - 1)
        self._give(after, depth, "_out")
        parts = (before, self._cut.trunk[depth], after)
        return self._segment(
            segments.stack(depth).name, parts, self._ports(""), self._ports("_out")
        )

    def _head(self, depth: int) -> onnx.ModelProto:
        plan, reading = self._plan, self._plan.readings[depth - 1]
        before, after = Operators("in", self._opset), Operators("boxes", self._opset)
        self._take(before, depth)
        outputs = [after.cast(f"{NET}{name}", TensorProto.FLOAT) for name in reading.outputs]
        add_detections(
            after,
            outputs,
            reading.layout,
            reading.numbers,
            plan.size,
            reading.num_rows,
            plan.selection,
        )
        parts = (before, self._cut.heads[depth - 1], after)
        count = num_detections(reading.num_rows, reading.layout, reading.numbers, plan.selection)
        dims = ((count, 4), (count,), (count,), ())
        kinds = (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT32)
        results = [
            port(name, kind, batched(plan.max_batch, *dim))
            for name, kind, dim in zip(DETECTIONS, kinds, dims, strict=True)
        ]
        return self._segment(segments.head(depth).name, parts, self._ports(""), results)

    # -- boundaries -----------------------------------------------------------------------------

    def _ports(self, suffix: str) -> list[onnx.ValueInfoProto]:
        return [
            port(
                f"{_feature(slot)}{suffix}",
                TensorProto.FLOAT,
                batched(self._plan.max_batch, *shape),
            )
            for slot, shape in enumerate(self._slots)
        ]

    def _take(self, ops: Operators, depth: int) -> None:
        """Call features by the names of what they are at ``depth``."""
        for slot, name in self._held[depth].items():
            kind = self._plan.tensors[name].element_type
            ops.named(ops.cast(_feature(slot), kind), f"{NET}{name}")

    def _give(self, ops: Operators, depth: int, suffix: str) -> None:
        """Name what there is at ``depth`` as features; a slot without news goes on as it was."""
        held = self._held[depth]
        before = self._held[depth - 1] if depth else {}
        for slot, shape in enumerate(self._slots):
            if slot in held and before.get(slot) != held[slot]:
                given = self._as_feature(ops, held[slot])
            else:
                given = _feature(slot) if depth else _zeros(ops, shape)
            ops.named(given, f"{_feature(slot)}{suffix}")

    def _as_feature(self, ops: Operators, name: str) -> str:
        tensor = self._plan.tensors[name]
        given = ops.cast(f"{NET}{name}", TensorProto.FLOAT)
        if tensor.rows_vary:
            rows, *columns = tensor.shape
            padding = ops.constant(np.zeros((rows, *columns)))
            if tensor.has_batch:
                given = ops.without_axis(given, 0)
            given = ops.columns(ops("Concat", given, padding, axis=0), 0, rows, axis=0)
        if tensor.rows_vary or not tensor.has_batch:
            images = -1 if self._plan.max_batch is None else self._plan.max_batch
            given = ops.reshape(given, images, *tensor.shape)
        return given

    def _segment(
        self,
        name: str,
        parts: tuple[Operators, Sequence[onnx.NodeProto], Operators],
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.ModelProto:
        before, nodes, after = parts
        weights = {**self._weights, **before.initializers, **after.initializers}
        every = [*before.nodes, *map(_renamed, nodes), *after.nodes]
        return make_segment(name, every, weights, inputs, outputs, self._plan.model)


def _feature(slot: int) -> str:
    return f"feature_{slot}"


def _renamed(named: onnx.NodeProto | TensorProto) -> onnx.NodeProto | TensorProto:
    """Return a copy of a node or a weight whose names begin with ``NET``."""
    copied = type(named)()
    copied.CopyFrom(named)
    if isinstance(copied, onnx.NodeProto):
        rename(copied, f"{NET}{{}}".format)
    else:
        copied.name = f"{NET}{named.name}"
    return copied


def _pixels(ops: Operators, plan: Plan) -> str:
    """Return the image as the network takes it."""
    image, wanted = plan.image, plan.preprocessing
    mean, std = np.array(wanted.mean), np.array(wanted.std)
    factor, offset = wanted.scale / std, -mean / std
    pixels = IMAGES
    if image.element_type != TensorProto.UINT8:
        pixels = ops.cast(pixels, TensorProto.FLOAT)
    elif (factor != 1).any() or offset.any():
        raise ForeignModelError(
            f"its input is {image}: it takes pixels without --scale, --mean, --std"
        )
    if wanted.color == "bgr":
        pixels = ops("Gather", pixels, ops.constant([2, 1, 0], np.int64), axis=3)
    if (factor != 1).any():
        pixels = ops("Mul", pixels, ops.constant(factor))
    if offset.any():
        pixels = ops("Add", pixels, ops.constant(offset))
    if not image.channels_last:
        pixels = ops("Transpose", pixels, perm=[0, 3, 1, 2])
    if image.element_type == TensorProto.FLOAT16:
        pixels = ops.cast(pixels, TensorProto.FLOAT16)
    return pixels if image.has_batch else ops.without_axis(pixels, 0)


def _zeros(ops: Operators, shape: tuple[int, ...]) -> str:
    """Return (B, *shape) of zeros, as many as there are images."""
    zero, one = (ops.constant([value], np.int64) for value in (0, 1))
    images = ops("Slice", ops("Shape", IMAGES), zero, one)
    whole = ops("Concat", images, ops.constant(shape, np.int64), axis=0)
    return ops("Expand", ops.constant(np.zeros([1] * (len(shape) + 1))), whole)
