"""Weights of several ONNX models in one file beside them, equal ones once.

    stem.172x172.onnx  stem.300x300.onnx  head_1.172x172.onnx ... ---> weights.bin

Segments of the same detector at several input sizes have the same kernels and biases. In ONNX's
terms these are *external data*: a model says in which file beside it, where and how long.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import external_data_helper

MIN_BYTES = 1024
"""Size of the smallest tensor that is moved.

What shapes are computed from is smaller, and must be found in the model itself.
"""

ALIGNMENT = 64
"""Multiple of bytes at which each tensor begins, so that a mapped file can be read as it is."""


def share_weights(paths: Sequence[Path], weights: Path) -> None:
    """Move the larger tensors of the models in ``paths`` into the new file ``weights``.

    It must be in the folder of each model. Whoever has an earlier file of this name mapped into
    memory keeps that one. Raises OSError where nothing can be written.
    """
    places: dict[bytes, int] = {}
    partial = weights.with_name(f"{weights.name}.partial")
    with partial.open("wb") as file:
        for path in paths:
            model = onnx.load(path)
            for tensor in model.graph.initializer:
                data = tensor.raw_data
                if len(data) < MIN_BYTES:
                    continue
                if data not in places:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    places[data] = file.tell()
                    file.write(data)
                external_data_helper.set_external_data(
                    tensor, weights.name, offset=places[data], length=len(data)
                )
                tensor.ClearField("raw_data")
            path.write_bytes(model.SerializeToString(deterministic=True))
    partial.replace(weights)
