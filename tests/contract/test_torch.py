"""What only torch can get wrong: rewritten graphs, captured graphs, files."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from serving.core import segment as segments
from serving.core.catalog import SegmentFile
from serving.runners.torch import cuda_graphs
from serving.runners.torch.buffers import ALIGNMENT, Buffers, Pool
from serving.runners.torch.programs import check_archive, load_programs
from serving.runners.torch.runner import PRECISIONS, TorchRunner
from tests.captured import CapturedRunner, FakeDevice

CPU = torch.device("cpu")
aten = torch.ops.aten


def programs(exported, dtype=torch.float32):
    wanted = segments.unit_segments(exported.catalog.num_exits)
    return load_programs(exported.folder, exported.catalog, wanted, CPU, dtype)


@pytest.fixture(scope="module")
def in_bf16(exported):
    return programs(exported, torch.bfloat16)


@pytest.fixture(scope="module")
def in_f32(exported):
    return programs(exported)


@pytest.fixture(scope="module")
def captured(exported):
    runner = CapturedRunner(exported.folder, exported.catalog, None, "cpu", "f32")
    yield runner
    runner.close()


# -- rewriting -------------------------------------------------------------------------------------


class Types(TorchDispatchMode):
    """The operators that ran, in order, with the types of their floating-point tensors."""

    def __init__(self):
        super().__init__()
        self.ran = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in (*args, result) if isinstance(x, torch.Tensor)]
        self.ran.append((func.overloadpacket, {x.dtype for x in tensors if x.is_floating_point()}))
        return result


def types_of(program, *inputs):
    with torch.no_grad(), Types() as types:
        program(*inputs)
    return types.ran


def features(exported, dtype):
    channels = exported.frozen.config.neck_channels
    return [
        torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0)).to(
            dtype, memory_format=torch.channels_last
        )
        for size in exported.frozen.config.feature_sizes
    ]


def test_decoding_and_suppression_stay_in_float32(exported, in_bf16):
    ran = types_of(in_bf16[segments.head(1)], *features(exported, torch.bfloat16))
    last = max(index for index, (op, _) in enumerate(ran) if op is aten.convolution)
    assert all(types == {torch.bfloat16} for op, types in ran[: last + 1] if types)
    tail = ran[last + 1 :]
    ops = [op for op, _ in tail]
    assert {aten.topk, aten.exp, aten.sigmoid} <= set(ops)
    for op, types in tail[ops.index(aten.topk) :]:
        assert types <= {torch.float32}, op


def test_pixels_are_normalised_in_float32(exported, in_bf16):
    ran = types_of(in_bf16[segments.STEM], torch.from_numpy(exported.images[0][None]))
    first = min(index for index, (op, _) in enumerate(ran) if op is aten.convolution)
    assert {aten.sub, aten.div} <= {op for op, types in ran[:first] if types == {torch.float32}}
    assert all(types == {torch.bfloat16} for _, types in ran[first:] if types)


def test_features_cross_boundaries_channels_last_in_the_computing_type(exported, in_bf16):
    images = torch.from_numpy(np.stack(exported.images))
    with torch.inference_mode():
        outputs = in_bf16[segments.STEM](images)
        outputs = in_bf16[segments.stack(1)](*outputs)
    for output in outputs:
        assert output.dtype == torch.bfloat16
        assert output.is_contiguous(memory_format=torch.channels_last)


def test_normalisations_are_folded_into_convolutions(exported, in_f32):
    """Only behind a shared kernel a normalisation is a step of its own, and it is one step."""
    config = exported.frozen.config
    levels, towers = len(config.feature_sizes), 2

    def count(segment, op):
        return len(in_f32[segment].graph.find_nodes(op="call_function", target=op.default))

    assert count(segments.STEM, aten.addcmul) == 0
    assert count(segments.stack(1), aten.addcmul) == 0
    assert count(segments.head(1), aten.addcmul) == levels * towers * config.head_convs
    stem = in_f32[segments.STEM].graph
    assert not stem.find_nodes(op="call_function", target=aten.mul.Tensor)


def test_no_tensor_is_left_on_the_device_of_the_exporter(exported, monkeypatch):
    """On a device without data, which refuses to mix with another."""
    monkeypatch.setattr(torch, "equal", lambda a, b: a is b)  # there are no values to compare
    path = segments.unit_path(1)
    loaded = load_programs(
        exported.folder, exported.catalog, path, torch.device("meta"), torch.float16
    )
    tensors = (torch.from_numpy(np.stack(exported.images)).to("meta"),)
    for segment in path:
        tensors = loaded[segment](*tensors)
        assert {x.device.type for x in tensors} == {"meta"}


def test_heads_share_their_kernels_in_memory(exported, in_f32):
    def kernels(depth):
        return {
            name: tensor.data_ptr()
            for name, tensor in in_f32[segments.head(depth)].named_buffers()
            if name.endswith("weight")
        }

    first = kernels(1)
    assert first
    for depth in range(2, exported.catalog.num_exits + 1):
        assert kernels(depth) == first


# -- captured --------------------------------------------------------------------------------------


def lone_request(runner, image, depth=3):
    batch = runner.load([image])
    for segment in segments.unit_path(depth):
        output = runner.run(segment, batch)
        runner.release(batch)
        batch = output
    (found,) = runner.detections(batch)
    runner.release(batch)
    return found


def test_a_lone_request_meets_the_same_graphs(captured, exported):
    first = lone_request(captured, exported.images[0])
    captures = captured.device.captures
    for depth in (1, 2, 3):
        lone_request(captured, exported.images[1], depth)
    again = lone_request(captured, exported.images[0])
    assert captured.device.captures == captures + 2, "the heads of depths 1 and 2"
    np.testing.assert_array_equal(first.boxes_xyxy_input, again.boxes_xyxy_input)


def test_graphs_are_bounded_and_made_again(captured, exported, monkeypatch):
    expected = lone_request(captured, exported.images[0])
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    captures = captured.device.captures
    for _ in range(2):
        found = lone_request(captured, exported.images[0])
        np.testing.assert_array_equal(expected.scores, found.scores)
    # The first run still has all of its graphs until it makes one of another segment.
    captured.release(captured.run(segments.fused_exit(2), captured.load(exported.images[:1])))
    assert len(captured._mode._graphs) == 2
    found = lone_request(captured, exported.images[0])
    np.testing.assert_array_equal(expected.scores, found.scores)
    assert captured.device.captures > captures + 1
    assert len(captured._mode._graphs) == 2


def test_fused_segments_are_one_graph(captured, exported):
    images = captured.load(exported.images[:1])
    captures = captured.device.captures
    captured.release(captured.run(segments.fused_exit(3), images))
    captured.release(captured.run(segments.fused_exit(3), images))
    assert captured.device.captures == captures + 1


def test_batches_are_padded_to_a_captured_size(captured, exported):
    batch = captured.run(segments.STEM, captured.load(exported.images[:3]))
    assert batch.size == 3
    assert {len(tensor) for tensor in batch.tensors} == {4}
    assert {len(x) for x in captured.select(batch, [2]).tensors} == {1}
    alone = captured.run(segments.STEM, captured.load(exported.images[:1]))
    for batches, size, padded in (([alone, alone], 2, 4), ([alone, batch, batch], 7, 8)):
        merged = captured.merge(batches)
        assert merged.size == size
        assert {len(tensor) for tensor in merged.tensors} == {padded}


def test_what_was_released_is_not_merged(captured, exported):
    kept, gone = (
        captured.run(segments.STEM, captured.load([image])) for image in exported.images[:2]
    )
    captured.release(gone)
    with pytest.raises(AssertionError, match="a released batch"):
        captured.merge([kept, gone])


def test_merged_features_stay_channels_last(exported):
    runner = TorchRunner(exported.folder, exported.catalog, None, "cpu", "f32")
    batches = [runner.run(segments.STEM, runner.load([image])) for image in exported.images[:2]]
    for tensor in (*runner.merge(batches).tensors, *runner.select(batches[0], [0]).tensors):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    runner.close()


def test_releasing_twice_does_not_hand_memory_out_twice(captured, exported):
    batch = captured.run(segments.STEM, captured.load(exported.images[:1]))
    captured.release(batch)
    captured.release(batch)
    first, second = (
        captured.run(segments.STEM, captured.load([image])) for image in exported.images[:2]
    )
    assert first.tensors[0].data_ptr() != second.tensors[0].data_ptr()


def test_buffers_lie_aligned_in_one_block_and_cross_at_once():
    specs = [((3, 5, 7), torch.float16), ((9, 4), torch.float32), ((9,), torch.int32)]
    buffers = Buffers(specs, 2, FakeDevice(), Pool(), mirrored=True)
    for tensor, (shape, dtype) in zip(buffers.tensors, specs, strict=True):
        assert (tuple(tensor.shape), tensor.dtype) == ((2, *shape), dtype)
    assert buffers.tensors[0].is_contiguous(memory_format=torch.channels_last)
    starts = [tensor.data_ptr() - buffers.tensors[0].data_ptr() for tensor in buffers.tensors]
    assert all(start % ALIGNMENT == 0 for start in starts)
    for (before, after), tensor in zip(pairwise(starts), buffers.tensors, strict=False):
        assert before + tensor.nbytes <= after
    for number, tensor in enumerate(buffers.tensors, start=1):
        tensor.fill_(number)
    buffers.to_host()
    for number, tensor in enumerate(buffers.host, start=1):
        assert tensor.eq(number).all()
        tensor.fill_(10 * number)
    buffers.to_device()
    assert [tensor.eq(10 * n).all().item() for n, tensor in enumerate(buffers.tensors, 1)] == [
        True
    ] * len(specs)


@pytest.mark.gpu
def test_a_replayed_graph_computes_what_its_programs_compute(exported):
    runner = TorchRunner(exported.folder, exported.catalog, None, device="cuda", precision="f32")
    eager = TorchRunner(exported.folder, exported.catalog, None, device="cpu", precision="f32")
    for image in exported.images:
        expected, actual = lone_request(eager, image), lone_request(runner, image)
        np.testing.assert_allclose(expected.scores[:5], actual.scores[:5], atol=5e-3)
    runner.close()
    eager.close()


# -- files -----------------------------------------------------------------------------------------


@pytest.fixture
def copied(exported, tmp_path):
    shutil.copytree(exported.folder / "torch", tmp_path / "torch")
    return tmp_path


def test_programs_of_another_model_are_refused_by_both_digests(exported, copied):
    changed = {**exported.catalog.segments, "stem": SegmentFile("stem.onnx", "0" * 64)}
    other = replace(exported.catalog, segments=changed)
    with pytest.raises(ValueError, match="build them again") as refused:
        TorchRunner(copied, other, None)
    assert exported.catalog.digest in str(refused.value)
    assert other.digest in str(refused.value)


def test_a_changed_file_is_refused(exported, copied):
    path = copied / "torch" / "stack_2.pt2"
    path.write_bytes((copied / "torch" / "stack_1.pt2").read_bytes())
    with pytest.raises(ValueError, match=r"stack_2\.pt2 is not the file"):
        TorchRunner(copied, exported.catalog, None)


def test_a_record_of_another_format_is_refused(exported, copied):
    path = copied / "torch" / "programs.json"
    record = json.loads(path.read_text())
    for changed, message in (
        ({**record, "format": 0}, "format 0"),
        ({key: value for key, value in record.items() if key != "model"}, "model"),
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            TorchRunner(copied, exported.catalog, None)


def test_missing_programs_are_an_error_that_names_the_file(exported, tmp_path):
    with pytest.raises(OSError, match=r"programs\.json"):
        TorchRunner(tmp_path, exported.catalog, None)


def test_a_program_with_something_pickled_is_refused():
    inputs = (torch.zeros(2),)
    program = torch.export.export(torch.nn.ReLU(), inputs, strict=False)
    with_inputs, plain = io.BytesIO(), io.BytesIO()
    torch.export.save(program, with_inputs)
    with pytest.raises(ValueError, match=r"sample_inputs/model\.pt is pickled"):
        check_archive(with_inputs.getvalue(), "x.pt2")
    program.example_inputs = None
    torch.export.save(program, plain)
    check_archive(plain.getvalue(), "x.pt2")


def test_an_unknown_precision_is_refused(exported):
    with pytest.raises(ValueError, match=f"none of {', '.join(PRECISIONS)}"):
        TorchRunner(exported.folder, exported.catalog, None, precision="int3")
