"""Int8: explicit, symmetric, around every convolution and nowhere else."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from builder.exporting.half_precision import to_half
from builder.exporting.int8_segments import MAX_IMAGES, calibration_order, quantize_segments
from serving.artifacts.int8_segments import read_quantized
from serving.core import segment as segments
from serving.core.model_entry import ModelEntry
from tests.builder.exporting.half_nodes import half_nodes
from tests.exported import exported_detector, trained_detector


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return exported_detector(tmp_path_factory.mktemp("segments"))


@pytest.fixture(scope="module")
def folder(exported):
    return exported.quantize()


@pytest.fixture(scope="module")
def models(exported, folder):
    units = segments.unit_segments(exported.catalog.num_exits)
    return {segment: onnx.load(folder / f"{segment.name}.onnx") for segment in units}


def producers(model):
    return {name: node for node in model.graph.node for name in node.output}


def test_every_convolution_is_quantised_explicitly(models):
    """Both its input and its kernel go through a pair of nodes with a zero point of 0; the kernel
    has a scale for each output channel, the input one."""
    for model in models.values():
        made = producers(model)
        constants = {x.name: numpy_helper.to_array(x) for x in model.graph.initializer}
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        assert convolutions
        for node in convolutions:
            for index, per_channel in ((0, False), (1, True)):
                dequantize = made[node.input[index]]
                quantize = made[dequantize.input[0]]
                assert (dequantize.op_type, quantize.op_type) == (
                    "DequantizeLinear",
                    "QuantizeLinear",
                )
                for pair in (dequantize, quantize):
                    scale, zero = (constants[name] for name in pair.input[1:3])
                    assert zero.dtype == np.int8
                    assert not zero.any()
                    kernel = constants.get(quantize.input[0])
                    assert scale.shape == ((kernel.shape[0],) if per_channel else ())
                    assert (scale > 0).all()


def test_nothing_else_is_quantised(models):
    """Each pair is there for a convolution, biases are none. In a backbone, the shortcut past a
    convolution takes what the convolution takes."""
    for segment, model in models.items():
        shortcuts = {"Add"} if segment == segments.STEM else set()
        for node in model.graph.node:
            if node.op_type == "DequantizeLinear":
                users = [user for user in model.graph.node if node.output[0] in user.input]
                assert {"Conv"} <= {user.op_type for user in users} <= {"Conv"} | shortcuts
                assert all(list(user.input).index(node.output[0]) < 2 for user in users)


def test_files_are_for_every_version(models):
    for model in models.values():
        assert [(x.domain, x.version) for x in model.opset_import] == [("", 17)]


def run_chain(models, images, depth):
    values = [images]
    for segment in segments.unit_path(depth):
        model = models[segment].SerializeToString()
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        values = [
            value.astype(np.float16) if port.type == "tensor(float16)" else value
            for port, value in zip(session.get_inputs(), values, strict=True)
        ]
        names = [port.name for port in session.get_inputs()]
        values = session.run(None, dict(zip(names, values, strict=True)))
    return values


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The model of this repository as far as exit 1, before and after, and images it knows."""
    folder = tmp_path_factory.mktemp("trained")
    catalog, images = trained_detector(folder, 1)
    quantized = quantize_segments(folder, ModelEntry((catalog,)), {catalog.size: images[4:]})
    before, after = (
        {s: onnx.load(where / f"{s.name}.onnx") for s in segments.unit_segments(1)}
        for where in (folder, quantized)
    )
    return before, after, np.stack(images[:4])


@pytest.mark.parametrize("convert", [lambda model: model, to_half], ids=["float32", "half"])
def test_boxes_stay_close(trained, convert):
    """On images that were not calibrated on: nearly every box that is more likely than not has a
    counterpart of its class within four pixels."""
    before, after, images = trained
    boxes, scores, labels, _ = run_chain(before, images, 1)
    found = run_chain({s: convert(model) for s, model in after.items()}, images, 1)
    near = np.abs(boxes[:, :, None] - found[0][:, None]).max(-1) < 4
    near &= np.abs(scores[:, :, None] - found[1][:, None]) < 0.15
    near &= labels[:, :, None] == found[2][:, None]
    sure = scores > 0.5
    assert sure.sum() > 30
    assert near.any(-1)[sure].mean() > 0.9


def test_half_precision_quantises_in_half_precision(models):
    for model in models.values():
        half = to_half(model)
        assert half.opset_import[0].version == 19
        assert half.ir_version >= 9
        in_half = {node.name for node in half_nodes(half)}
        kinds = {x.name: x.data_type for x in half.graph.initializer}
        for node in half.graph.node:
            if node.op_type == "DequantizeLinear":
                assert node.name in in_half
                assert kinds[node.input[1]] == TensorProto.FLOAT16


def test_each_depth_is_calibrated_on_what_comes_before_it():
    assert segments.names(calibration_order(2)) == (
        "stem",
        "stack_1",
        "head_1",
        "stack_2",
        "head_2",
    )


def test_what_was_quantised_is_on_record(exported, folder, tmp_path):
    record = read_quantized(folder, exported.catalog.digest)
    assert record.num_images == len(exported.images) < MAX_IMAGES
    assert record.runtime == f"onnxruntime {onnxruntime.__version__}"
    with pytest.raises(ValueError, match=r"were made of model .*, the catalogue describes 0123"):
        read_quantized(folder, "0123")
    with pytest.raises(ValueError, match="there are no quantised segments"):
        read_quantized(tmp_path, exported.catalog.digest)
    wrongs: list[object] = [{"model": 1}, [], asdict(record) | {"files": None}]
    for wrong in wrongs:
        (tmp_path / "quantized.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="cannot be used"):
            read_quantized(tmp_path, exported.catalog.digest)


def test_calibration_without_images_is_refused(exported):
    with pytest.raises(ValueError, match="at least one image"):
        quantize_segments(exported.folder, exported.entry, {exported.catalog.size: []})


def test_the_root_logger_is_as_it_was(folder):
    assert folder.is_dir()
    record = logging.makeLogRecord({"msg": "Please consider pre-processing"})
    assert logging.getLogger().filter(record)
