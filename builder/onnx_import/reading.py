"""Reading of an ONNX file that nobody here has made, with limits.

Nothing in a file is executed while it is read, and nothing outside its folder is opened. What comes
back is one graph of ONNX's own operators, all of its weights inside, in an operator set that
segments can be made of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, checker, defs, helper, inliner, version_converter

from builder.exporting.contract import OPSET
from builder.onnx_import.branches import branches_of, inputs_of, with_inner
from builder.onnx_import.errors import ForeignModelError

MAX_BYTES = 2**31 - 1
"""Most bytes of a file and the weights beside it: what one message of protobuf can be."""
MAX_NODES = 100_000
"""Most operators of a graph; detectors have some hundreds or thousands."""
MAX_FUNCTIONS = 1_000
"""Most functions that operators may be called by; exporters of torch write some dozens."""
MAX_OUTPUTS = 64
"""Most outputs; detectors that give what every layer sees have a dozen or two."""
MIN_OPSET = 9
"""Oldest operator set that is raised to the one of segments."""

BRANCH = "If"
"""The only operator that may have graphs inside it: one of them runs, once."""
STANDARD = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""
MIN_IR = 8
"""Version of the file format that goes with the operator set of segments."""


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model in ``path``, whole, in operator set ``OPSET`` or the later one it is in.

    Raises OSError, and ForeignModelError for a file that is not ONNX, or a graph that segments
    cannot be made of.
    """
    try:
        model = _parse(path)
        _check_loops(model)
        _check_functions(model)
        _read_weights(model, path.parent)
        if model.functions:
            model = inliner.inline_local_functions(model)
            _check_loops(model)  # what an operator is given may be a graph, too
        _check_operators(model)
        _sort(model.graph)
        checker.check_model(model)
        return _raised(model)
    except checker.ValidationError as error:
        raise ForeignModelError(f"{path}: its graph is not valid: {_first_line(error)}") from error
    except ForeignModelError as error:
        raise ForeignModelError(f"{path}: {error}") from error


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model uses; 0 if it says none."""
    return max((x.version for x in model.opset_import if x.domain in STANDARD), default=0)


def _parse(path: Path) -> onnx.ModelProto:
    size = path.stat().st_size
    if not path.is_file():
        raise ForeignModelError("it is no file")
    if size > MAX_BYTES:
        raise ForeignModelError(f"it has {size} bytes, and no more than {MAX_BYTES} are read")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ForeignModelError("it is not ONNX, or not all of it") from error
    if not model.graph.node:
        raise ForeignModelError("it is not ONNX, or has no graph")
    if not 0 < len(model.graph.output) <= MAX_OUTPUTS:
        count = len(model.graph.output) or "no"
        raise ForeignModelError(f"its graph has {count} outputs; 1 to {MAX_OUTPUTS} are read")
    for port in (*model.graph.input, *model.graph.output):
        kind = port.type.WhichOneof("value")
        if kind not in (None, "tensor_type"):
            raise ForeignModelError(f"{port.name!r} is of {kind}, not a tensor")
    if len(model.graph.node) > MAX_NODES:
        raise ForeignModelError(
            f"its graph has {len(model.graph.node)} operators; no more than {MAX_NODES} are read"
        )
    return model


# -- weights beside the file ----------------------------------------------------------------------


_SPARSE = "it has sparse weights, which are not read"


def _read_weights(model: onnx.ModelProto, folder: Path) -> None:
    """Read the tensors that lie in other files into the model."""
    left = MAX_BYTES - model.ByteSize()
    for tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        data = _external(tensor, folder, left)
        left -= len(data)
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.DEFAULT
        tensor.raw_data = data


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the operators of the graph and of functions, and those in branches."""
    yield from with_inner(model.graph.node)
    for function in model.functions:
        yield from with_inner(function.node)


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    branches = [branch for node in _nodes(model) for branch in branches_of(node)]
    for graph in (model.graph, *branches):
        if graph.sparse_initializer:
            raise ForeignModelError(_SPARSE)
        yield from graph.initializer
    attributes = [node.attribute for node in _nodes(model)]
    attributes += [function.attribute_proto for function in model.functions]
    for attribute in (each for some in attributes for each in some):
        # By what is there, whatever the type says: not everybody who reads it looks at that.
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise ForeignModelError(_SPARSE)
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def _external(tensor: TensorProto, folder: Path, most: int) -> bytes:
    """Return the bytes of a tensor that lies in a file beside the model."""
    facts = {entry.key: entry.value for entry in tensor.external_data}
    location = facts.get("location", "")
    place = PurePosixPath(location)
    path = folder / place
    # A link may lead out of the folder as well as a name does.
    inside = path.resolve().is_relative_to(folder.resolve())
    if not location or "\\" in location or place.is_absolute() or ".." in place.parts or not inside:
        raise ForeignModelError(
            f"the weights {tensor.name!r} are said to be in {location!r}, which is not in the "
            "folder of the file"
        )
    if not path.is_file():
        raise ForeignModelError(f"the weights {tensor.name!r} are in {location}: it is not there")
    length = _num_bytes(tensor)
    try:
        offset, stated = (
            int(facts.get(key, usual)) for key, usual in (("offset", 0), ("length", length))
        )
    except ValueError as error:
        raise ForeignModelError(f"it is not said where in {location} {tensor.name!r} is") from error
    if stated != length or offset < 0 or offset + length > path.stat().st_size:
        raise ForeignModelError(
            f"the weights {tensor.name!r} should be {length} bytes from {offset} on in {location}, "
            "which has not so many there"
        )
    if length > most:
        raise ForeignModelError(f"its weights have more than {MAX_BYTES} bytes")
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _num_bytes(tensor: TensorProto) -> int:
    if any(dim < 0 for dim in tensor.dims):
        raise ForeignModelError(f"the weights {tensor.name!r} have the shape {list(tensor.dims)}")
    try:
        item = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError as error:
        raise ForeignModelError(f"the weights {tensor.name!r} are of no known type") from error
    return math.prod(tensor.dims) * int(item)


