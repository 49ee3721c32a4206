"""From what a detector gives to final boxes, in standard operators.

    outputs -> parts, by the layout -> boxes xyxy in pixels -> select, suppress -> boxes of a head

Suppression is the one of all heads: ``builder.modeling.postprocess`` explains the iteration, and a
test holds both to the same boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from builder.config.suppression import SUPPRESSION_ITERATIONS
from builder.exporting.contract import DETECTIONS
from builder.onnx_import.classes import ClassNumbers
from builder.onnx_import.graphs import Operators
from builder.onnx_import.layouts import BOXES, CLASSES, LABELS, OBJECTNESS, SCORES, Layout
from builder.onnx_import.sizing import Size


@dataclass(frozen=True)
class Selection:
    """Which boxes are answers."""

    score_threshold: float = 0.05
    iou_threshold: float = 0.55
    max_candidates: int = 256
    max_detections: int = 100


def num_candidates(num_rows: int, layout: Layout, numbers: ClassNumbers, chosen: Selection) -> int:
    """Return the number of boxes of one image among which a head chooses."""
    if layout.is_labelled:
        return num_rows
    most = chosen.max_detections if layout.suppressed else chosen.max_candidates
    return min(num_rows * len(numbers.classes), most)


def num_detections(num_rows: int, layout: Layout, numbers: ClassNumbers, chosen: Selection) -> int:
    """Return the most boxes that a head gives for one image."""
    return min(num_candidates(num_rows, layout, numbers, chosen), chosen.max_detections)


def grid_cells(size: Size, strides: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return the height, width and stride of each grid over an input of (height, width)."""
    return [(size[0] // stride, size[1] // stride, stride) for stride in strides]


def add_detections(
    ops: Operators,
    outputs: Sequence[str],
    layout: Layout,
    numbers: ClassNumbers,
    size: Size,
    num_rows: int,
    chosen: Selection,
) -> None:
    """Append what makes ``DETECTIONS`` of float32 outputs in the order of ``layout``.

    Each has an axis of images first, and ``num_rows`` rows.
    """
    parts = _parts(ops, outputs, layout, len(numbers.names) + layout.last_is_background)
    boxes = _corners(ops, parts[BOXES], layout, size)
    if layout.is_labelled:
        scores, labels = _labelled(ops, parts[SCORES], parts[LABELS], numbers)
    else:
        count = num_candidates(num_rows, layout, numbers, chosen)
        boxes, scores, labels = _candidates(ops, boxes, parts, layout, numbers, num_rows, count)
    limit = ops.constant([size[1], size[0], size[1], size[0]])
    boxes = ops("Min", ops("Max", boxes, ops.constant(0.0)), limit)
    valid = ops("Greater", scores, ops.constant(chosen.score_threshold))
    scores = ops("Mul", scores, ops.cast(valid, TensorProto.FLOAT))
    if not layout.suppressed:
        scores = ops("Mul", scores, _kept(ops, boxes, labels, count, chosen.iou_threshold))
    _final(ops, boxes, scores, labels, num_detections(num_rows, layout, numbers, chosen))


def _parts(
    ops: Operators, outputs: Sequence[str], layout: Layout, num_classes: int
) -> dict[str, str]:
    """Return the parts of all outputs by name.

    They are (B, N, columns), or (B, N) of scores beside labels and of labels.
    """
    parts = {}
    for given, output in zip(outputs, layout.outputs, strict=True):
        tensor = ops("Transpose", given, perm=[0, 2, 1]) if output.axis == 1 else given
        first = 0
        for part, count in output.columns:
            width = num_classes if count == CLASSES else count
            alone = len(output.columns) == 1
            found = tensor if alone else ops.columns(tensor, first, first + width)
            if layout.is_labelled and part in (SCORES, LABELS) and not alone:
                found = ops.without_axis(found, 2)
            parts[part] = found
            first += width
    return parts


def _corners(ops: Operators, boxes: str, layout: Layout, size: Size) -> str:
    """Return boxes (B, N, 4) xyxy in pixels of the input."""
    first, second = ops.columns(boxes, 0, 2), ops.columns(boxes, 2, 4)
    if layout.offsets:
        cells = [
            np.stack([*np.meshgrid(range(columns), range(rows)), np.full((rows, columns), stride)])
            for rows, columns, stride in grid_cells(size, layout.grids)
        ]
        table = np.concatenate([each.reshape(3, -1).T for each in cells])[None]  # (1, N, 3)
        corner, stride = ops.constant(table[..., :2]), ops.constant(table[..., 2:])
        first = ops("Mul", ops("Add", first, corner), stride)
        second = ops("Mul", ops("Exp", second), stride)
    if layout.boxes == "yxyx":
        order = ops.constant([1, 0], np.int64)
        first, second = (ops("Gather", each, order, axis=2) for each in (first, second))
    elif layout.boxes == "xywh":
        second = ops("Add", first, second)
    elif layout.boxes == "cxcywh":
        half = ops("Mul", second, ops.constant(0.5))
        first, second = ops("Sub", first, half), ops("Add", first, half)
    corners = ops("Concat", first, second, axis=2)
    if layout.units == "shares":
        height, width = size
        corners = ops("Mul", corners, ops.constant([width, height, width, height]))
    return corners


def _labelled(ops: Operators, scores: str, numbers: str, meant: ClassNumbers) -> tuple[str, str]:
    """Return scores (B, N) and served labels (B, N) int64; a number without a class scores 0."""
    whole = ops.cast(numbers, TensorProto.INT64)
    table = ops.constant([-1, *meant.labels, -1], np.int64)  # what is beyond is no class
    least, most = ops.constant(0, np.int64), ops.constant(len(meant.labels) + 1, np.int64)
    place = ops("Add", whole, ops.constant(1, np.int64))
    labels = ops("Gather", table, ops("Min", ops("Max", place, least), most), axis=0)
    known = ops("Greater", labels, ops.constant(-1, np.int64))
    return ops("Mul", scores, ops.cast(known, TensorProto.FLOAT)), labels


def _candidates(
    ops: Operators,
    boxes: str,
    parts: dict[str, str],
    layout: Layout,
    numbers: ClassNumbers,
    num_rows: int,
    count: int,
) -> tuple[str, str, str]:
    """Return the best K = ``count`` pairs of row and class, best first.

    They are boxes (B, K, 4), scores (B, K) and labels (B, K) int64.
    """
    scores = parts[SCORES]
    # A sigmoid keeps the order, so that only what is chosen by it needs it.
    late = layout.activation == "sigmoid" and OBJECTNESS not in parts
    if layout.activation == "softmax":
        scores = ops("Softmax", scores, axis=2)
    elif layout.activation == "sigmoid" and not late:
        scores = ops("Sigmoid", scores)
    if OBJECTNESS in parts:
        objectness = parts[OBJECTNESS]
        if layout.activation == "sigmoid":
            objectness = ops("Sigmoid", objectness)
        scores = ops("Mul", scores, objectness)
    if layout.last_is_background or len(numbers.kept) < len(numbers.names):
        scores = ops("Gather", scores, ops.constant(numbers.kept, np.int64), axis=2)
    num_classes = len(numbers.kept)
    if num_rows > count:
        # The best K pairs are in the K rows whose best class scores most.
        _, places = ops.best(ops.largest(scores, 2), count)
        scores, boxes = ops.rows(scores, places, num_classes), ops.rows(boxes, places, 4)
    values, index = ops.best(ops("Flatten", scores, axis=1), count)
    width = ops.constant(num_classes, np.int64)
    row = ops("Div", index, width)
    labels = ops("Sub", index, ops("Mul", row, width))
    return ops.rows(boxes, row, 4), ops("Sigmoid", values) if late else values, labels


def _kept(ops: Operators, boxes: str, labels: str, count: int, iou_threshold: float) -> str:
    """Return (B, K) float32, 1 for the rows that suppression keeps, best first."""
    sides = ops.several(4, "Split", boxes, ops.constant([1] * 4, np.int64), axis=2)
    down = [ops.without_axis(side, 2) for side in sides]  # each (B, K)
    one = [ops.with_axis(side, 2) for side in down]
    other = [ops.with_axis(side, 1) for side in down]
    zero = ops.constant(0.0)
    spans = [
        ops(
            "Max",
            ops("Sub", ops("Min", one[end], other[end]), ops("Max", one[at], other[at])),
            zero,
        )
        for at, end in ((0, 2), (1, 3))
    ]
    overlap = ops("Mul", *spans)  # (B, K, K)
    area = ops("Mul", ops("Sub", down[2], down[0]), ops("Sub", down[3], down[1]))
    areas = ops("Add", ops.with_axis(area, 2), ops.with_axis(area, 1))
    union = ops("Sub", areas, overlap)
    # A product instead of a quotient: two empty boxes have union 0 and suppress nothing.
    limit = ops("Mul", union, ops.constant(iou_threshold))
    same = ops("Equal", ops.with_axis(labels, 2), ops.with_axis(labels, 1))
    both = ops("And", ops("Greater", overlap, limit), same)
    matrix = ops(
        "Mul", ops.cast(both, TensorProto.FLOAT), ops.constant(np.triu(np.ones((count, count)), 1))
    )  # (B, K, K), 1 where row i suppresses column j
    one_less = ops.constant(1.0)
    keep = ops("Sub", one_less, ops.largest(matrix, 1))
    for _ in range(SUPPRESSION_ITERATIONS - 1):
        held = ops("Mul", matrix, ops.with_axis(keep, 2))
        keep = ops("Sub", one_less, ops.largest(held, 1))
    return keep


def _final(ops: Operators, boxes: str, scores: str, labels: str, count: int) -> None:
    """Append the outputs of a head: the best ``count`` rows, without those that score 0."""
    scores, order = ops.best(scores, count)
    valid = ops("Greater", scores, ops.constant(0.0))
    as_float = ops.cast(valid, TensorProto.FLOAT)
    boxes = ops("Mul", ops.rows(boxes, order, 4), ops.with_axis(as_float, 2))
    chosen = ops("GatherElements", labels, order, axis=1)
    one = ops.constant(1, np.int64)
    marked = ops("Mul", ops("Add", chosen, one), ops.cast(valid, TensorProto.INT64))
    counts = ops(
        "ReduceSum", ops.cast(valid, TensorProto.INT32), ops.constant([1], np.int64), keepdims=0
    )
    results = (boxes, scores, ops.cast(ops("Sub", marked, one), TensorProto.INT32), counts)
    for name, tensor in zip(DETECTIONS, results, strict=True):
        ops.named(tensor, name)
