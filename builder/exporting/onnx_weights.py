"""Import of exported ONNX segments back as a detector: the weights of a model repository.

It serves a runtime that is built from torch and not from ONNX. What comes back is what was
exported, the frozen detector.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper

from builder.config.detector import DetectorConfig
from builder.modeling.architectures import AnyDetector, make_detector
from builder.modeling.frozen import freeze
from serving.core.catalog import Catalog

PREFIX, HALF = "detector.", "_half"
"""Prefix and suffix that the exporter puts around the name of a weight."""


def read_frozen(config: DetectorConfig, catalog: Catalog, folder: Path) -> AnyDetector:
    """Return the frozen detector with the weights of the segments in ``folder``.

    Its structure is ``config``. Raises OSError, or ValueError when the segments are not those of
    such a detector.
    """
    frozen = freeze(make_detector(config))
    wanted = frozen.state_dict()
    found = {}
    for entry in catalog.segments.values():
        named = _named_arrays(onnx.load(folder / entry.file).graph)
        found.update({name: torch.from_numpy(x) for name, x in named.items() if name in wanted})
    problems = [name for name in wanted if name not in found]
    problems += [name for name, x in found.items() if x.shape != wanted[name].shape]
    if problems:
        raise ValueError(
            f"the segments in {folder} are not those of the configuration {config.name!r}: "
            f"{len(problems)} weights are missing or of another shape, such as {problems[0]}"
        )
    frozen.load_state_dict(found)
    return frozen


def _named_arrays(graph: onnx.GraphProto) -> dict[str, npt.NDArray[np.float32]]:
    """Return the constants of a segment, widened, by their names in the detector."""
    arrays = {
        item.name.removesuffix(HALF): numpy_helper.to_array(item).astype(np.float32)
        for item in graph.initializer
    }
    for node in graph.node:  # equal weights are stored once, under one of their names
        if node.op_type == "Identity" and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]]
    return {name.removeprefix(PREFIX): array for name, array in arrays.items()}
