"""What the executor relies on, for every runner alike."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.ports import SegmentRunner
from serving.core.request import Detections
from serving.imaging.decoding import refit
from serving.models.engine_process import open_family_in_process
from serving.models.repository import RUNNERS
from serving.models.runtime_options import RuntimeOptions
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
    deepest: int = 3
    """The exit up to which a network of random weights can be compared. Each of its stacks makes
    rounding larger: behind the second, int8 leaves of some images a third of the boxes in place."""


def in_process(folder: Path, catalog: Catalog, num_threads: int, **_: object) -> SegmentRunner:
    """The runner in a process of its own, with all segments."""
    return open_family_in_process((folder,), RuntimeOptions("onnxruntime", num_threads), refit)


CASES = {
    # bfloat16, where it is native, moves the boxes of a network of random weights a lot; what it
    # does to a trained one is in tests/e2e/test_model.py.
    "openvino": Case("openvino", {}, 0.5, 6.0, 0.1),
    "openvino-f32": Case("openvino", {"precision": "f32"}, 0.98, 0.05, 1e-3),
    # What int8 does to a trained one, and beside another runtime, is in test_openvino.py.
    "openvino-int8": Case("openvino", {"precision": "int8"}, 0.5, 6.0, 0.1, deepest=1),
    "onnxruntime": Case("onnxruntime", {}, 0.98, 0.05, 1e-3),
    "onnxruntime-process": Case("onnxruntime", {}, 0.98, 0.05, 1e-3, make=in_process),
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


def open_case(case: Case, exported, **options: object):
    module, _, attribute = RUNNERS[case.runtime].partition(":")
    make = case.make or getattr(importlib.import_module(module), attribute)
    return make(exported.folder, exported.catalog, 1, **case.options, **options)


def test_every_runtime_is_here():
    assert {case.runtime for case in CASES.values()} == set(RUNNERS)


def marks_of(case: Case) -> list[pytest.MarkDecorator]:
    """What hardware it needs."""
    return [pytest.mark.gpu] if case.gpu else []


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=marks_of(case)) for name, case in sorted(CASES.items())],
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


def test_agrees_with_torch_at_every_exit(runner, case, exported):
    for depth in range(1, case.deepest + 1):
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


def features_of(runner, images, depth=1):
    batch = runner.load(images)
    for segment in segments.unit_path(depth)[:-1]:
        batch = runner.run(segment, batch)
    return batch


def boxes_of(runner, features, depth=1):
    return runner.detections(runner.run(segments.head(depth), features))


def assert_same(expected: Sequence[Detections], actual: Sequence[Detections]) -> None:
    for image_expected, image_actual in zip(expected, actual, strict=True):
        assert len(image_expected.scores) > 10, "nothing to compare"
        np.testing.assert_array_equal(
            image_expected.boxes_xyxy_input, image_actual.boxes_xyxy_input
        )
        np.testing.assert_array_equal(image_expected.scores, image_actual.scores)
        np.testing.assert_array_equal(image_expected.labels, image_actual.labels)


@pytest.mark.parametrize("rows", [[3, 1], [1, 2, 0], [2, 2]])
def test_select_keeps_rows_in_the_order_asked_for(runner, case, exported, rows):
    features = features_of(runner, exported.images)
    whole = boxes_of(runner, features)
    part = boxes_of(runner, runner.select(features, rows))
    for expected, actual in zip([whole[row] for row in rows], part, strict=True):
        assert_alike(case, expected, actual)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 2), (2, 1), (1, 1, 2), (3, 1)])
def test_merged_rows_are_those_that_were_merged(runner, exported, sizes):
    """To the bit: what is picked out of them again gives what it gave before."""
    images = iter(exported.images)
    batches = [features_of(runner, list(islice(images, size)), 2) for size in sizes]
    expected = [boxes_of(runner, batch, 2) for batch in batches]
    merged = runner.merge(batches)
    stop = 0
    for batch, boxes in zip(batches, expected, strict=True):
        start, stop = stop, stop + len(boxes)
        again = runner.select(merged, list(range(start, stop)))
        assert_same(boxes, boxes_of(runner, again, 2))
        assert_same(boxes, boxes_of(runner, batch, 2))


def test_a_merged_batch_goes_on_as_if_loaded_together(runner, case, exported):
    images = exported.images[:3]
    together = unit_path(runner, images, 2)
    merged = runner.merge([features_of(runner, images[:1]), features_of(runner, images[1:])])
    actual = boxes_of(runner, runner.run(segments.stack(2), merged), 2)
    for image_expected, image_actual in zip(together, actual, strict=True):
        assert_alike(case, image_expected, image_actual)


def test_a_merged_batch_outlives_what_it_was_merged_from(runner, exported):
    batches = [features_of(runner, [image]) for image in exported.images[:2]]
    merged = runner.merge(batches)
    before = boxes_of(runner, merged)
    for batch in batches:
        runner.release(batch)
    for image in exported.images[2:]:
        features_of(runner, [image])
    assert_same(before, boxes_of(runner, merged))


def test_what_cannot_be_merged_is_refused(runner, exported):
    images = runner.load(exported.images[:1])
    shallow = runner.run(segments.STEM, images)
    features = runner.run(segments.stack(1), shallow)
    boxes = runner.run(segments.head(1), features)
    full = [features] * runner.batch_sizes[-1]
    for batches, message in (
        ([], "two batches or more can be merged, not 0"),
        ([features], "two batches or more can be merged, not 1"),
        ([images, images], "features only can be merged"),
        ([features, boxes], "features only can be merged"),
        ([features, shallow], r"batches of depths \[0, 1\] cannot be merged"),
        ([*full, features], f"1 to {len(full)} rows, not {len(full) + 1}"),
    ):
        with pytest.raises(ValueError, match=message):
            runner.merge(batches)
    assert len(boxes_of(runner, runner.merge(full))) == len(full)


def test_what_cannot_be_selected_is_refused(runner, exported):
    images = runner.load(exported.images[:2])
    features = runner.run(segments.STEM, images)
    boxes = runner.run(segments.fused_exit(1), images)
    most = runner.batch_sizes[-1]
    for batch, rows, message in (
        (images, [0], "of features only"),
        (boxes, [0], "of features only"),
        (features, [2], r"rows \[2\] of a batch of 2"),
        (features, [-1], r"rows \[-1\] of a batch of 2"),
        (features, [], f"1 to {most} rows, not 0"),
        (features, [0] * (most + 1), f"1 to {most} rows, not {most + 1}"),
    ):
        with pytest.raises(ValueError, match=message):
            runner.select(batch, rows)


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


def test_use_after_close_is_an_error(case, exported):
    built = open_case(case, exported, wanted=[segments.STEM])
    images = built.load(exported.images[:1])
    features = built.run(segments.STEM, images)
    built.close()
    for use in (
        lambda: built.load(exported.images[:1]),
        lambda: built.run(segments.STEM, images),
        lambda: built.select(features, [0]),
        lambda: built.merge([features, features]),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            use()
