"""What only OpenVINO can get wrong."""

from __future__ import annotations

import gc
import hashlib
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest

from builder.exporting.int8_segments import quantize_segments
from serving.artifacts.int8_segments import CPU_FOLDER
from serving.core import segment as segments
from serving.core.model_entry import ModelEntry
from serving.core.request import Detections
from serving.runners.compiled_cache import HEADER_BYTES, CompiledCache
from serving.runners.onnxruntime import OnnxRuntimeRunner
from serving.runners.openvino import compiling
from serving.runners.openvino import runner as openvino_runner
from serving.runners.openvino.compiling import Compiler, multiplies_bf16
from serving.runners.openvino.runner import OpenVinoRunner
from tests.contract.test_runners import Case, assert_alike, unit_path
from tests.exported import trained_detector


@pytest.fixture(scope="module")
def bf16_runner(exported):
    if not multiplies_bf16():
        pytest.skip("this CPU does not multiply bfloat16")
    runner = OpenVinoRunner(exported.folder, exported.catalog, 1, precision="bf16")
    yield runner
    runner.close()


def compiled_nodes(runner: OpenVinoRunner, segment: segments.Segment) -> list[tuple[str, str]]:
    """(type, precision) of every node of the compiled segment at batch 1."""
    model = runner._compiled[segment, 1].request.get_compiled_model().get_runtime_model()
    infos = [node.get_rt_info() for node in model.get_ordered_ops()]
    return [
        (str(i["layerType"].astype(str)), str(i["runtimePrecision"].astype(str))) for i in infos
    ]


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.bf16
def test_decoding_and_suppression_stay_in_float32(bf16_runner, depth):
    """Eight bits of mantissa would move boxes by pixels. Convolutions and what feeds them are in
    bfloat16; nothing that selects, decodes or compares is."""
    nodes = compiled_nodes(bf16_runner, segments.head(depth))
    in_bf16 = {kind for kind, precision in nodes if precision == "bf16"}
    assert "Convolution" in in_bf16
    assert in_bf16 <= {"Convolution", "Reorder", "Input", "Const", "Subgraph"}
    kinds = [kind for kind, _ in nodes]
    decisions = nodes[len(kinds) - kinds[::-1].index("Convolution") :]
    assert {"TopK", "Reduce"} <= {kind for kind, _ in decisions}
    assert {precision for kind, precision in decisions if kind != "Reorder"} <= {"f32", "i32", "u8"}


@pytest.mark.bf16
def test_features_cross_boundaries_in_the_computing_type(bf16_runner, exported):
    features = bf16_runner.run(segments.STEM, bf16_runner.load(exported.images[:1]))
    assert {tensor.get_element_type().get_type_name() for tensor in features.tensors} == {"bf16"}
    height, width = exported.frozen.config.feature_sizes[0]
    channels = exported.frozen.config.neck_channels
    assert tuple(features.tensors[0].shape) == (1, height, width, channels)


def test_convolutions_of_quantised_segments_are_computed_in_int8(exported):
    """All of a stack and a head, whose kernels levels share; the rest, and features, are in the
    type that they are in without quantisation."""
    runner = OpenVinoRunner(exported.folder, exported.catalog, 1, "int8", segments.unit_segments(1))
    for segment in (segments.stack(1), segments.head(1)):
        nodes = compiled_nodes(runner, segment)
        assert {precision for kind, precision in nodes if kind == "Convolution"} <= {"i8", "u8"}
    features = runner.run(segments.STEM, runner.load(exported.images[:1]))
    (kind,) = {tensor.get_element_type().get_type_name() for tensor in features.tensors}
    assert kind == ("bf16" if multiplies_bf16() else "f32")
    runner.close()


def test_equal_weights_are_in_memory_once(exported, monkeypatch):
    """Whatever runner has them, and no longer than one does."""
    # Other tests' runners, which have them too, share none of these.
    monkeypatch.setattr(compiling, "_weights", weakref.WeakValueDictionary())
    wanted = [segments.STEM]
    first, second = (
        OpenVinoRunner(exported.folder, exported.catalog, 1, "f32", wanted) for _ in range(2)
    )
    ((mine,), (its,)) = (runner._held_weights for runner in (first, second))
    assert len(mine) > 1
    assert all(a is b for a, b in zip(mine, its, strict=True))
    kept = weakref.ref(mine[0])
    first.close()
    del mine
    batch = second.load(exported.images[:1])
    expected = run_stem(exported)
    for tensor, array in zip(second.run(segments.STEM, batch).tensors, expected, strict=True):
        np.testing.assert_allclose(tensor.data.transpose(0, 3, 1, 2), array, atol=1e-3)
    second.close()
    del its, first, second, batch, tensor
    gc.collect()
    assert kept() is None


