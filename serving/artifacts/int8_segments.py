"""Int8 segments: where they lie beside the catalogue, and the record that says of which weights.

<model>_anytime/1/catalog.json
                  int8/quantized.json, stem.onnx, stack_1.onnx, ..., head_N.onnx     for CPUs
                  tensorrt/int8/...                                 the same numbers, for TensorRT
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serving.core.catalog import SegmentFile

CPU_FOLDER = "int8"
"""Folder of the segments for CPUs, beside the catalogue."""
TENSORRT_FOLDER = "tensorrt/int8"
"""Folder of the segments for TensorRT, beside the catalogue."""
MANIFEST = "quantized.json"
"""Name of the record in either folder."""


@dataclass(frozen=True)
class Quantized:
    """The record of quantised segments, ``quantized.json``."""

    model_digest: str
    """``Catalog.digest`` of the segments that were quantised."""
    num_images: int
    """Number of images that they were calibrated on."""
    runtime: str
    """Name and version of the runtime that calibrated."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 digest of each file, by its name, as hexadecimal digits."""

    def described(self, files: Iterable[SegmentFile]) -> tuple[SegmentFile, ...]:
        """Return these files as they are in this folder, where they are called the same.

        Raises ValueError for one that is not in the record.
        """
        for entry in files:
            if entry.file not in self.files:
                raise ValueError(
                    f"the quantised segments are of a version that kept no digest of {entry.file}: "
                    "calibrate again"
                )
        return tuple(SegmentFile(entry.file, self.files[entry.file]) for entry in files)


def read_quantized(folder: Path, model_digest: str) -> Quantized:
    """Return the record in ``folder``.

    Raises ValueError if there is none, or one of other weights.
    """
    path = folder / MANIFEST
    try:
        record = Quantized(**json.loads(path.read_text()))
        if not isinstance(record.files, dict):
            raise ValueError("its 'files' are no mapping")
    except FileNotFoundError:
        raise ValueError(
            f"there are no quantised segments in {folder}: calibrate them on images first "
            "(punctual build --calibration-images)"
        ) from None
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    if record.model_digest != model_digest:
        raise ValueError(
            f"the quantised segments in {folder} were made of model {record.model_digest}, the "
            f"catalogue describes {model_digest}: calibrate again"
        )
    return record
