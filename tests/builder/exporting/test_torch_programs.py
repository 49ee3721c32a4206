"""Torch programs: what is in the files, and what an export that was stopped leaves."""

from __future__ import annotations

import json

import pytest
import torch

from builder.exporting.onnx_segments import segment_functions
from builder.exporting.repository import sha256
from builder.exporting.torch_programs import export_programs
from builder.modeling.frozen import example_inputs
from serving.artifacts.model_folders import ModelNotFound, read_catalog
from serving.artifacts.torch_programs import FOLDER, RECORD, Programs
from serving.core import segment as segments
from tests.exported import exported_detector, write_programs


def record_of(exported) -> Programs:
    return Programs.from_json(json.loads((exported.folder / FOLDER / RECORD).read_text()))


def test_the_record_describes_the_files_and_the_model(exported):
    record = record_of(exported)
    assert record.model == read_catalog(exported.folder).digest
    assert record.torch == torch.__version__
    units = segments.unit_segments(exported.catalog.num_exits)
    assert set(record.segments) == set(segments.names(units))
    for entry in record.segments.values():
        assert sha256(exported.folder / FOLDER / entry.file) == entry.sha256
    assert Programs.from_json(record.to_json()) == record


@pytest.mark.parametrize("segment", [segments.STEM, segments.stack(2), segments.head(1)])
def test_a_program_holds_its_own_weights_and_takes_any_batch(exported, segment):
    path = exported.folder / FOLDER / f"{segment.name}.pt2"
    program = torch.export.load(path)
    expected = {
        segments.STEM: ("detector.backbone.", "detector.neck_input."),
        segments.stack(2): ("detector.stacks.1.",),
        segments.head(1): ("detector.retina_head.",),
    }[segment]
    assert program.state_dict
    assert all(name.startswith(expected) for name in program.state_dict)
    norms = {name.split(".")[4] for name in program.state_dict if ".norms." in name}
    assert norms == ({"0"} if segment.head else set()), "of exit 1 alone"

    module = program.module()
    function = segment_functions(exported.frozen)[segment]
    for batch in (1, 3, 8):
        generator = torch.Generator().manual_seed(batch)
        inputs = [
            (100 * torch.rand(batch, *x.shape[1:], generator=generator)).to(x.dtype)
            for x in example_inputs(exported.frozen, segment)
        ]
        with torch.inference_mode():
            for actual, wanted in zip(module(*inputs), function(*inputs), strict=True):
                torch.testing.assert_close(actual, wanted)


def test_exporting_leaves_the_detector_alone_and_a_stopped_export_leaves_no_record(
    exported, tmp_path, monkeypatch
):
    (tmp_path / "catalog.json").write_bytes((exported.folder / "catalog.json").read_bytes())
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / RECORD).write_text("of an earlier export")
    before = {name: tensor.clone() for name, tensor in exported.frozen.state_dict().items()}

    def disk_full(program, path):
        raise OSError("no space left")

    monkeypatch.setattr(torch.export, "save", disk_full)
    with pytest.raises(OSError, match="no space"):
        export_programs(exported.frozen, tmp_path)
    assert not (tmp_path / FOLDER / RECORD).exists()
    after = exported.frozen.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_no_programs_without_a_catalogue(exported, tmp_path):
    with pytest.raises(ModelNotFound, match=r"catalog\.json"):
        export_programs(exported.frozen, tmp_path)


def test_refining_stacks_are_programs_as_well(tmp_path):
    ssdlite = {"architecture": "ssdlite", "backbone": "mobilenet_v2", "backbone_width": 32}
    size = {"input_size": (76, 76), "neck_channels": 8, "num_stacks": 2, "conv": "separable"}
    exported = exported_detector(tmp_path, **ssdlite, **size)
    write_programs(exported)
    for segment, function in segment_functions(exported.frozen).items():
        module = torch.export.load(tmp_path / FOLDER / f"{segment.name}.pt2").module()
        inputs = example_inputs(exported.frozen, segment)
        with torch.inference_mode():
            for ours, theirs in zip(module(*inputs), function(*inputs), strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
