"""Files as exporters write them: stand-ins with the names, inputs and shapes of the real ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from builder.config.coco import COCO_CLASSES
from builder.onnx_import.errors import ForeignModelError
from builder.onnx_import.layouts import LAYOUTS
from tests.builder.onnx_import.detectors import (
    NAMES,
    SIDE,
    THINGS,
    known_detector,
    random_detector,
)

BLACK = np.zeros((SIDE, SIDE, 3), np.uint8)


def known(name: str, **facts: str) -> onnx.ModelProto:
    return known_detector(LAYOUTS[name].changed(facts))


def renamed(model: onnx.ModelProto, **names: str) -> onnx.ModelProto:
    """The model with its outputs called otherwise."""
    for port in model.graph.output:
        name = names.get(port.name, port.name)
        model.graph.node.append(helper.make_node("Identity", [port.name], [f"{name}_"]))
        port.name = f"{name}_"
    return model


def with_outputs(model: onnx.ModelProto, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    """The model with more outputs, before its own: constants that depend on the image."""
    own = list(model.graph.output)
    del model.graph.output[:]
    for name, shape in shapes.items():
        array = np.full(shape, 0.5, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, f"known_{name}"))
        zero = "zero" if len(shape) < 2 else f"zeros_{min(len(shape), 3) - 1}"
        model.graph.node.append(helper.make_node("Add", [f"known_{name}", zero], [name]))
        model.graph.output.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * max(len(shape), 1))
        )
    model.graph.output.extend(own)
    return model


def with_input(model: onnx.ModelProto, name: str, kind: int, *shape: int | str) -> onnx.ModelProto:
    """The model with one more input, which every output is multiplied by the mean of."""
    model.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    cast, mean = f"{name}_float", f"{name}_mean"
    model.graph.node.append(helper.make_node("Cast", [name], [cast], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("ReduceMean", [cast], [mean], keepdims=0))
    for port in model.graph.output:
        scaled = f"{port.name}_by_{name}"
        model.graph.node.append(helper.make_node("Mul", [port.name, mean], [scaled]))
        port.name = scaled
    return model


def labels_of(rows):
    return [label for label, _, _ in rows]


FOUND = [thing.label for thing in THINGS]
"""Labels of all that a detector finds which suppresses by itself."""


# -- what outputs are called ----------------------------------------------------------------------


def test_outputs_beside_boxes_and_scores_are_not_read(imported, find, capsys):
    """As Transformers gives them: what the encoder and each layer saw."""
    model = with_outputs(
        renamed(known("detr"), scores="logits", boxes="pred_boxes"),
        last_hidden_state=(1, 84, 32),
        enc_outputs_class=(1, 4, len(NAMES)),
        intermediate=(1, 2, 84, 4),
        num_queries=(),
    )
    entry = imported(model)
    assert "the outputs logits_ [1, 84, 3], pred_boxes_ [1, 84, 4] of 6" in capsys.readouterr().out
    ((rows,),) = find(entry, [BLACK])
    assert labels_of(rows) == FOUND


def test_outputs_that_do_not_depend_on_the_image_are_not_read(imported):
    model = known("yolov8")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 84, 2)), "anchors_0"))
    model.graph.node.append(helper.make_node("Identity", ["anchors_0"], ["anchors"]))
    model.graph.output.append(
        helper.make_tensor_value_info("anchors", TensorProto.DOUBLE, [1, 84, 2])
    )
    assert imported(model).catalogs[0].classes == NAMES


def test_of_two_that_are_alike_the_names_decide_or_nothing_does(imported):
    two = with_outputs(known("yolov8"), other=(1, 7, 84))
    with pytest.raises(ForeignModelError, match="say which with --exits, such as other"):
        imported(two)
    assert imported(two, exits=(("boxes+scores",),)).catalogs[0].classes == NAMES


@pytest.mark.parametrize(
    ("layout", "pixels"), [("rf-detr", "0.485, 0.456, 0.406"), ("detr", "- [0, 0, 0]")]
)
def test_rf_detr_is_known_by_its_names(layout, pixels, imported, capsys):
    """It differs from others in what it takes, not in what it gives."""
    imported(known(layout))
    said = capsys.readouterr().out
    assert f"{layout}: the outputs" in said
    assert pixels in said


def test_tensorflow_is_known_by_its_names(imported, find, tmp_path):
    model = with_outputs(
        known("tensorflow"), num_detections=(1,), raw_detection_scores=(1, 9, len(NAMES))
    )
    entry = imported(model)
    ((rows,),) = find(entry, [BLACK])
    assert labels_of(rows) == FOUND, "numbered from 1, y first"
    assert rows[0][2] == pytest.approx(THINGS[0].box, abs=1e-2)


# -- what the numbers of classes stand for --------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "first"), [("boxes-labels-scores", 0), ("end-to-end", 0), ("tensorflow", 1)]
)
def test_coco_in_its_order_or_by_its_ids(layout, first, imported, find, capsys):
    entry = imported(known(layout), classes="coco", layout=layout)
    assert f"where {first} is person" in capsys.readouterr().out
    assert entry.catalogs[0].classes == COCO_CLASSES
    ((rows,),) = find(entry, [BLACK])
    assert labels_of(rows) == FOUND


def test_a_label_beyond_the_eighty_says_that_they_are_ids(imported, find):
    driers = [replace(thing, label=89) for thing in THINGS]  # a hair drier, by COCO's ids
    model = known_detector(LAYOUTS["end-to-end"], driers)
    entry = imported(model, classes="coco", layout="end-to-end")
    ((rows,),) = find(entry, [BLACK])
    assert {COCO_CLASSES[label] for label in labels_of(rows)} == {"hair drier"}


def test_names_of_torchvision_may_be_given_as_it_has_them(imported, find, tmp_path):
    (tmp_path / "names.txt").write_text("__background__\ncat\ndog\nN/A\nowl\n")
    owls = [replace(thing, label=3) for thing in THINGS]  # 4 in the file
    entry = imported(
        known_detector(LAYOUTS["torchvision"], owls), classes=str(tmp_path / "names.txt")
    )
    assert entry.catalogs[0].classes == NAMES
    ((rows,),) = find(entry, [BLACK], 1)
    assert labels_of(rows) == [2] * len(THINGS)


def test_the_number_of_classes_that_would_fit_is_said(imported):
    with pytest.raises(ForeignModelError, match=r"they would fit 3 of yolov8,"):
        imported(random_detector(), classes="coco-ids")


# -- YOLO: objectness, offsets, metadata ----------------------------------------------------------


def test_yolov6_has_a_row_for_each_cell_and_objectness_one(imported, capsys):
    model = known("yolox-decoded")
    for tensor in model.graph.initializer:
        if tensor.name.startswith("known_"):
            rows = numpy_helper.to_array(tensor).copy()
            rows[..., 4] = 1.0
            tensor.CopyFrom(numpy_helper.from_array(rows, tensor.name))
    entry = imported(model)
    assert "not yolox-decoded: objectness is 1 everywhere" in capsys.readouterr().out
    assert entry.catalogs[0].resize == "letterbox-centre"


def ultralytics(**entries: str) -> onnx.ModelProto:
    model = random_detector(side="side")
    names = {"names": str(dict(enumerate(NAMES))), "stride": "32", **entries}
    helper.set_model_props(model, names)
    return model


@pytest.mark.parametrize("stated", ["[64, 96]", "(64, 96)"])
def test_the_size_is_that_of_the_metadata(stated, imported):
    entry = imported(ultralytics(imgsz=stated), classes="metadata")
    assert [each.input.size for each in entry.catalogs] == ["96x64"]
    entry = imported(ultralytics(imgsz=stated), classes="metadata", sizes=((32, 32),))
    assert [each.input.size for each in entry.catalogs] == ["32x32"]


@pytest.mark.parametrize("stated", ["", "large", "[64]", "[64, 'x']", "[0, 64]", "{64: 64}"])
def test_a_size_that_is_none_is_asked_for(stated, imported):
    with pytest.raises(ForeignModelError, match="say which ones with --sizes"):
        imported(ultralytics(imgsz=stated), classes="metadata")


@pytest.mark.parametrize("task", ["segment", "pose", "obb", "classify"])
def test_other_tasks_are_refused_by_name(task, imported):
    with pytest.raises(ForeignModelError, match=f"its task is '{task}', not 'detect'"):
        imported(ultralytics(task=task, imgsz="[64, 64]"), classes="metadata")


# -- inputs beside the image ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        ("pixel_mask", TensorProto.INT64, ("n", "h", "w")),
        ("scale_factor", TensorProto.FLOAT, (1, 2)),
        ("scale_factor", TensorProto.FLOAT, (2,)),
    ],
)
def test_inputs_that_say_nothing_new_are_given(name, kind, shape, imported, find):
    model = with_input(known("detr"), name, kind, *shape)
    ((rows,),) = find(imported(model, layout="detr"), [BLACK])
    assert labels_of(rows) == FOUND


def test_paddle_takes_the_shape_and_gives_rows_and_a_count(imported, find):
    model = with_input(known("paddle"), "scale_factor", TensorProto.FLOAT, 1, 2)
    model = with_outputs(model, bbox_num=(1,))
    model.graph.input.append(helper.make_tensor_value_info("im_shape", TensorProto.FLOAT, [1, 2]))
    ((rows,),) = find(imported(model), [BLACK], 1)
    assert labels_of(rows) == FOUND


def test_another_input_is_named(imported):
    model = with_input(known("detr"), "prompt", TensorProto.INT64, 1, 16)
    with pytest.raises(ForeignModelError, match=r"should have one input, .*prompt int64 \[1, 16\]"):
        imported(model)
