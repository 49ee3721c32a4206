"""Export of a trained detector as ONNX segments: ``stem``, ``stack_1..N`` and ``head_1..N``.

Opset 17, standard operators, fixed spatial sizes, dynamic batch. Features cross a boundary as
float32 NCHW here; each runtime puts its own type and layout in place of that. A head ends in final
boxes. Fused segments are compositions of these and are made where they run, so that every weight
is on disk once; convolution kernels are stored in half precision and widened by the graph.
"""

from __future__ import annotations

import statistics
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from builder.exporting.catalog import build_catalog
from builder.exporting.contract import DETECTIONS, IMAGES, OPSET
from builder.exporting.repository import sha256
from builder.modeling.architectures import AnyDetector
from builder.modeling.frozen import (
    MIN_HALF_ELEMENTS,
    TensorFunction,
    example_inputs,
    freeze,
    segment_functions,
)
from serving.core import segment as segments
from serving.core.catalog import SegmentFile, sized_file_name
from serving.core.command_errors import CommandFailed
from serving.core.ports import Clock
from serving.core.quantiles import quantile

__all__ = [
    "SegmentError",
    "build_catalog",
    "export_segments",
    "freeze",
    "measure_postprocess",
    "segment_functions",
    "verify_segments",
]

NOISE_SCALES = tuple(10.0**exponent for exponent in range(9))
"""Scales of the noise that heads are verified on, which are tried in turn.

An untrained head shrinks what passes its convolutions, a deep and narrow one the most.
"""
BATCH, HEAD_BATCH = 2, 5
"""Number of images that stem and stacks, and heads, are verified on."""

MAX_ERROR = 1e-3
"""Most error of a segment's output, relative to its largest value.

Float32 sums are in another order than torch's.
"""


class SegmentError(CommandFailed):
    """Error of an exported segment that does not compute what the detector computes.

    The message is one sentence.
    """


def segment_file(segment: segments.Segment, size: str | None) -> str:
    """Return the name of the file of a unit segment; of one input size of several, that of its."""
    name = f"{segment.name}.onnx"
    return name if size is None else sized_file_name(name, size)


