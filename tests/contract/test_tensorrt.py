"""What only TensorRT can get wrong: plans of something else, addresses, waits, graphs, leaks."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from serving.artifacts.cuda import CudaError
from serving.artifacts.tensorrt_plans import BATCH_SIZES, PlansError
from serving.core import segment as segments
from tests.cuda import build_fake_plans, cudaError_t, fake_runners


@pytest.fixture(scope="module")
def plans(exported):
    return build_fake_plans(exported.folder, exported.catalog, "10.13.3.9")


@pytest.fixture
def opened(plans, exported):
    with fake_runners() as (module, device):
        runner = module.TensorRtRunner(plans, exported.catalog, None)
        yield module, runner, device
        runner.close()


def chain(runner, images, depth):
    """The unit path, as an executor runs it."""
    batch = runner.load(images)
    for segment in segments.unit_path(depth):
        output = runner.run(segment, batch)
        runner.release(batch)
        batch = output
    found = runner.detections(batch)
    runner.release(batch)
    return found


# -- plans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"tensorrt": "8.6.0"}, "8.6.0"),
        ({"gpu": {"name": "NVIDIA H200", "compute_capability": "9.0"}}, "NVIDIA H200"),
        ({"model_digest": "0123"}, "0123"),
        ({"profiles": [[1, 1, 8]]}, "((1, 1, 8),)"),
    ],
)
def test_plans_of_something_else_are_refused(plans, exported, tmp_path, change, found):
    """In one sentence that names the GPU, the version and the model, as built and as here."""
    folder = tmp_path / "model"
    shutil.copytree(plans, folder)
    path = folder / "tensorrt" / "plans.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with fake_runners() as (module, device):
        with pytest.raises(PlansError) as raised:
            module.TensorRtRunner(folder, exported.catalog, None)
        assert device.leaks == 0
    message = str(raised.value)
    for fact in (found, "10.13.3.9", "Imaginary GPU", exported.catalog.digest):
        assert fact in message


def test_plans_that_are_not_there_or_not_whole_are_refused(plans, exported, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(plans, folder)
    stem = folder / "tensorrt" / "stem.plan"
    with fake_runners() as (module, device):
        stem.write_bytes(stem.read_bytes() + b"!")
        with pytest.raises(PlansError, match=r"stem\.plan is not the plan that was built"):
            module.TensorRtRunner(folder, exported.catalog, None)
        stem.unlink()
        with pytest.raises(PlansError, match=r"stem\.plan cannot be read"):
            module.TensorRtRunner(folder, exported.catalog, None)
        (folder / "tensorrt" / "plans.json").unlink()
        with pytest.raises(PlansError, match="there are no TensorRT plans"):
            module.TensorRtRunner(folder, exported.catalog, None)
        assert device.leaks == 0


def test_a_machine_without_a_gpu_is_told_so(plans, exported):
    with fake_runners() as (module, device):
        device.gpu = None
        with pytest.raises(CudaError, match=r"no usable NVIDIA GPU.*cudaErrorNoDevice"):
            module.TensorRtRunner(plans, exported.catalog, None)


# -- graphs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", BATCH_SIZES)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_lone_request_meets_graphs_that_are_there_already(opened, exported, size, depth):
    _, runner, device = opened
    images = (exported.images * 2)[:size]
    before = device.calls["cudaStreamBeginCapture"]
    for _ in range(3):
        chain(runner, images, depth)
        batch = runner.load(images)
        runner.release(runner.run(segments.fused_exit(depth), batch))
        runner.release(batch)
    assert device.calls["cudaStreamBeginCapture"] == before
    assert device.calls["cudaGraphLaunch"] == 3 * (depth + 3)


def test_other_buffers_get_graphs_of_their_own(opened, exported):
    """The answer of the first, un-captured run is that of the replayed ones."""
    _, runner, device = opened
    (alone,) = chain(runner, exported.images[:1], 3)
    held = runner.run(segments.STEM, runner.load(exported.images[1:2]))
    before = device.calls["cudaStreamBeginCapture"]
    for _ in range(2):
        (beside,) = chain(runner, exported.images[:1], 3)
        np.testing.assert_array_equal(beside.boxes_xyxy_input, alone.boxes_xyxy_input)
    assert device.calls["cudaStreamBeginCapture"] > before
    runner.release(held)


def test_the_graphs_of_what_is_asked_for_most_are_kept(opened, exported, monkeypatch):
    module, runner, device = opened
    monkeypatch.setattr(module, "MAX_GRAPHS", len(runner._graphs))
    for number in range(20):  # one buffer more every time, that was never met
        held = [runner.run(segments.STEM, runner.load(exported.images[:2])) for _ in range(number)]
        before = device.calls["cudaStreamBeginCapture"]
        chain(runner, exported.images[:1], 3)
        assert device.calls["cudaStreamBeginCapture"] == before
        for features in held:
            runner.release(features)


def test_graphs_are_bounded(opened, exported, monkeypatch):
    module, runner, device = opened
    bound = len(runner._graphs) + 2
    monkeypatch.setattr(module, "MAX_GRAPHS", bound)
    (expected,) = chain(runner, exported.images[:1], 3)
    held = [runner.run(segments.STEM, runner.load(exported.images[:1])) for _ in range(6)]
    for features in held:
        runner.release(runner.run(segments.stack(1), features))
    assert len(runner._graphs) == len(device.executables) == bound
    for features in held:
        runner.release(features)
    (again,) = chain(runner, exported.images[:1], 3)
    np.testing.assert_array_equal(again.scores, expected.scores)


# -- memory --------------------------------------------------------------------------------------


def test_images_that_nobody_runs_leave_no_trace(opened, exported):
    """Several loads into the same pinned memory with nothing between them that waits."""
    _, runner, _ = opened
    (expected,) = chain(runner, exported.images[:1], 1)
    first = runner.load(exported.images[:1])
    device_copy = runner.run(segments.STEM, first)
    runner.release(first)
    for image in exported.images[1:3]:
        runner.release(runner.load([image]))
    boxes = runner.run(segments.head(1), runner.run(segments.stack(1), device_copy))
    np.testing.assert_array_equal(runner.detections(boxes)[0].scores, expected.scores)
    (again,) = chain(runner, exported.images[:1], 1)
    np.testing.assert_array_equal(again.scores, expected.scores)


def test_releasing_twice_does_not_hand_memory_out_twice(opened, exported):
    _, runner, _ = opened
    features = runner.run(segments.STEM, runner.load(exported.images[:1]))
    runner.release(features)
    runner.release(features)
    first, second = (
        runner.run(segments.STEM, runner.load([image])) for image in exported.images[:2]
    )
    assert first.buffer.address != second.buffer.address


@pytest.mark.parametrize(("channels", "padded"), [(32, 32), (12, 16), (1, 8)])
def test_vectorised_channels_are_padded(opened, channels, padded):
    module, _, _ = opened
    engine = object.__new__(module.Engine)
    engine._engine = SimpleNamespace(
        get_tensor_format=lambda name: module.trt.TensorFormat.HWC8,
        get_tensor_dtype=lambda name: module.trt.DataType.HALF,
    )
    shapes = SimpleNamespace(get_tensor_shape=lambda name: (1, channels, 5, 7))
    assert engine._layout(shapes, "p3").row_bytes == 5 * 7 * padded * 2


def test_rows_that_lie_together_are_copied_together(opened, exported):
    """A merge is queued like a selection: nothing waits, and each batch is one copy a tensor."""
    _, runner, device = opened
    first, second = (
        runner.run(segments.STEM, runner.load(images))
        for images in (exported.images[:3], exported.images)
    )
    num_tensors = len(first.pool.layout)
    for copy, num_stretches in (
        (lambda: runner.merge([first, second]), 2),
        (lambda: runner.select(second, [0, 1, 3]), 2),
        (lambda: runner.select(second, [2, 1]), 2),
        (lambda: runner.select(second, [1, 2]), 1),
    ):
        before = device.calls.copy()
        copy()
        new = device.calls - before
        assert new["cudaMemcpyAsync"] == num_stretches * num_tensors
        assert not new["cudaStreamSynchronize"]


def test_the_memory_of_what_was_merged_may_be_used_at_once(opened, exported):
    """Copies come before whatever is queued after them."""
    _, runner, _ = opened
    expected = [chain(runner, [image], 1)[0] for image in exported.images[:2]]
    batches = []
    for image in exported.images[:2]:
        features = runner.run(segments.STEM, runner.load([image]))
        batches.append(runner.run(segments.stack(1), features))
    merged = runner.merge(batches)
    for batch in batches:
        runner.release(batch)
    chain(runner, exported.images[2:3], 3)
    found = runner.detections(runner.run(segments.head(1), merged))
    for alone, joined in zip(expected, found, strict=True):
        np.testing.assert_allclose(joined.scores[:5], alone.scores[:5], atol=1e-3)


def test_what_was_released_is_not_merged(opened, exported):
    _, runner, _ = opened
    kept, gone = (runner.run(segments.STEM, runner.load([image])) for image in exported.images[:2])
    runner.release(gone)
    with pytest.raises(AssertionError, match="has been released"):
        runner.merge([kept, gone])


def test_close_frees_everything(plans, exported):
    with fake_runners() as (module, device):
        runner = module.TensorRtRunner(plans, exported.catalog, None)
        kept = runner.run(segments.STEM, runner.load(exported.images))
        assert device.leaks > 10
        runner.close()
        assert device.leaks == 0
        runner.close()
        runner.release(kept)
        for use in (
            lambda: runner.load(exported.images),
            lambda: runner.run(segments.stack(1), kept),
            lambda: runner.select(kept, [0]),
            lambda: runner.merge([kept, kept]),
            lambda: runner.detections(kept),
        ):
            with pytest.raises(RuntimeError, match="the runner is closed"):
                use()


@pytest.mark.parametrize("wanted", [[segments.fused_exit(2)], list(segments.unit_segments(3))])
def test_only_what_is_wanted_is_loaded(plans, exported, wanted):
    with fake_runners() as (module, _):
        runner = module.TensorRtRunner(plans, exported.catalog, None, wanted)
        assert runner.segments == set(wanted)
        batch = runner.load(exported.images[:1])
        runner.run(wanted[0], batch)
        with pytest.raises(ValueError, match="no segment exit_1 here"):
            runner.run(segments.fused_exit(1), batch)
        runner.close()


# -- errors --------------------------------------------------------------------------------------


START = (
    "cudaGetDevice",
    "cudaStreamCreateWithFlags",
    "cudaMalloc",
    "cudaMallocHost",
    "cudaMemcpyAsync",
    "cudaStreamSynchronize",
    "cudaStreamBeginCapture",
    "cudaStreamEndCapture",
    "cudaGraphInstantiate",
    "cudaGraphDestroy",
)


@pytest.mark.parametrize("call", START)
def test_every_failing_call_stops_the_start_and_frees_what_there_was(plans, exported, call):
    with fake_runners() as (module, device):
        device.failures[call] = cudaError_t.cudaErrorMemoryAllocation
        with pytest.raises(CudaError, match="cudaErrorMemoryAllocation"):
            module.TensorRtRunner(plans, exported.catalog, None)
        assert not device.failures
        # A graph that CUDA does not let go of, and what was made of it, are gone with the process.
        assert device.leaks == {"cudaGraphDestroy": 2}.get(call, 0)


@pytest.mark.parametrize("call", ["cudaGraphLaunch", "cudaStreamSynchronize"])
def test_a_failing_run_is_an_error_and_keeps_no_memory(opened, exported, call):
    _, runner, device = opened
    images = runner.load(exported.images[:1])
    first = runner.run(segments.STEM, images)
    runner.release(first)
    device.failures[call] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(CudaError, match="cudaErrorIllegalAddress"):
        runner.run(segments.STEM, images)
    again = runner.run(segments.STEM, images)
    assert again.buffer is first.buffer


def test_memory_that_is_gone_is_noticed(opened, exported):
    """Of the fake: otherwise nothing here could fail."""
    _, runner, device = opened
    features = runner.run(segments.STEM, runner.load(exported.images[:1]))
    device.memory.free(features.buffer.address)
    with pytest.raises(CudaError, match="cudaErrorIllegalAddress"):
        runner.run(segments.stack(1), features)
    device.memory.blocks[features.buffer.address] = np.zeros(1, np.uint8)


def test_a_missing_wait_is_noticed(opened, exported, monkeypatch):
    """Of the fake: what is read before it is waited for is what was there before."""
    _, runner, _ = opened
    expected = chain(runner, exported.images[:1], 1)[0]
    chain(runner, exported.images[1:2], 1)
    monkeypatch.setattr(runner._device, "synchronize", lambda: None)
    stale = chain(runner, exported.images[:1], 1)[0]
    assert not np.array_equal(stale.scores, expected.scores)
