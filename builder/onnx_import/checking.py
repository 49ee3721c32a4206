"""Checks of imported segments against the file they were made of, on images.

The file runs as it is, one image after the other; plain numpy makes pixels for it and boxes of what
it gives. The segments run one after the other on all images at once. Both are to find the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from builder.onnx_import.comparing import CheckFailed, Expected, Rows, iou
from builder.onnx_import.errors import ForeignModelError
from builder.onnx_import.layouts import (
    BOXES,
    LABELS,
    OBJECTNESS,
    SCORES,
    Layout,
    Preprocessing,
)
from builder.onnx_import.postprocessing import Selection
from builder.onnx_import.recognising import Reading
from builder.onnx_import.sizing import TYPES, ImageInput, Size
from serving.core import segment as segments

Array = npt.NDArray[Any]
Image = npt.NDArray[np.uint8]

NUM_IMAGES = 3
"""Number of images that are made up where none are given."""


def synthetic_images(size: Size) -> list[Image]:
    """Return images of rectangles in noise, of (height, width), always the same ones."""
    random = np.random.default_rng(0)
    height, width = size
    images = []
    for _ in range(NUM_IMAGES):
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for _ in range(12):
            top, left = random.integers(0, height), random.integers(0, width)
            bottom, right = random.integers(top, height) + 1, random.integers(left, width) + 1
            image[top:bottom, left:right] = random.integers(0, 256, 3)
        images.append(image)
    return images


# -- the file as it is ----------------------------------------------------------------------------


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a session for a model. Raises ForeignModelError where it cannot be run."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # more would wait for each other on a machine that is busy
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime has classes of errors of its own, derived from it
        raise ForeignModelError(f"ONNX Runtime cannot run it: {_short(error)}") from error


def run_session(session: onnxruntime.InferenceSession, inputs: Mapping[str, Array]) -> list[Array]:
    """Return the outputs for these inputs. Raises ForeignModelError where it cannot be run."""
    try:
        return list(session.run(None, dict(inputs)))
    except Exception as error:
        raise ForeignModelError(f"ONNX Runtime cannot run it: {_short(error)}") from error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def pixels_for(image: Image, found: ImageInput, wanted: Preprocessing) -> Array:
    """Return an RGB image as the file takes it, by itself."""
    pixels: Array = image[..., ::-1] if wanted.color == "bgr" else image
    if found.element_type != onnx.TensorProto.UINT8:
        mean, std = (np.array(each, np.float32) for each in (wanted.mean, wanted.std))
        pixels = (pixels.astype(np.float32) * np.float32(wanted.scale) - mean) / std
    pixels = pixels.astype(TYPES[found.element_type])
    if not found.channels_last:
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[None] if found.has_batch else pixels)


# -- boxes in plain numpy -------------------------------------------------------------------------


def find_candidates(
    values: Mapping[str, Array], reading: Reading, size: Size, score_threshold: float
) -> Rows:
    """Return all boxes that outputs (1, ...) of one image stand for, best first."""
    numbers = reading.numbers
    parts = {part: array[0].astype(np.float64) for part, array in reading.parts(values).items()}
    boxes = _corners(parts[BOXES], reading, size)
    rows: Rows = []
    if LABELS in parts:
        for box, score, number in zip(boxes, parts[SCORES], parts[LABELS], strict=True):
            known = 0 <= int(number) < len(numbers.labels)
            label = numbers.labels[int(number)] if known else -1
            rows.append((label, float(score), tuple(box)))
        rows = [row for row in rows if row[0] >= 0]
    else:
        scores = _probabilities(parts, reading)
        for label, number in enumerate(numbers.kept):
            chosen = np.flatnonzero(scores[:, number] > score_threshold)
            rows += [(label, float(scores[row, number]), tuple(boxes[row])) for row in chosen]
    return sorted((row for row in rows if row[1] > score_threshold), key=lambda r: -r[1])


def select(candidates: Rows, layout: Layout, selection: Selection) -> Rows:
    """Return which of the boxes of one image, best first, are answers."""
    if not layout.suppressed:
        best = candidates[: selection.max_candidates]
        candidates = _suppressed(best, selection.iou_threshold)
    return candidates[: selection.max_detections]


def expect(
    values: Mapping[str, Array], reading: Reading, size: Size, selection: Selection
) -> Expected:
    """Return the boxes that outputs (1, ...) of one image stand for."""
    candidates = find_candidates(values, reading, size, selection.score_threshold)
    rows = select(candidates, reading.layout, selection)
    return Expected(rows, candidates, selection.iou_threshold)


def _probabilities(parts: Mapping[str, npt.NDArray[np.float64]], reading: Reading) -> Array:
    scores = parts[SCORES]
    objectness = parts.get(OBJECTNESS, np.ones((len(scores), 1)))
    if reading.layout.activation == "sigmoid":
        scores = 1 / (1 + np.exp(-scores))
        if OBJECTNESS in parts:
            objectness = 1 / (1 + np.exp(-objectness))
    if reading.layout.activation == "softmax":
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores = powers / powers.sum(axis=1, keepdims=True)
    return (scores * objectness).astype(np.float32)


def _corners(
    boxes: npt.NDArray[np.float64], reading: Reading, size: Size
) -> npt.NDArray[np.float64]:
    height, width = size
    a, b, c, d = boxes.T.copy()
    if reading.layout.offsets:
        row = 0
        for stride in reading.layout.grids:
            for y in range(height // stride):
                for x in range(width // stride):
                    a[row], b[row] = (a[row] + x) * stride, (b[row] + y) * stride
                    c[row], d[row] = np.exp(c[row]) * stride, np.exp(d[row]) * stride
                    row += 1
    x1, y1, x2, y2 = {
        "xyxy": (a, b, c, d),
        "yxyx": (b, a, d, c),
        "xywh": (a, b, a + c, b + d),
        "cxcywh": (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    }[reading.layout.boxes]
    if reading.layout.units == "shares":
        x1, y1, x2, y2 = x1 * width, y1 * height, x2 * width, y2 * height
    clipped = (x1.clip(0, width), y1.clip(0, height), x2.clip(0, width), y2.clip(0, height))
    return np.stack(clipped, axis=1)


def _suppressed(rows: Rows, iou_threshold: float) -> Rows:
    """Return the rows, best first, without those that a better one of their class overlaps."""
    kept: Rows = []
    for row in rows:
        if all(row[0] != other[0] or iou(row[2], other[2]) <= iou_threshold for other in kept):
            kept.append(row)
    return kept


# -- the segments ---------------------------------------------------------------------------------


def run_segments(
    made: Mapping[str, onnx.ModelProto], num_exits: int, images: Sequence[Image], at_once: int
) -> list[list[Rows]]:
    """Return the boxes of each exit in each image, run ``at_once`` images at a time."""
    sessions = {name: open_session(model) for name, model in made.items()}
    found: list[list[Rows]] = [[] for _ in range(num_exits)]
    for first in range(0, len(images), at_once):
        features: list[Array] = [np.stack(images[first : first + at_once])]
        features = _run(sessions[segments.STEM.name], features)
        for depth in range(1, num_exits + 1):
            features = _run(sessions[segments.stack(depth).name], features)
            detections = _run(sessions[segments.head(depth).name], features)
            num_rows = {len(array) for array in (*features, *detections)}
            if num_rows != {len(images[first : first + at_once])}:
                raise CheckFailed("given several images, it does not answer one by one")
            for boxes, scores, labels, count in zip(*detections, strict=True):
                found[depth - 1].append(
                    [
                        (int(labels[i]), float(scores[i]), tuple(map(float, boxes[i])))
                        for i in range(count)
                    ]
                )
    return found


def _run(session: onnxruntime.InferenceSession, arrays: Sequence[Array]) -> list[Array]:
    names = [port.name for port in session.get_inputs()]
    return run_session(session, dict(zip(names, arrays, strict=True)))
