"""Nodes with graphs inside them: the branches of ``If``.

A branch reads tensors of the graph around it by their names, without their being inputs of the
node. Whoever asks what a node reads must look inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import onnx


def branches_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node has as attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def with_inner(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes, and those in their branches, and so on."""
    for node in nodes:
        yield node
        for branch in branches_of(node):
            yield from with_inner(branch.node)


def inputs_of(node: onnx.NodeProto) -> list[str]:
    """Return the names of all that a node reads, itself or in its branches."""
    names = [name for name in node.input if name]
    for branch in branches_of(node):
        read = [name for inner in branch.node for name in inputs_of(inner)]
        read += [port.name for port in branch.output]
        made = {name for inner in branch.node for name in inner.output}
        made |= {tensor.name for tensor in branch.initializer}
        names += [name for name in read if name not in made]
    return names


def rename(node: onnx.NodeProto, renamed: Callable[[str], str]) -> None:
    """Call everything that a node reads or gives, and whatever is inside it, otherwise."""
    node.name = node.name and renamed(node.name)
    for names in (node.input, node.output):
        names[:] = [name and renamed(name) for name in names]
    for branch in branches_of(node):
        for named in (*branch.initializer, *branch.input, *branch.output):
            named.name = renamed(named.name)
        del branch.value_info[:]
        for inner in branch.node:
            rename(inner, renamed)
