"""What the executor relies on, for every runner alike."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from serving.core import segment as segments
from serving.core.ports import SegmentRunner
from serving.core.request import Detections
from serving.models import RUNNERS
from tests.captured import CapturedRunner
from tests.cuda import open_fake_runner, open_real_runner


@dataclass(frozen=True)
class Case:
    """A runner and how far its answers may lie from torch's: the least share of boxes that have a
    counterpart of the same class within so many pixels and so much score."""

    runtime: str
    options: dict[str, str]
    share: float
    pixels: float
    score: float
    gpu: bool = False
    """Whether it needs one."""
    make: Callable[..., SegmentRunner] | None = None
    """What to open in place of the runtime's runner."""


CASES = {
    # bfloat16, where it is native, moves the boxes of a network of random weights a lot; what it
    # does to a trained one is in tests/e2e/test_model.py.
    "openvino": Case("openvino", {}, 0.5, 6.0, 0.1),
    "openvino-f32": Case("openvino", {"precision": "f32"}, 0.98, 0.05, 1e-3),
    "onnxruntime": Case("onnxruntime", {}, 0.98, 0.05, 1e-3),
    "torch-bf16": Case("torch", {"device": "cpu", "precision": "bf16"}, 0.5, 6.0, 0.1),
    "torch-f32": Case("torch", {"device": "cpu", "precision": "f32"}, 0.98, 0.05, 1e-3),
    "torch-captured": Case(
        "torch", {"device": "cpu", "precision": "f32"}, 0.98, 0.05, 1e-3, make=CapturedRunner
    ),
    "torch-cuda": Case("torch", {"device": "cuda"}, 0.9, 1.0, 0.02, gpu=True),
    "torch-cuda-f32": Case(
        "torch", {"device": "cuda", "precision": "f32"}, 0.95, 0.2, 5e-3, gpu=True
    ),
    **{
        f"tensorrt-{version}": Case(
            "tensorrt", {"version": version}, 0.9, 1.0, 0.02, make=open_fake_runner
        )
        for version in ("8.6.1", "10.13.3.9", "11.4.0.106")
    },
    "tensorrt-cuda": Case("tensorrt", {}, 0.9, 1.0, 0.02, gpu=True, make=open_real_runner),
}


def open_case(case: Case, exported, num_threads: int | None = None):
    module, _, attribute = RUNNERS[case.runtime].partition(":")
    make = case.make or getattr(importlib.import_module(module), attribute)
    return make(exported.folder, exported.catalog, num_threads, **case.options)


def test_every_runtime_is_here():
    assert {case.runtime for case in CASES.values()} == set(RUNNERS)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.gpu] if case.gpu else [])
        for name, case in sorted(CASES.items())
    ],
)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def runner(case, exported):
    built = open_case(case, exported)
    yield built
    built.close()


def unit_path(runner, images, depth):
    batch = runner.load(images)
    for segment in segments.unit_path(depth):
        batch = runner.run(segment, batch)
    return runner.detections(batch)


def torch_detections(exported, images, depth) -> list[Detections]:
    with torch.inference_mode():
        outputs = exported.frozen(torch.from_numpy(np.stack(images)), [depth])[depth]
        boxes, scores, labels, counts = (x.numpy() for x in exported.frozen.postprocess(outputs))
    return [
        Detections(boxes[row, :n], scores[row, :n], labels[row, :n]) for row, n in enumerate(counts)
    ]


def assert_alike(case: Case, expected: Detections, actual: Detections) -> None:
    assert len(expected.scores) > 10, "nothing to compare"
    near = (
        np.abs(expected.boxes_xyxy_input[:, None] - actual.boxes_xyxy_input[None]).max(-1)
        <= case.pixels
    )
    near &= np.abs(expected.scores[:, None] - actual.scores[None]) <= case.score
    near &= expected.labels[:, None] == actual.labels[None]
    assert near.any(axis=1).mean() >= case.share


