"""What a conversion to half precision has converted."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from builder.exporting.half_precision import HALF, _inferred


def half_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Return the nodes of a typed model that have a float16 result."""
    halves = {port.name for port in _inferred(model) if port.type.tensor_type.elem_type == HALF}
    return (node for node in model.graph.node if halves.intersection(node.output))
