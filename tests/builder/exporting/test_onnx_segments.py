"""Exported segments: what is in the files, and that they compute what torch computes."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from builder.config.pyramid_graphs import GRAPHS
from builder.exporting.onnx_segments import SegmentError, _detections_error, verify_segments
from builder.exporting.repository import sha256, write_entry
from serving.artifacts.model_folders import read_catalog, version_folder
from serving.core import segment as segments
from serving.core.model_entry import ModelEntry
from tests.exported import exported_detector


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return exported_detector(tmp_path_factory.mktemp("segments"))


def test_every_unit_segment_agrees_with_torch(exported):
    errors = verify_segments(exported.frozen, exported.folder)
    units = segments.unit_segments(exported.catalog.num_exits)
    assert set(errors) == set(segments.names(units))
    assert max(errors.values()) < 1e-4


def test_a_segment_that_computes_something_else_is_found_out(exported, tmp_path):
    for path in exported.folder.glob("*.onnx"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "stack_2.onnx").write_bytes((exported.folder / "stack_1.onnx").read_bytes())
    with pytest.raises(SegmentError, match="stack_2 differs"):
        verify_segments(exported.frozen, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "resnet18"},
        {"backbone": "resnet50"},
        {"backbone": "mobilenet_v2", "conv": "separable", "neck": "nas_fpn_p6"},
        {"backbone": "amoebanet_d", "backbone_layers": 3, "activation": "swish"},
        {"flavour": "mmdet", "num_stacks": 2, "stacks_per_exit": 2, "anchor_offset": 0.0},
        {"neck": "fpn", "light_exits": 1, "light_head_channels": 8},
        {"neck": "mine", "graph": GRAPHS["fpn_p6"].rows, "light_exits": 1, "light_head_convs": 0},
    ],
    ids=lambda changes: "-".join(map(str, changes.values()))[:40],
)
def test_every_option_agrees_with_torch(changes, tmp_path):
    small = {"neck_channels": 16, "head_channels": 16, "num_stacks": 2, "input_size": (128, 128)}
    exported = exported_detector(tmp_path, **{**small, **changes})
    errors = verify_segments(exported.frozen, exported.folder)
    assert len(errors) == 1 + 2 * exported.catalog.num_exits
    stem = onnx.load(exported.folder / "stem.onnx")
    levels = exported.frozen.config.levels
    assert [port.name for port in stem.graph.output] == [f"p{level}_out" for level in levels]


@pytest.mark.parametrize("side", [76, 108])
def test_refining_stacks_agree_with_torch(side, tmp_path):
    ssdlite = {"architecture": "ssdlite", "backbone": "mobilenet_v2", "backbone_width": 32}
    size = {"input_size": (side, side), "neck_channels": 8, "num_stacks": 2, "conv": "separable"}
    exported = exported_detector(tmp_path, **ssdlite, **size, plain_exit=side == 76)
    errors = verify_segments(exported.frozen, exported.folder)
    assert len(errors) == 1 + 2 * (3 if side == 76 else 2)
    assert exported.catalog.description.startswith("SSDLite on mobilenet_v2")
    stack = onnx.load(exported.folder / "stack_1.onnx")
    names = [*(f"p{level}" for level in (3, 4, 5, 6, 7)), "logits", "deltas"]
    assert [port.name for port in stack.graph.input] == names
    assert [port.name for port in stack.graph.output] == [f"{name}_out" for name in names]


def detections(*rows):
    """Boxes, scores, labels and counts of one image."""
    columns = [np.array(column, np.float32)[None] for column in zip(*rows, strict=True)]
    return [*columns, np.array([len(rows)], np.int32)]


BEST, GOOD = ((0, 0, 8, 8), 0.9, 1), ((4, 4, 16, 16), 0.8, 0)


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ((BEST, GOOD), 0),
        ((BEST, (GOOD[0], 0.9, 0)), 0.1 / 0.9),  # another score
        ((BEST, (GOOD[0], 0.8, 1)), 1),  # another class
        ((BEST, ((4, 4, 16, 12), 0.8, 0)), 0.25),  # another box
        ((BEST, BEST), 1),  # a row twice in the place of another
    ],
)
def test_detections_that_differ_are_found_out(rows, error):
    found = _detections_error(detections(*rows), detections(BEST, GOOD))
    assert found == pytest.approx(error, abs=1e-6)


def test_rows_of_equal_scores_may_change_places():
    first, second = BEST, (GOOD[0], 0.9 - 1e-7, 0)
    assert _detections_error(detections(first, second), detections(second, first)) < 1e-6


def test_a_border_case_of_one_image_is_no_error() -> None:
    """But what differs in most images is."""
    right = [np.concatenate([x] * 5) for x in detections(BEST, GOOD)]

    def error(num_wrong: int) -> float:
        wrong = [x.copy() for x in right]
        wrong[0][:num_wrong, 1] += 4
        return _detections_error(wrong, right)

    assert error(1) == error(2) == 0
    assert error(3) == error(5) == 0.25


def test_files_are_portable(exported):
    """Opset 17, standard operators, only the batch is dynamic, nothing but weights inside."""
    for name, entry in exported.catalog.segments.items():
        model = onnx.load(exported.folder / entry.file)
        assert [(x.domain, x.version) for x in model.opset_import] == [("", 17)]
        assert {node.domain for node in model.graph.node} == {""}
        assert not {node.op_type for node in model.graph.node} & {
            "Loop",
            "If",
            "NonMaxSuppression",
            "NonZero",
        }
        for port in (*model.graph.input, *model.graph.output):
            batch, *sides = port.type.tensor_type.shape.dim
            assert batch.dim_param == "batch"
            assert all(side.dim_value > 0 for side in sides), name


def test_large_kernels_are_stored_once_in_half_precision(exported):
    for entry in exported.catalog.segments.values():
        graph = onnx.load(exported.folder / entry.file).graph
        kernels = [x for x in graph.initializer if len(x.dims) == 4 and np.prod(x.dims) >= 4096]
        assert all(kernel.data_type == TensorProto.FLOAT16 for kernel in kernels)
        contents = [numpy_helper.to_array(kernel).tobytes() for kernel in kernels]
        assert len(contents) == len(set(contents))


def test_catalogue_names_files_by_digest_and_round_trips(exported, tmp_path):
    for entry in exported.catalog.segments.values():
        assert sha256(exported.folder / entry.file) == entry.sha256
    folder = version_folder(tmp_path, "toy")
    folder.mkdir(parents=True)
    write_entry(ModelEntry((exported.catalog,)), folder)
    assert folder == tmp_path / "toy_anytime" / "1"
    assert read_catalog(folder) == exported.catalog


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99"),
        ({"classes": None}, "malformed"),
        ({"exits": []}, "has no exit"),
        ({"exits": [{"depth": 2, "ap": 0, "ap50": 0, "ap_by_class": {}}]}, "numbered"),
        ({"exits": [{"depth": 1}]}, "malformed"),
    ],
)
def test_catalogues_that_cannot_be_used_say_why(exported, change, message):
    data = json.loads(json.dumps(ModelEntry((exported.catalog,)).to_json()))
    (size,) = data["sizes"]
    for name, value in change.items():
        (size if name in size else data)[name] = value
    with pytest.raises(ValueError, match=message):
        ModelEntry.from_json(data)


def test_a_missing_fact_is_named(exported):
    data = ModelEntry((exported.catalog,)).to_json()
    del data["flavour"]
    with pytest.raises(ValueError, match="'flavour'"):
        ModelEntry.from_json(data)