def run_stem(exported):
    """The features of the first image as ONNX Runtime computes them."""
    runner = OnnxRuntimeRunner(exported.folder, exported.catalog, 1, [segments.STEM])
    features = runner.run(segments.STEM, runner.load(exported.images[:1]))
    runner.close()
    return features.arrays


SIGNAL_AFTER_RUNNERS = """
import gc, signal, sys
from pathlib import Path
from serving.artifacts.model_folders import read_catalog
from serving.core import segment as segments
from serving.runners.openvino.runner import OpenVinoRunner

folder = Path(sys.argv[1])
runners = [OpenVinoRunner(folder, read_catalog(folder), 1, None, [segments.STEM]) for _ in "12"]
while runners:
    runners.pop(0).close()
    gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.raise_signal(signal.SIGUSR1)
"""


def test_a_signal_after_runners_that_ended_in_the_order_they_began(exported):
    """In a process of its own, which OpenVINO ends where each has a core of its own."""
    ended = subprocess.run(
        [sys.executable, "-c", SIGNAL_AFTER_RUNNERS, str(exported.folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "handled\n"), ended.stderr


@pytest.mark.bf16
def test_memory_is_reused(bf16_runner, exported):
    def run() -> int:
        batch = bf16_runner.load(exported.images[:1])
        features = bf16_runner.run(segments.STEM, batch)
        bf16_runner.release(batch)
        address = features.tensors[0].data.ctypes.data
        bf16_runner.release(features)
        return address

    assert run() == run()


@pytest.mark.bf16
def test_releasing_twice_does_not_hand_memory_out_twice(bf16_runner, exported):
    features = bf16_runner.run(segments.STEM, bf16_runner.load(exported.images[:1]))
    bf16_runner.release(features)
    bf16_runner.release(features)
    first, second = (
        bf16_runner.run(segments.STEM, bf16_runner.load([image])) for image in exported.images[:2]
    )
    assert not np.shares_memory(first.tensors[0].data, second.tensors[0].data)


@pytest.mark.bf16
def test_what_was_released_is_not_merged(bf16_runner, exported):
    kept, gone = (
        bf16_runner.run(segments.STEM, bf16_runner.load([image])) for image in exported.images[:2]
    )
    bf16_runner.release(gone)
    with pytest.raises(AssertionError, match="has been released"):
        bf16_runner.merge([kept, gone])


@pytest.fixture(params=["f32", pytest.param("bf16", marks=pytest.mark.bf16)])
def between(request, monkeypatch):
    """What an int8 runner computes in between convolutions: the fast one of the two types."""
    if request.param == "bf16" and not multiplies_bf16():
        pytest.skip("this CPU does not multiply bfloat16")
    monkeypatch.setattr(openvino_runner, "multiplies_bf16", lambda: request.param == "bf16")
    return request.param


@pytest.mark.parametrize("depth", [1, 2])
def test_int8_is_what_the_quantised_segments_say(exported, between, depth):
    """ONNX Runtime computes the same numbers: most boxes of a network of random weights are alike,
    on a CPU without VNNI too. Kernels of eight bits, which overflow there, leave hardly any."""
    wanted = segments.unit_segments(depth)
    quantised = exported.folder / CPU_FOLDER
    share = {"f32": 0.7, "bf16": 0.5}[between]
    case = Case("openvino", {"precision": "int8"}, share, 6.0, 0.1)
    found = []
    for runner in (
        OnnxRuntimeRunner(quantised, exported.catalog, 1, wanted),
        OpenVinoRunner(exported.folder, exported.catalog, 1, "int8", wanted),
    ):
        found.append(unit_path(runner, exported.images, depth))
        runner.close()
    for expected, actual in zip(*found, strict=True):
        assert_alike(case, expected, actual)


def rounding_to_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a quantised segment that rounds all numbers outside the quantised ones to bfloat16,
    which ONNX Runtime cannot compute in."""
    known = onnx.shape_inference.infer_shapes(model).graph
    floats = {
        port.name
        for port in (*known.value_info, *known.output)
        if port.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    for node in model.graph.node:
        added = copy.graph.node.add()
        added.CopyFrom(node)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for index, name in enumerate(node.output):
            if name in floats:
                added.output[index] = f"{name} exact"
                for source, target, kind in (
                    (f"{name} exact", f"{name} rounded", onnx.TensorProto.BFLOAT16),
                    (f"{name} rounded", name, onnx.TensorProto.FLOAT),
                ):
                    copy.graph.node.append(
                        onnx.helper.make_node("Cast", [source], [target], to=kind)
                    )
    return copy


def as_float32(tensor: ov.Tensor) -> np.ndarray:
    """Features of the runner, channels first; numpy shows bfloat16, half a float32, as float16."""
    data = tensor.data
    if tensor.get_element_type() == ov.Type.bf16:
        data = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return data.transpose(0, 3, 1, 2)


def test_int8_features_are_off_by_the_rounding_between_convolutions(exported, between, tmp_path):
    """Rounding gives some numbers another code of eight bits, and each stack of a network of random
    weights makes that larger, without OpenVINO as well: ONNX Runtime that rounds to bfloat16 lies
    as far from ONNX Runtime that does not. In float32 it is less than two thirds as much."""
    quantised = exported.folder / CPU_FOLDER
    wanted = (segments.STEM, segments.stack(1), segments.stack(2))
    for segment in wanted:
        name = exported.catalog.segments[segment.name].file
        onnx.save(rounding_to_bf16(onnx.load(quantised / name)), tmp_path / name)
    runners: tuple[Any, ...] = (
        OnnxRuntimeRunner(quantised, exported.catalog, 1, wanted),
        OnnxRuntimeRunner(tmp_path, exported.catalog, 1, wanted),
        OpenVinoRunner(exported.folder, exported.catalog, 1, "int8", wanted),
    )
    batches = [runner.load(exported.images) for runner in runners]
    for segment in wanted:
        batches = [runner.run(segment, b) for runner, b in zip(runners, batches, strict=True)]
        exact, rounded, actual = batches
        for right, expected, tensor in zip(
            exact.arrays, rounded.arrays, actual.tensors, strict=True
        ):
            allowed = np.std(expected - right) * {"f32": 0.66, "bf16": 1.15}[between]
            assert np.std(as_float32(tensor) - right) < allowed, segment
    for runner in runners:
        runner.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Where the model of this repository lies, quantised as far as exit 3, its catalogue, and
    images that it was not calibrated on."""
    folder = tmp_path_factory.mktemp("trained")
    catalog, images = trained_detector(folder, 3)
    quantize_segments(folder, ModelEntry((catalog,)), {catalog.size: images[4:]})
    return folder, catalog, images[:4]


@pytest.mark.slow
def test_a_trained_network_finds_the_same_in_int8(trained):
    """Nearly every box that is more likely than not has a counterpart of its class within four
    pixels, at the first exit and at the third."""
    folder, catalog, images = trained
    depths = (1, 3)
    found: dict[str, dict[int, list[Detections]]] = {}
    for precision in ("f32", "int8"):
        runner = OpenVinoRunner(folder, catalog, 1, precision, segments.unit_segments(3))
        found[precision] = {depth: unit_path(runner, images, depth) for depth in depths}
        runner.close()
    for depth in depths:
        num_sure = num_near = 0
        for before, after in zip(found["f32"][depth], found["int8"][depth], strict=True):
            boxes, others = before.boxes_xyxy_input, after.boxes_xyxy_input
            near = np.abs(boxes[:, None] - others[None]).max(-1) < 4
            near &= np.abs(before.scores[:, None] - after.scores[None]) < 0.15
            near &= before.labels[:, None] == after.labels[None]
            sure = before.scores > 0.5
            num_sure += int(sure.sum())
            num_near += int(near.any(-1)[sure].sum())
        assert num_sure > 30
        assert num_near > 0.9 * num_sure, depth


def test_replicas_run_beside_each_other(exported):
    """They give what one gives, and end each by itself."""
    wanted = segments.fused_segments(1)
    first = OpenVinoRunner(exported.folder, exported.catalog, 1, "f32", wanted, num_instances=2)
    second = first.replica()

    def detect(runner, image):
        boxes = []
        for _ in range(20):
            batch = runner.load([image])
            output = runner.run(segments.fused_exit(1), batch)
            boxes.append(runner.detections(output)[0])
            for each in (batch, output):
                runner.release(each)
        return boxes

    images = exported.images[:2]
    with ThreadPoolExecutor(2) as pool:
        side_by_side = [*pool.map(detect, (first, second), images)]
    first.close()
    for found, image in zip(side_by_side, images, strict=True):
        alone = detect(second, image)[0]
        for boxes in found:
            np.testing.assert_array_equal(boxes.boxes_xyxy_input, alone.boxes_xyxy_input)
            np.testing.assert_array_equal(boxes.scores, alone.scores)
    with pytest.raises(RuntimeError, match="closed"):
        first.replica()
    second.close()


# ---- compiled segments on disk ------------------------------------------------------------------

WANTED = frozenset({segments.STEM, segments.stack(1), segments.head(1), segments.fused_exit(1)})


def boxes(runner: OpenVinoRunner, images: list[np.ndarray]) -> list[Any]:
    """Everything that both ways to exit 1 give, at batch sizes 1 and 4."""
    found = []
    for batch in (images[:1], images[:4]):
        loaded = runner.load(batch)
        features = runner.run(segments.stack(1), runner.run(segments.STEM, loaded))
        for output in (
            runner.run(segments.head(1), features),
            runner.run(segments.fused_exit(1), loaded),
        ):
            found += [
                each
                for row in runner.detections(output)
                for each in (row.boxes_xyxy_input, row.scores, row.labels)
            ]
    return found


@pytest.fixture
def opened(exported, tmp_path, monkeypatch):
    """Opens runners with a cache, which is told how many segments had to be compiled."""
    compiled: list[Any] = []

    compile_one = Compiler._compile

    def counting(self, unit, segment, size):
        compiled.append((segment, size))
        return compile_one(self, unit, segment, size)

    monkeypatch.setattr(Compiler, "_compile", counting)

    def create(precision: str | None = None, threads: int = 1) -> tuple[OpenVinoRunner, int]:
        compiled.clear()
        cache = CompiledCache(tmp_path, 10**9)
        runner = OpenVinoRunner(
            exported.folder, exported.catalog, threads, precision, WANTED, cache=cache
        )
        return runner, len(compiled)

    return create


@pytest.mark.slow
@pytest.mark.parametrize("precision", [None, "f32", "int8"])
def test_what_was_kept_is_not_compiled_again_and_finds_the_same(opened, exported, precision):
    (first, num_compiled), images = opened(precision), exported.images
    assert num_compiled == 2 * len(WANTED)
    (second, num_compiled) = opened(precision)
    assert num_compiled == 0
    for expected, found in zip(boxes(first, images), boxes(second, images), strict=True):
        assert np.array_equal(expected, found)
    assert len(boxes(second, images)) > 0
    for runner in (first, second):
        runner.close()


@pytest.mark.slow
def test_what_was_kept_for_something_else_is_not_taken(opened):
    assert opened("f32")[1] == 2 * len(WANTED)
    assert opened("int8")[1] == 2 * len(WANTED)
    assert opened("f32", threads=2)[1] == 2 * len(WANTED)
    assert opened("f32")[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flipped", "cut", "another", "gone"])
def test_what_is_damaged_is_compiled_again(opened, exported, tmp_path, damage):
    first, _ = opened("f32")
    path, *_ = sorted((tmp_path / "compiled").iterdir())
    data = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "another":  # whole, and yet none of ours
        path.write_bytes(
            hashlib.sha256(b"another").digest().ljust(HEADER_BYTES, b"\0") + b"another"
        )
    else:
        path.unlink()
    again, num_compiled = opened("f32")
    assert num_compiled == 1
    images = exported.images
    for expected, found in zip(boxes(first, images), boxes(again, images), strict=True):
        assert np.array_equal(expected, found)
    assert opened("f32")[1] == 0


def test_models_are_freed_one_after_the_other(exported):
    """With each goes the interpreter lock for a while, and whoever is served has to wait."""
    runner = OpenVinoRunner(exported.folder, exported.catalog, 1, batch_sizes=(1,))
    models = [weakref.ref(model) for model in runner._models.values()]
    left: list[int] = []
    runner.close(lambda: left.append(sum(model() is not None for model in models)))
    assert left == list(range(len(models), 0, -1)), "each is freed before the next pause"
    assert all(model() is None for model in models)
