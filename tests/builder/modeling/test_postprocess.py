"""Matrix suppression against the plain greedy loop, and through an exported graph."""

from __future__ import annotations

import io
import math
import warnings

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builder.config.suppression import SUPPRESSION_ITERATIONS
from builder.modeling.boxes import encode_boxes
from builder.modeling.postprocess import (
    PostprocessFacts,
    decode_and_suppress,
    suppress,
    suppression_matrix,
)
from tests.properties import examples

SIDE = 256
IOU = 0.5
Array = npt.NDArray[np.float32]


def facts(**changes: object) -> PostprocessFacts:
    """Small defaults."""
    values = {
        "input_size": (SIDE, SIDE),
        "score_threshold": 0.1,
        "iou_threshold": IOU,
        "max_candidates": 40,
        "max_detections": 20,
    }
    return PostprocessFacts(**{**values, **changes})  # type: ignore[arg-type]


def overlap_matrix(boxes: Array) -> npt.NDArray[np.bool_]:
    """(K, K), True where IoU > IOU, in the arithmetic of the code under test."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(axis=-1)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return overlap > (area[:, None] + area[None, :] - overlap) * np.float32(IOU)


def greedy(boxes: Array, labels: npt.NDArray[np.int64]) -> list[int]:
    """Rows kept by the textbook loop; boxes come best first."""
    overlapping = overlap_matrix(boxes)
    kept: list[int] = []
    for row in range(len(boxes)):
        if not any(labels[row] == labels[k] and overlapping[k, row] for k in kept):
            kept.append(row)
    return kept


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Array, npt.NDArray[np.int64]]:
    """A few clusters of boxes on an integer grid, so that exact ties and copies happen."""
    count = draw(st.integers(1, 30))
    values = st.integers(0, 12)
    rows = [
        (x, y, x + draw(st.integers(0, 8)), y + draw(st.integers(0, 8)))
        for x, y in (draw(st.tuples(values, values)) for _ in range(count))
    ]
    labels = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    return np.array(rows, dtype=np.float32) * 4, np.array(labels, dtype=np.int64)


def matrix_keep(boxes: Array, labels: npt.NDArray[np.int64], iterations: int) -> list[int]:
    """Rows kept by the code under test."""
    matrix = suppression_matrix(torch.from_numpy(boxes)[None], torch.from_numpy(labels)[None], IOU)
    return suppress(matrix, iterations)[0].nonzero()[:, 0].tolist()


@given(scenes())
@examples(200)
def test_equals_greedy_suppression(scene: tuple[Array, npt.NDArray[np.int64]]) -> None:
    boxes, labels = scene
    assert matrix_keep(boxes, labels, iterations=len(boxes)) == greedy(boxes, labels)


@given(scenes())
@examples(50)
def test_few_iterations_bracket_the_answer(
    scene: tuple[Array, npt.NDArray[np.int64]],
) -> None:
    boxes, labels = scene
    exact = set(greedy(boxes, labels))
    for iterations in range(1, 6):
        kept = set(matrix_keep(boxes, labels, iterations))
        assert kept <= exact if iterations % 2 else kept >= exact


@pytest.mark.parametrize("edges", [1, 5, SUPPRESSION_ITERATIONS])
def test_chains_up_to_the_bound(edges: int) -> None:
    """Each box overlaps only its neighbours: greedy keeps every other one."""
    left = np.arange(edges + 1, dtype=np.float32) * 3
    boxes = np.stack([left, left * 0, left + 10, left * 0 + 10], axis=1)
    labels = np.zeros(edges + 1, dtype=np.int64)
    expected = list(range(0, edges + 1, 2))
    assert greedy(boxes, labels) == expected
    assert matrix_keep(boxes, labels, SUPPRESSION_ITERATIONS) == expected


def predictions(seed: int, anchors: int = 60, classes: int = 3) -> tuple[torch.Tensor, ...]:
    """Logits, deltas and anchors with many overlaps, a batch of 2."""
    random = np.random.default_rng(seed)
    corner = random.uniform(-20, SIDE - 20, (anchors, 2))
    boxes = np.concatenate([corner, corner + random.uniform(20, 120, (anchors, 2))], axis=1)
    logits = random.normal(0, 2, (2, anchors, classes))
    deltas = random.normal(0, 0.2, (2, anchors, 4))
    return tuple(torch.from_numpy(a.astype(np.float32)) for a in (logits, deltas, boxes))


def reference(
    logits: Array, deltas: Array, anchors: Array, f: PostprocessFacts
) -> list[tuple[float, int, list[float]]]:
    """One image, written as one would on paper: (score, label, box), best first."""
    pairs = sorted(((-float(value), int(flat)) for flat, value in enumerate(logits.reshape(-1))))[
        : f.max_candidates
    ]
    boxes, labels, scores = [], [], []
    for negative, flat in pairs:
        row, label = divmod(flat, logits.shape[1])
        x1, y1, x2, y2 = anchors[row]
        dx, dy, dw, dh = deltas[row]
        cx, cy = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
        w, h = (x2 - x1) * math.exp(dw), (y2 - y1) * math.exp(dh)
        box = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        boxes.append(np.clip(box, 0, SIDE))
        labels.append(label)
        scores.append(1 / (1 + math.exp(negative)))
    kept = greedy(np.array(boxes, dtype=np.float32), np.array(labels))
    rows = [(scores[k], labels[k], boxes[k].tolist()) for k in kept]
    return [row for row in rows if row[0] > f.score_threshold][: f.max_detections]


@pytest.mark.parametrize("seed", range(10))
def test_whole_function_against_the_reference(seed: int) -> None:
    logits, deltas, anchors = predictions(seed)
    outputs = decode_and_suppress(logits, deltas, anchors, facts())
    boxes, scores, labels, counts = (tensor.numpy() for tensor in outputs)
    assert [array.dtype for array in (boxes, scores, labels, counts)] == [
        np.float32,
        np.float32,
        np.int32,
        np.int32,
    ]
    for image in range(2):
        expected = reference(logits[image].numpy(), deltas[image].numpy(), anchors.numpy(), facts())
        count = counts[image]
        assert count == len(expected)
        np.testing.assert_allclose(scores[image, :count], [row[0] for row in expected], rtol=1e-5)
        assert labels[image, :count].tolist() == [row[1] for row in expected]
        np.testing.assert_allclose(
            boxes[image, :count], [row[2] for row in expected], rtol=1e-4, atol=1e-3
        )
        assert not boxes[image, count:].any()
        assert not scores[image, count:].any()
        assert set(labels[image, count:].tolist()) <= {-1}


def test_nothing_above_the_threshold() -> None:
    logits, deltas, anchors = predictions(0)
    outputs = decode_and_suppress(logits - 100, deltas, anchors, facts())
    assert outputs[3].tolist() == [0, 0]


def test_copies_leave_one_and_classes_are_apart() -> None:
    anchors = torch.tensor([[10.0, 10.0, 50.0, 50.0]]).repeat(30, 1)
    logits = torch.full((1, 30, 2), 3.0)
    boxes, _, labels, counts = decode_and_suppress(
        logits, torch.zeros(1, 30, 4), anchors, facts(max_candidates=60)
    )
    assert counts.tolist() == [2]
    assert sorted(labels[0, :2].tolist()) == [0, 1]
    torch.testing.assert_close(boxes[0, 0], anchors[0])


def test_fewer_pairs_than_limits() -> None:
    anchors = torch.tensor([[0.0, 0.0, 20.0, 20.0], [100.0, 100.0, 120.0, 120.0]])
    deltas = encode_boxes(anchors, anchors)[None]
    boxes, _, _, counts = decode_and_suppress(torch.ones(1, 2, 1), deltas, anchors, facts())
    assert boxes.shape == (1, 2, 4)
    assert counts.tolist() == [2]


class _Module(torch.nn.Module):
    def __init__(self, anchors: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("anchors", anchors)

    def forward(self, logits: torch.Tensor, deltas: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return decode_and_suppress(logits, deltas, self.anchors, facts())


@pytest.mark.parametrize("batch", [1, 2])
def test_exported_graph_agrees(batch: int) -> None:
    logits, deltas, anchors = predictions(3)
    buffer = io.BytesIO()
    names = ["boxes", "scores", "labels", "counts"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter announces its successor
        torch.onnx.export(
            _Module(anchors),
            (logits, deltas),
            buffer,
            opset_version=17,
            dynamo=False,
            input_names=["logits", "deltas"],
            output_names=names,
            dynamic_axes={name: {0: "batch"} for name in ["logits", "deltas", *names]},
        )
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    feed = {"logits": logits[:batch].numpy(), "deltas": deltas[:batch].numpy()}
    expected = decode_and_suppress(logits[:batch], deltas[:batch], anchors, facts())
    for got, want in zip(session.run(names, feed), expected, strict=True):
        assert got.dtype == want.numpy().dtype
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-3)
