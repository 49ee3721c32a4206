"""Composition of ONNX models: one from several in a row, as fused segments are from unit segments.

It works on the protobuf messages themselves and so imports nothing: runners that compose when they
load, and the builder, share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def compose(parts: Sequence[Any]) -> Any:
    """Return an ``onnx.ModelProto`` that feeds each part's outputs to the next part's inputs.

    ``parts`` are in their order. The whole's inputs are called as those of the first part, its
    outputs as those of the last; all other names get the part's number in front, in branches as
    well. Parts are left alone. Raises ValueError when the parts' operator sets or the number of
    their ports differ.
    """
    first, last = parts[0], parts[-1]
    opsets = [{(entry.domain, entry.version) for entry in part.opset_import} for part in parts]
    if any(opset != opsets[0] for opset in opsets):
        raise ValueError(f"parts of different operator sets: {opsets}")
    whole = type(first)()
    whole.ir_version = max(part.ir_version for part in parts)
    whole.opset_import.extend(first.opset_import)
    whole.graph.name = "/".join(part.graph.name for part in parts)
    whole.graph.input.extend(first.graph.input)
    whole.graph.output.extend(last.graph.output)
    feeds = [port.name for port in first.graph.input]
    for number, part in enumerate(parts):
        names = dict(zip((port.name for port in part.graph.input), feeds, strict=True))
        if part is last:
            names.update((port.name, port.name) for port in part.graph.output)
        _append(whole.graph, part.graph, names, f"{number}/")
        feeds = [names.get(port.name, f"{number}/{port.name}") for port in part.graph.output]
    return whole


def _append(graph: Any, part: Any, names: Mapping[str, str], prefix: str) -> None:
    """Add what is in ``part`` to ``graph``, called by ``names`` or with ``prefix`` in front."""

    def rename(name: str) -> str:
        return names.get(name, prefix + name) if name else name  # "" is an input left out

    for node in part.node:
        copied = graph.node.add()
        copied.CopyFrom(node)
        _rename(copied, rename, prefix)
    for tensor in part.initializer:
        copied = graph.initializer.add()
        copied.CopyFrom(tensor)
        copied.name = rename(tensor.name)


def _rename(node: Any, rename: Callable[[str], str], prefix: str) -> None:
    """Call what a node reads and gives otherwise, and so inside its branches."""
    node.name = node.name and prefix + node.name
    node.input[:] = [rename(name) for name in node.input]
    node.output[:] = [rename(name) for name in node.output]
    for branch in (each.g for each in node.attribute if each.HasField("g")):
        del branch.value_info[:]
        for named in (*branch.initializer, *branch.output):
            named.name = rename(named.name)
        for inner in branch.node:
            _rename(inner, rename, prefix)
