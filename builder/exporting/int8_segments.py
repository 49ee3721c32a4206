"""Int8 segments with explicit (de)quantisation, calibrated on images.

    images -> stem -> features -> stack 1 -> features -> ...    float32, on ONNX Runtime
                         |           |
                     ranges of what enters each convolution -> scales

Symmetric everywhere (zero points are 0): kernels have one scale for each output channel,
activations one for the whole tensor. Only what enters a convolution is quantised; what leaves it,
merges, and a head's tail are left to the precision around them. Files are float32 ONNX in operator
set 17; a builder that types strongly has ``half_precision.to_half`` put the rest into float16. CPU
runtimes get the same numbers in another form, see ``integer_kernels``.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from builder.exporting.half_precision import to_float
from builder.exporting.integer_kernels import fold_kernels
from builder.exporting.repository import sha256
from builder.exporting.shared_weights import share_weights
from serving.artifacts.int8_segments import CPU_FOLDER, MANIFEST, TENSORRT_FOLDER, Quantized
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.model_entry import ModelEntry
from serving.core.ports import Image
from serving.core.segment import Segment

MAX_IMAGES = 512
"""Most images used for calibration, which keeps the features of all of one depth in memory.

For the default model they take 2.6 MB an image.
"""

Features = Sequence[npt.NDArray[Any]]
"""Tensors that a segment takes or gives for one image, each (1, ...)."""

OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    # A kernel stays float and gets both nodes: what TensorRT's ONNX parser takes in every version.
    "AddQDQPairToWeight": True,
    # TensorRT takes no quantised bias; it adds it to the int32 sums anyway.
    "QuantizeBias": False,
    # The scale and shift, sum or activation behind a convolution can then be fused into it.
    "OpTypesToExcludeOutputQuantization": ["Conv"],
}


TARGETS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    TENSORRT_FOLDER: lambda model: model,
    CPU_FOLDER: fold_kernels,
}
"""Folders of quantised segments, and what is to be done to those that they hold."""


def quantize_segments(
    folder: Path, entry: ModelEntry, images: Mapping[str, Sequence[Image]]
) -> Path:
    """Quantise all unit segments in ``folder``; return the folder of those for TensorRT.

    Scales come from ``images`` of each input size, by its name, (H, W, 3) uint8 RGB as the input
    takes them; at most ``MAX_IMAGES`` of them are used. Writes a file for each segment, called as
    it is, and ``quantized.json`` into ``tensorrt/int8``, which is returned, and, for CPUs,
    ``int8``. Segments of several sizes share their weights there, as they do in ``folder``.

    Scales are the largest magnitude seen, over 127, of kernels over 64. Raises ValueError without
    images.
    """
    num_images = min(MAX_IMAGES, *(len(images[size]) for size in entry.sizes))
    if not num_images:
        raise ValueError("calibration needs at least one image")
    for target in TARGETS:
        (folder / target).mkdir(parents=True, exist_ok=True)
        (folder / target / MANIFEST).unlink(missing_ok=True)
    for catalog in entry.catalogs:
        _quantize_size(folder, catalog, images[catalog.size][:num_images])
    runtime = f"onnxruntime {onnxruntime.__version__}"
    for target in TARGETS:
        if (weights := entry.catalogs[0].weights) is not None:
            files = [
                folder / target / file.file
                for catalog in entry.catalogs
                for file in catalog.segments.values()
            ]
            share_weights(files, folder / target / weights.file)
        digests = {path.name: sha256(path) for path in _written(folder / target, entry)}
        record = Quantized(entry.digest, num_images, runtime, digests)
        (folder / target / MANIFEST).write_text(json.dumps(asdict(record), indent=2) + "\n")
    return folder / TENSORRT_FOLDER


def _written(target: Path, entry: ModelEntry) -> Iterator[Path]:
    """Yield the files in ``target``: those of all segments, and their weights if they share any."""
    for catalog in entry.catalogs:
        for segment in calibration_order(catalog.num_exits):
            yield target / catalog.segment_file(segment.name)
    if (weights := entry.catalogs[0].weights) is not None:
        yield target / weights.file


def _quantize_size(folder: Path, catalog: Catalog, images: Sequence[Image]) -> None:
    """Write the quantised segments of one input size, each with its weights inside."""
    inputs: list[Features] = [(image[None],) for image in images]
    for segment in calibration_order(catalog.num_exits):
        file = catalog.segments[segment.name].file
        model = to_float(onnx.load(folder / file))
        quantized = _quantize(model, inputs)
        for target, convert in TARGETS.items():
            onnx.save(convert(quantized), folder / target / file)
        if not segment.head:
            inputs = _run(model, inputs)


def calibration_order(num_exits: int) -> Iterator[Segment]:
    """Yield unit segments so that each one's inputs are what the last one without a head gave."""
    yield segments.STEM
    for depth in range(1, num_exits + 1):
        yield segments.stack(depth)
        yield segments.head(depth)


class _Reader(CalibrationDataReader):
    """One segment's feeds for ``quantize_static``, one image at a time."""

    def __init__(self, names: Sequence[str], inputs: Sequence[Features]) -> None:
        self._feeds = (dict(zip(names, arrays, strict=True)) for arrays in inputs)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        """Return the next feed; None at the end."""
        return next(self._feeds, None)


def _quantize(model: onnx.ModelProto, inputs: Sequence[Features]) -> onnx.ModelProto:
    names = [port.name for port in model.graph.input]
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        with _without_advice():
            quantize_static(
                source,
                target,
                _Reader(names, inputs),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                # Kernels of seven bits: a CPU without VNNI adds pairs of products up in 16 bits,
                # which those of eight overflow. On BCCD that cost up to .008 AP.
                reduce_range=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options=OPTIONS,
            )
        quantized = onnx.load(target)
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Silence the library's advice to run other optimisations of a model first.

    It gives two warnings a model. Those optimisations would fold the shared kernels apart.
    """

    def keep(record: logging.LogRecord) -> bool:
        return "pre-processing" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


def _run(model: onnx.ModelProto, inputs: Sequence[Features]) -> list[Features]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [port.name for port in session.get_inputs()]
    return [tuple(session.run(None, dict(zip(names, x, strict=True)))) for x in inputs]
