"""Cost of exported segments in multiply-accumulates, whatever they were exported from."""

from __future__ import annotations

from math import prod
from pathlib import Path

import onnx
from onnx import GraphProto, shape_inference

from serving.core import segment as segments
from serving.core.catalog import Catalog


def exit_macs(catalog: Catalog, folder: Path) -> tuple[int, ...]:
    """Return the multiply-accumulates per image of the convolutions to each exit, one head each.

    Raises OSError without the segments.
    """
    of_segment = {
        name: segment_macs(folder / entry.file) for name, entry in catalog.segments.items()
    }
    return tuple(
        sum(of_segment[segment.name] for segment in segments.unit_path(depth))
        for depth in range(1, catalog.num_exits + 1)
    )


def segment_macs(path: Path) -> int:
    """Return the multiply-accumulates per image of the convolutions in an ONNX file."""
    graph = shape_inference.infer_shapes(onnx.load(path)).graph
    shapes = _shapes(graph)
    return sum(
        prod(shapes[node.output[0]][1:]) * prod(shapes[node.input[1]][1:])
        for node in graph.node
        if node.op_type == "Conv"
    )


def _shapes(graph: GraphProto) -> dict[str, list[int]]:
    """Return the shape of every tensor; an open dimension, such as the batch, is 0."""
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    return shapes | {weight.name: list(weight.dims) for weight in graph.initializer}