# -- operators ------------------------------------------------------------------------------------


def _check_loops(model: onnx.ModelProto) -> None:
    for node in _nodes(model):
        if node.op_type != BRANCH and any(branches_of(node)):
            raise ForeignModelError(
                f"it loops ({_called(node)}), and nobody knows how long: export it with constant "
                "shapes, or simplify it"
            )


def _check_functions(model: onnx.ModelProto) -> None:
    """Raise ForeignModelError for functions that call themselves, or more than can be inlined."""
    if len(model.functions) > MAX_FUNCTIONS:
        raise ForeignModelError(
            f"it has {len(model.functions)} functions; no more than {MAX_FUNCTIONS} are read"
        )
    waiting = {(x.domain, x.name, x.overload): x.node for x in model.functions}
    calls = {key: set(map(_function, with_inner(nodes))) for key, nodes in waiting.items()}
    counts: dict[tuple[str, str, str], int] = {}

    def inlined(nodes: Iterable[onnx.NodeProto]) -> int:
        every = (counts.get(_function(node), 1) for node in with_inner(nodes))
        return min(sum(every), MAX_NODES + 1)

    while waiting:
        ready = [key for key in waiting if not calls[key] & waiting.keys()]
        if not ready:
            raise ForeignModelError(f"its function {next(iter(waiting))[1]} calls itself")
        counts.update({key: inlined(waiting.pop(key)) for key in ready})
    if inlined(model.graph.node) > MAX_NODES:
        raise ForeignModelError(
            f"its graph has more than {MAX_NODES} operators, with those of its functions"
        )


def _function(node: onnx.NodeProto) -> tuple[str, str, str]:
    """Return what names the function that a node calls, if it calls one."""
    return node.domain, node.op_type, node.overload


def _check_operators(model: onnx.ModelProto) -> None:
    opset = opset_of(model)
    newest = defs.onnx_opset_version()
    if not MIN_OPSET <= opset <= newest:
        raise ForeignModelError(
            f"it is of operator set {opset or 'unknown'}; {MIN_OPSET} to {newest} are read"
        )
    for node in _nodes(model):
        if node.domain not in STANDARD or not defs.has(node.op_type, opset, ""):
            domain = f"{node.domain}." if node.domain else ""
            raise ForeignModelError(
                f"{domain}{node.op_type} ({_called(node)}) is no operator of ONNX's set {opset}: "
                "not every runtime has it"
            )


def _sort(graph: onnx.GraphProto) -> None:
    """Put nodes behind those that they read from, as ONNX wants it and not every exporter has it.

    Raises ForeignModelError for nodes that read from each other.
    """
    nodes = list(graph.node)
    readers: dict[str, list[int]] = {}
    made = {name for node in nodes for name in node.output if name}
    missing = []
    for index, node in enumerate(nodes):
        read = made.intersection(inputs_of(node))
        missing.append(len(read))
        for name in read:
            readers.setdefault(name, []).append(index)
    ready = [index for index, count in enumerate(missing) if not count]
    heapify(ready)
    order = []
    while ready:
        order.append(heappop(ready))
        for name in nodes[order[-1]].output:
            for index in readers.pop(name, ()):
                missing[index] -= 1
                if not missing[index]:
                    heappush(ready, index)
    if len(order) < len(nodes):
        left = min(set(range(len(nodes))) - set(order))
        raise ForeignModelError(f"its graph goes in a circle ({_called(nodes[left])})")
    if order != sorted(order):
        sorted_nodes = [nodes[index] for index in order]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in sorted_nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _called(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or list(node.output)!r}"


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in the operator set of segments, unless it is in a later one."""
    opset = opset_of(model)
    if opset < OPSET:
        branching = [node for node in model.graph.node if node.op_type == BRANCH]
        if branching:
            raise ForeignModelError(
                f"it branches ({_called(branching[0])}), and what is in branches cannot be raised "
                f"from operator set {opset} to {OPSET}: export it with that or a later one"
            )
        try:
            model = version_converter.convert_version(model, OPSET)
        except RuntimeError as error:
            raise ForeignModelError(
                f"operator set {opset} cannot be raised to {OPSET}: {_first_line(error)}"
            ) from error
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", max(opset, OPSET)))
    model.ir_version = max(model.ir_version, MIN_IR)
    for node in _nodes(model):
        node.domain = ""
    return model


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
