"""Torch programs as they are loaded: read, checked, and rewritten for a device and a precision.

    torch/<segment>.pt2  --read-->  float32 graph  --fold, lower-->  what runs

Exported graphs are float32 and keep a normalisation's scale and shift apart from the convolution
before it. *Folding* puts them into the kernel, or, where a kernel is shared between levels, into
one fused multiply-add. *Lowering* puts everything that descends from a convolution or from features
into the computing type, up to the cast back to float32 with which the tail of a head begins: what
selects, decodes and suppresses stays in float32, as do the pixels before the first convolution.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass
from torch.fx import Graph, GraphModule, Node

from serving.artifacts.torch_programs import FOLDER, RECORD, Programs
from serving.core.catalog import Catalog
from serving.core.segment import Segment

aten = torch.ops.aten

KERNEL, BIAS = 1, 2
"""Positions of kernel and bias among the arguments of a convolution."""


def load_programs(
    folder: Path,
    catalog: Catalog,
    wanted: Iterable[Segment],
    device: torch.device,
    dtype: torch.dtype,
) -> dict[Segment, GraphModule]:
    """Return the programs of these unit segments, which compute in ``dtype`` on ``device``.

    A program takes images (B, H, W, 3) uint8 or features (B, C, H, W) of ``dtype``; it gives
    features of ``dtype`` or detections. Weights that several segments have in common are in memory
    once. Raises OSError or ValueError if there are none, or none of this catalogue's model.
    """
    path = folder / FOLDER / catalog.file_name(RECORD)
    record = Programs.from_json(json.loads(path.read_bytes()))
    record.check(catalog)
    weights: dict[str, Tensor] = {}
    programs = {}
    for segment in wanted:
        entry = record.segments[segment.name]
        data = (folder / FOLDER / entry.file).read_bytes()
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise ValueError(f"{entry.file} is not the file that {path} describes")
        check_archive(data, entry.file)
        program = move_to_device_pass(torch.export.load(io.BytesIO(data)), device)
        exported = program.module(check_guards=False)
        # From here on a graph and its tensors, without the exporter's checks around it.
        graph = exported.graph
        tensors = {
            name: attrgetter(name)(exported).detach()
            for name in {str(node.target) for node in graph.find_nodes(op="get_attr")}
        }
        _fold_affine(graph, tensors)
        if dtype != torch.float32:
            _lower(graph, tensors, dtype)
        programs[segment] = _assemble(graph, tensors, weights)
    return programs


def check_archive(data: bytes, name: str) -> None:
    """Raise ValueError for a program with anything pickled in it.

    The library would unpickle it and with that run whatever it says. The builder writes tensors as
    plain bytes.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            path = member.filename.partition("/")[2]
            kind, _, file = path.removeprefix("data/").partition("/")
            if not path.startswith("data/"):
                continue
            if kind == "sample_inputs":
                plain = member.file_size == 0
            elif file.endswith(".json"):
                entries = json.loads(archive.read(member))["config"].values()
                plain = not any(entry["use_pickle"] for entry in entries)
            else:
                plain = file.startswith(("weight_", "tensor_"))
            if not plain:
                raise ValueError(f"{name} is refused: {path} is pickled")


# -- rewriting: ``tensors`` are those that the graph reads, by the names it reads them under -------


def _is_read(node: object) -> bool:
    """Return whether a node reads a tensor that the graph keeps."""
    return isinstance(node, Node) and node.op == "get_attr"


def _read(graph: Graph, tensors: dict[str, Tensor], name: str, value: Tensor, before: Node) -> Node:
    """Add a node that reads ``value``, from now on one of ``tensors``, and return it."""
    tensors[name] = value
    with graph.inserting_before(before):
        return graph.create_node("get_attr", name)


def _affine_user(node: Node | None, target: Any) -> Node | None:
    """Return the only user of ``node``, if it is a ``target`` of it and of a tensor."""
    if node is None or len(node.users) != 1:
        return None
    (user,) = node.users
    fits = user.target is target and user.args[0] is node and _is_read(user.args[1])
    return user if fits else None


def _fold_affine(graph: Graph, tensors: dict[str, Tensor]) -> None:
    """Fold scales and shifts that follow a convolution into it.

    Convolution, then scale, then shift become one convolution where its kernel is used once, else a
    convolution without bias and one fused multiply-add.
    """
    for conv in graph.find_nodes(op="call_function", target=aten.conv2d.default):
        mul = _affine_user(conv, aten.mul.Tensor)
        add = _affine_user(mul, aten.add.Tensor)
        if mul is None or add is None:
            continue
        x, kernel, bias, *rest = conv.args if len(conv.args) > BIAS else (*conv.args, None)
        scale, shift = tensors[mul.args[1].target], tensors[add.args[1].target]
        if bias is not None:
            shift = shift + tensors[bias.target].reshape(1, -1, 1, 1) * scale
        if len(kernel.users) == 1:
            folded = tensors[kernel.target] * scale.reshape(-1, 1, 1, 1)
            kernel = _read(graph, tensors, f"{conv.name}_kernel", folded, conv)
            bias = _read(graph, tensors, f"{conv.name}_bias", shift.flatten(), conv)
            with graph.inserting_before(conv):
                result = graph.call_function(conv.target, (x, kernel, bias, *rest))
        else:
            shift = _read(graph, tensors, f"{conv.name}_shift", shift, conv)
            with graph.inserting_before(add):
                plain = graph.call_function(conv.target, (x, kernel, None, *rest))
                result = graph.call_function(aten.addcmul.default, (shift, plain, mul.args[1]))
        add.replace_all_uses_with(result)
        for node in (add, mul, conv):
            graph.erase_node(node)


def _lower(graph: Graph, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Lower the graph: compute in ``dtype`` from convolutions and features on, until it casts."""
    lowered = {
        node for node in graph.find_nodes(op="placeholder") if node.meta["val"].is_floating_point()
    }
    kept = (aten.to.dtype, aten._assert_tensor_metadata.default)
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target in kept:
            continue
        convolves = node.target is aten.conv2d.default
        if not convolves and lowered.isdisjoint(node.all_input_nodes):
            continue
        for source in node.all_input_nodes:
            if _is_read(source):
                value = tensors[source.target].to(dtype)
                lower = _read(graph, tensors, f"{source.target}_lowered", value, node)
                node.replace_input_with(source, lower)
            elif convolves and source not in lowered:
                with graph.inserting_before(node):
                    cast = graph.call_function(aten.to.dtype, (source, dtype))
                node.replace_input_with(source, cast)
        lowered.add(node)


def _assemble(graph: Graph, tensors: dict[str, Tensor], weights: dict[str, Tensor]) -> GraphModule:
    """Return the module of ``graph``, with kernels channels last.

    A tensor that is equal to the one of its name in ``weights`` is that one; ``weights`` collects
    them.
    """
    for node in graph.find_nodes(op="call_function", target=aten._assert_tensor_metadata.default):
        graph.erase_node(node)  # they insist on the types of the exporter
    for node in graph.find_nodes(op="get_attr"):
        if not node.users:
            graph.erase_node(node)
    kernels = {
        node.args[KERNEL].target
        for node in graph.find_nodes(op="call_function", target=aten.conv2d.default)
    }
    used = {}
    for name in {str(node.target) for node in graph.find_nodes(op="get_attr")}:
        tensor = tensors[name]
        if name in kernels:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        known = weights.setdefault(name, tensor)
        used[name] = known if torch.equal(known, tensor) else tensor
    module = GraphModule(used, graph)
    graph.lint()
    return module
