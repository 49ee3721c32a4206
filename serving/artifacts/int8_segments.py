"""Int8 segments: where they lie beside the catalogue, and the record that says of which weights.

<model>_anytime/1/catalog.json
                  int8/quantized.json, stem.onnx, stack_1.onnx, ..., head_N.onnx     for CPUs
                  tensorrt/int8/...                                 the same numbers, for TensorRT
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

CPU_FOLDER = "int8"
TENSORRT_FOLDER = "tensorrt/int8"
MANIFEST = "quantized.json"


@dataclass(frozen=True)
class Quantized:
    """``quantized.json``."""

    model_digest: str
    """``Catalog.digest`` of the segments that were quantised."""
    num_images: int
    runtime: str
    """What calibrated, with its version."""


def read_quantized(folder: Path, model_digest: str) -> Quantized:
    """The record in ``folder``. Raises ValueError if there is none, or one of other weights."""
    path = folder / MANIFEST
    try:
        record = Quantized(**json.loads(path.read_text()))
    except FileNotFoundError:
        raise ValueError(
            f"there are no quantised segments in {folder}: calibrate them on images first "
            "(punctual build --calibration-images)"
        ) from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    if record.model_digest != model_digest:
        raise ValueError(
            f"the quantised segments in {folder} were made of model {record.model_digest}, the "
            f"catalogue describes {model_digest}: calibrate again"
        )
    return record
