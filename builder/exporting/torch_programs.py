"""Export of a detector as torch programs: one ``torch/<segment>.pt2`` per unit segment.

What is written is what the ONNX segments hold: float32, NCHW, the frozen detector. Precision,
layout and device are the runner's business. The batch is dynamic. A file holds the weights that
its segment uses, as plain bytes; nothing in it is pickled, and the runner refuses one where
something is.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from builder.exporting.repository import sha256
from builder.modeling.architectures import AnyDetector
from builder.modeling.frozen import example_inputs, freeze, segment_functions
from serving.artifacts.model_folders import read_catalog
from serving.artifacts.torch_programs import FOLDER, RECORD, Programs
from serving.core.catalog import SegmentFile

MAX_BATCH = 64
"""Most images that a program takes; runners stop earlier."""
EXAMPLE_BATCH = 2
"""Number of images in the batch that is traced: a batch of one would be taken for a constant."""


def export_programs(detector: AnyDetector, folder: Path) -> None:
    """Write the programs of ``detector`` beside the catalogue in ``folder``.

    The catalogue must be that of the same weights, and have the detector's input size; the names of
    the files carry it, if it has several. The record of the programs is written last and
    removed first, so that a build that was stopped leaves no set of files that looks whole. Raises
    OSError or ValueError when there is no catalogue.
    """
    height, width = detector.config.input_size
    catalog = read_catalog(folder, f"{width}x{height}")
    target = folder / FOLDER
    target.mkdir(exist_ok=True)
    path_of_record = target / catalog.file_name(RECORD)
    path_of_record.unlink(missing_ok=True)
    frozen = freeze(detector)
    files = {}
    for segment in segment_functions(frozen):
        path = target / catalog.file_name(f"{segment.name}.pt2")
        # Every weight of a module costs time to export, used or not.
        alone = copy.deepcopy(frozen)
        module = segment_functions(alone)[segment]
        inputs = tuple(
            x.expand(EXAMPLE_BATCH, *x.shape[1:]).clone() for x in example_inputs(alone, segment)
        )
        _strip(module, inputs)
        torch.export.save(_export(module, inputs), path)
        files[segment.name] = SegmentFile(path.name, sha256(path))
    record = Programs(str(torch.__version__), catalog.digest, files)
    path_of_record.write_text(json.dumps(record.to_json(), indent=2) + "\n")


def _strip(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Delete the weights of submodules that ``module`` does not call."""
    called = set()
    hooks = [
        part.register_forward_pre_hook(lambda called_part, _: called.add(called_part))
        for part in module.modules()
    ]
    with torch.inference_mode():
        module(*inputs)
    for hook in hooks:
        hook.remove()
    for part in module.modules():
        if isinstance(part, AnyDetector) or part in called:
            continue
        tensors = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
        for name, _ in tensors:
            delattr(part, name)


def _export(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """Return the program of ``module``, with a dynamic batch."""
    batch = Dim("batch", min=1, max=MAX_BATCH)
    # Positional inputs are one argument, ``*inputs``.
    shapes = (tuple({0: batch} for _ in inputs),)
    program = torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
    program.example_inputs = None  # they would be in the file, pickled
    graph, signature = program.graph_module.graph, program.graph_signature
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node, spec in zip(placeholders, list(signature.input_specs), strict=True):
        if spec.kind is not InputKind.USER_INPUT and not node.users:
            graph.erase_node(node)
            signature.input_specs.remove(spec)
            program.state_dict.pop(spec.target, None)
            program.constants.pop(spec.target, None)
    program.graph_module.recompile()
    return program