def export_segments(
    detector: AnyDetector, folder: Path, size: str | None = None
) -> dict[str, SegmentFile]:
    """Write one file per unit segment into ``folder``, of the input size called so, if of several.

    Returns what a catalogue says about them. The detector is left as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    frozen = freeze(detector)
    files = {}
    for segment, module in segment_functions(frozen).items():
        path = folder / segment_file(segment, size)
        features = tuple(frozen.feature_shapes())
        _export(module, example_inputs(frozen, segment), features, segment, path)
        files[segment.name] = SegmentFile(path.name, sha256(path))
    return files


def _export(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    features: Sequence[str],
    segment: segments.Segment,
    path: Path,
) -> None:
    input_names = (IMAGES,) if segment.start == segments.IMAGE else features
    # An output may not be called like an input, and both are features in a stack.
    output_names = DETECTIONS if segment.head else tuple(f"{name}_out" for name in features)
    _trace(module, inputs, input_names, output_names, path)
    model = onnx.load(path)
    _restore_inputs(model.graph, input_names, inputs)
    with torch.inference_mode():
        shapes = [output.shape for output in module(*inputs)]
    for port, shape in zip(model.graph.output, shapes, strict=True):
        # The tracer does not see that top-k gives a constant number of rows.
        for dim, size in zip(port.type.tensor_type.shape.dim[1:], shape[1:], strict=True):
            dim.dim_value = size
    _store_kernels_in_half(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _restore_inputs(graph: onnx.GraphProto, names: Sequence[str], inputs: Sequence[Tensor]) -> None:
    """Put inputs back that the exporter left out because nothing reads them.

    Whoever runs segments hands over all features, in their order.
    """
    kept = {port.name: port for port in graph.input}
    ports = [
        kept.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *sizes])
        for name, sizes in ((name, x.shape[1:]) for name, x in zip(names, inputs, strict=True))
    ]
    del graph.input[:]
    graph.input.extend(ports)


def _trace(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    path: Path,
) -> None:
    """Write ``module`` as ONNX, with a dynamic batch."""
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated, but the only one that writes opset 17, which
        # TensorRT 8.6 needs; its tracer warns of shapes that are constant here by design.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            inputs,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_axes={name: {0: "batch"} for name in (*input_names, *output_names)},
        )


def _store_kernels_in_half(model: onnx.ModelProto) -> None:
    """Replace large convolution kernels by float16 ones, each followed by a cast to float32."""
    graph = model.graph
    kernels = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    casts = []
    for initializer in list(graph.initializer):
        array = numpy_helper.to_array(initializer)
        if initializer.name not in kernels or array.size < MIN_HALF_ELEMENTS:
            continue
        wide, half = initializer.name, f"{initializer.name}_half"
        graph.initializer.remove(initializer)
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float16), half))
        casts.append(helper.make_node("Cast", [half], [wide], to=TensorProto.FLOAT))
    for position, cast in enumerate(casts):
        graph.node.insert(position, cast)


def verify_segments(frozen: AnyDetector, folder: Path, size: str | None = None) -> dict[str, float]:
    """Run every exported segment on ONNX Runtime beside what ``freeze`` returned, and compare.

    The batch is ``BATCH`` or, for heads, ``HEAD_BATCH``.

    Returns the largest difference of each segment relative to its largest value. Raises
    SegmentError beyond ``MAX_ERROR``, or if a head finds nothing to be compared on.
    """
    errors = {}
    for segment, module in segment_functions(frozen).items():
        inputs, expected = _telling_example(frozen, segment, module)
        session = onnxruntime.InferenceSession(
            folder / segment_file(segment, size), providers=["CPUExecutionProvider"]
        )
        names = [port.name for port in session.get_inputs()]
        actual = session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))
        compare = _detections_error if segment.head else _features_error
        error = compare(actual, expected)
        if not error <= MAX_ERROR:
            raise SegmentError(
                f"{segment.name} differs from torch by {error:.2g} of its largest value"
            )
        errors[segment.name] = error
    return errors


def _telling_example(
    frozen: AnyDetector, segment: segments.Segment, module: nn.Module
) -> tuple[tuple[Tensor, ...], list[np.ndarray]]:
    """Return random inputs and what torch makes of them.

    Noise looks like background to a head, so its features are made stronger until it finds boxes.
    """
    batch = HEAD_BATCH if segment.head else BATCH
    for scale in NOISE_SCALES:
        generator = torch.Generator().manual_seed(0)
        inputs = tuple(
            torch.randint(0, 256, (batch, *x.shape[1:]), generator=generator, dtype=torch.uint8)
            if x.dtype == torch.uint8
            else scale * torch.randn(batch, *x.shape[1:], generator=generator)
            for x in example_inputs(frozen, segment)
        )
        with torch.inference_mode():
            expected = [output.numpy() for output in module(*inputs)]
        if not segment.head or expected[DETECTIONS.index("counts")].all():
            return inputs, expected
    raise SegmentError(f"{segment.name} finds nothing in any noise")


def _features_error(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    return max(map(_relative_error, actual, expected))


def _detections_error(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Return the relative error of a head's detections: that of the median image.

    Where a box overlaps another by just the threshold, or two candidates score alike, rounding
    decides what else an image has.

    The error of an image is the largest difference between a row (box, score, label) and its
    counterpart, whichever of the other's rows is closest: two whose scores differ by rounding alone
    may change places.
    """
    size = max(1e-6, float(np.abs(expected[0]).max()))
    errors = []
    for ours, theirs in zip(zip(*actual, strict=True), zip(*expected, strict=True), strict=True):
        first, second = (
            np.concatenate([boxes / size, scores[:, None], labels[:, None]], axis=-1)
            for boxes, scores, labels, _ in (ours, theirs)
        )
        distance = np.abs(first[:, None] - second[None]).max(-1)  # (rows, rows)
        in_order = max(_relative_error(ours[index], theirs[index]) for index in (1, 3))
        errors.append(max(in_order, float(distance.min(0).max()), float(distance.min(1).max())))
    return statistics.median(errors)


def _relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    difference = np.abs(actual.astype(np.float64) - expected)
    return float(difference.max() / max(1e-6, np.abs(expected).max()))


def measure_postprocess(detector: AnyDetector, rounds: int, clock: Clock) -> float:
    """Return the median seconds of decoding and suppression alone.

    They run on OpenVINO with all cores, batch 1. The operations do not depend on what they are fed.
    """
    num_anchors, num_classes = len(detector.anchors), len(detector.config.classes)
    inputs = (torch.randn(1, num_anchors, num_classes), torch.randn(1, num_anchors, 4) / 4)

    def tail(logits: Tensor, deltas: Tensor) -> tuple[Tensor, ...]:
        return detector.postprocess((logits, deltas))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tail.onnx"
        _trace(TensorFunction(detector, tail), inputs, ("logits", "deltas"), DETECTIONS, path)
        model = openvino.Core().read_model(path)
    model.reshape({index: list(x.shape) for index, x in enumerate(inputs)})
    request = openvino.compile_model(model, "CPU").create_infer_request()
    for index, x in enumerate(inputs):
        request.set_input_tensor(index, openvino.Tensor(x.numpy()))
    seconds = []
    for _ in range(rounds):
        started_s = clock()
        request.infer()
        seconds.append(clock() - started_s)
    return quantile(seconds, 0.5)