def test_offers_unit_and_fused_segments(runner, exported):
    num_exits = exported.catalog.num_exits
    assert runner.segments == {
        *segments.unit_segments(num_exits),
        *segments.fused_segments(num_exits),
    }
    assert runner.batch_sizes[0] == 1
    assert list(runner.batch_sizes) == sorted(set(runner.batch_sizes))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_agrees_with_torch_at_every_exit(runner, case, exported, depth):
    expected = torch_detections(exported, exported.images, depth)
    actual = unit_path(runner, exported.images, depth)
    for image_expected, image_actual in zip(expected, actual, strict=True):
        assert_alike(case, image_expected, image_actual)


@pytest.mark.parametrize("depth", [1, 3])
def test_fused_and_unit_segments_agree(runner, case, exported, depth):
    unit = unit_path(runner, exported.images[:1], depth)[0]
    batch = runner.load(exported.images[:1])
    (fused,) = runner.detections(runner.run(segments.fused_exit(depth), batch))
    assert_alike(case, unit, fused)


def test_rows_do_not_depend_on_their_batch(runner, case, exported):
    together = unit_path(runner, exported.images[:3], 2)
    assert len(together) == 3
    for image, row in zip(exported.images, together, strict=False):
        (alone,) = unit_path(runner, [image], 2)
        assert_alike(case, alone, row)


def test_select_keeps_rows_in_the_order_asked_for(runner, case, exported):
    features = runner.run(segments.STEM, runner.load(exported.images))
    features = runner.run(segments.stack(1), features)
    whole = runner.detections(runner.run(segments.head(1), features))
    chosen = runner.select(features, [3, 1])
    part = runner.detections(runner.run(segments.head(1), chosen))
    assert len(part) == 2
    for expected, actual in zip((whole[3], whole[1]), part, strict=True):
        assert_alike(case, expected, actual)


def test_features_of_two_cohorts_do_not_disturb_each_other(runner, exported):
    """What makes pre-emption possible: another request may run through the same segments between
    two steps of this one."""
    first, second = exported.images[:2]
    undisturbed = unit_path(runner, [first], 2)[0]
    features = runner.run(segments.STEM, runner.load([first]))
    deeper = runner.run(segments.stack(1), features)
    runner.release(features)
    unit_path(runner, [second], 3)
    after = runner.run(segments.stack(2), deeper)
    (disturbed,) = runner.detections(runner.run(segments.head(2), after))
    np.testing.assert_array_equal(undisturbed.boxes_xyxy_input, disturbed.boxes_xyxy_input)
    np.testing.assert_array_equal(undisturbed.scores, disturbed.scores)


@pytest.mark.parametrize(
    "images",
    [
        [],
        [np.zeros((128, 256, 3), np.float32)],
        [np.zeros((256, 128, 3), np.uint8)],
        [np.zeros((128, 256), np.uint8)],
        [np.zeros((128, 256, 3), np.uint8)] * 100,
    ],
    ids=["none", "float", "transposed", "grey", "too many"],
)
def test_wrong_images_are_refused(runner, images):
    with pytest.raises(ValueError, match=r"image"):
        runner.load(images)


def test_wrong_segments_are_refused(runner, exported):
    images = runner.load(exported.images[:1])
    with pytest.raises(ValueError, match="does not take"):
        runner.run(segments.stack(1), images)
    with pytest.raises(ValueError, match="no segment head_9"):
        runner.run(segments.head(9), images)
    with pytest.raises(ValueError, match="rows"):
        runner.select(runner.run(segments.STEM, images), [1])


def test_use_after_close_is_an_error(case, exported):
    built = open_case(case, exported, num_threads=1)
    images = built.load(exported.images[:1])
    built.close()
    for use in (
        lambda: built.load(exported.images[:1]),
        lambda: built.run(segments.STEM, images),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            use()
