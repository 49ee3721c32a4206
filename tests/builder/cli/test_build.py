"""``punctual build``: for every target, and what it refuses before any work."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from builder.cli.build import PRECISIONS
from builder.exporting.repository import depth_folder, write_entry
from builder.exporting.triton_config import PLAN
from serving.artifacts.model_folders import read_catalog, version_folder
from serving.core.catalog import Evaluation
from serving.core.command_errors import CommandFailed
from serving.core.latency_profile import LatencyProfile, Quantiles
from serving.core.model_entry import ModelEntry
from serving.core.segment import fused_segments
from tests.builder.cli.commands import Tools, build, refused, run_build, usage_shown
from tests.cuda import fake_cuda

TENSORRT = ["build", "--model", "x", "--target", "tensorrt"]


@pytest.mark.slow
def test_segments_that_are_there_need_no_detector(repository, capsys):
    build(repository, "--model", "toy", "--target", "onnxruntime", "--target", "openvino")
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if "ran all" in line] == [
        "onnxruntime",
        "openvino",
    ]
    assert '"onnxruntime"' in (repository / "toy_d3/configs/cpu.pbtxt").read_text()
    build(repository, "--model", "toy")
    assert '"openvino"' in (repository / "toy_d3/configs/cpu.pbtxt").read_text()


@dataclass
class Tensorrt:
    """What ``builder.exporting.tensorrt_plans`` offers to the command."""

    error: Exception | None = None
    calls: list = field(default_factory=list)

    def build_plans(self, folder, catalog, depth_folder, **options):
        if self.error is not None:
            raise self.error
        self.calls.append((folder, catalog, depth_folder(2), options))


@pytest.fixture
def tensorrt(monkeypatch):
    module = Tensorrt()
    monkeypatch.setitem(sys.modules, "builder.exporting.tensorrt_plans", module)
    return module


def test_plans_are_built_where_triton_and_the_runner_look(repository, tensorrt, capsys):
    tools = Tools()
    where = ["--model-repository", str(repository), "--model", "toy", "--target", "tensorrt"]
    assert run_build(tools, *where) == 0
    given = ["--precision", "int8", "--level", "0", "--timing-cache", "t"]
    assert run_build(tools, *where, *given) == 0
    folder = version_folder(repository, "toy")
    catalog = read_catalog(folder)
    there = (folder, catalog, repository / "toy_d2/1")
    of_entry = {"digest": catalog.digest}
    options = {**of_entry, "precision": "int8", "level": 0, "timing_cache": Path("t")}
    assert tensorrt.calls == [(*there, of_entry), (*there, options)]
    assert tools.opened == [("tensorrt", folder)] * 2
    tensorrt.error = CommandFailed("TensorRT cannot build stem: why")
    capsys.readouterr()
    assert run_build(tools, *where) == 1
    assert capsys.readouterr().err == "punctual: TensorRT cannot build stem: why\n"


def test_plans_of_every_segment_run_on_the_runner_that_serves(repository, tmp_path, capsys):
    shutil.copytree(repository, tmp_path / "copy")
    with fake_cuda():
        from builder.exporting import tensorrt_plans as tensorrt

        assert tensorrt.PRECISIONS == PRECISIONS
        assert Path(PLAN).name == tensorrt.DEPTH_PLAN
        build(tmp_path / "copy", "--model", "toy", "--target", "tensorrt")
    said = capsys.readouterr().out.splitlines()
    assert "tensorrt" in said[-2]
    assert "ran all 10 segments once at batch 1, 4, 8" in said[-2]
    folder = version_folder(tmp_path / "copy", "toy")
    for depth in (1, 2, 3):
        plan = depth_folder(tmp_path / "copy", read_catalog(folder), depth) / "model.plan"
        assert plan.read_bytes() == (folder / f"tensorrt/exit_{depth}.plan").read_bytes()


def test_segments_are_quantised_with_the_images_given(repository, tmp_path, monkeypatch, capsys):
    calls = []

    def quantize_segments(folder, entry, images):
        ((size, inputs),) = images.items()
        calls.append((folder, entry.size(size), [image[0, 0, 0] for image in inputs]))
        return folder / "int8"

    monkeypatch.setattr("builder.exporting.int8_segments.quantize_segments", quantize_segments)
    folder = version_folder(repository, "toy")
    catalog = read_catalog(folder)
    write_entry(ModelEntry((catalog.with_figures(catalog.at("int8")),)), folder)
    for size in (3, 1, 2):
        (tmp_path / f"{size}.jpg").write_bytes(b"x" * size)
    images = ["--calibration-images", str(tmp_path / "*.jpg")]
    where = ["--model-repository", str(repository), "--model", "toy"]
    assert run_build(Tools(), *where, *images) == 0
    assert calls == [(folder, read_catalog(folder), [1, 2, 3])]
    assert not read_catalog(folder).precisions, "they are of other scales"
    assert f"wrote {folder / 'int8'}" in capsys.readouterr().out


def test_what_was_measured_says_which_exits_to_leave_out(repository, tmp_path, capsys):
    root = shutil.copytree(repository, tmp_path / "copy")
    folder = version_folder(root, "toy")
    catalog = read_catalog(folder)
    times = {
        (segment, 1): Quantiles(*[0.01 * segment.stop] * 3)
        for segment in fused_segments(catalog.num_exits)
    }
    profiles = {"openvino": LatencyProfile("openvino", "m", "d", 1, times)}
    exits = tuple(
        replace(each, ap=ap) for each, ap in zip(catalog.exits, (0.5, 0.4, 0.6), strict=True)
    )
    about = Evaluation("things", "val", 9, 0, "openvino", "d")
    measured = replace(catalog, profiles=profiles, exits=exits, evaluation=about)
    write_entry(ModelEntry((measured,)), folder)
    assert run_build(Tools(), "--model-repository", str(root), "--model", "toy") == 0
    said = capsys.readouterr().out.splitlines()
    assert f"on no front: {catalog.size}/2" in said
    (line,) = (line for line in said if line.startswith(f"{catalog.size}/2 "))
    assert line.endswith(f"20.0  no better than {catalog.size}/1")


def test_segments_that_are_not_the_catalogues_are_refused(repository, tmp_path, capsys):
    shutil.copytree(repository, tmp_path / "copy")
    folder = version_folder(tmp_path / "copy", "toy")
    (folder / "stem.onnx").write_bytes(b"other")
    where = ["--model-repository", str(tmp_path / "copy")]
    assert "stem.onnx is not the file" in refused(capsys, "build", "--model", "toy", *where)
    folder.parent.rename(version_folder(tmp_path / "copy", "alias").parent)
    (version_folder(tmp_path / "copy", "alias") / "stem.onnx").write_bytes(
        (version_folder(repository, "toy") / "stem.onnx").read_bytes()
    )
    assert "a model 'toy'" in refused(capsys, "build", "--model", "alias", *where)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["build", "--config", "bccd", "--checkpoint", "x"], "not allowed"),
        (["build", "--model", "x", "--target", "abacus"], "invalid choice"),
        (["build", "--config", "bccd", "--sizes", "300,"], "'' is no size, such as 300 or 640x512"),
        (["build", "--config", "bccd", "--sizes", "0x300"], "'0x300' is no size"),
        (["build", "--config", "bccd", "--exits", "0"], "0 is less than 1"),
    ],
)
def test_options_that_are_none(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in usage_shown(capsys, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["build"], "say which model"),
        (["build", "--checkpoint", "x"], "no checkpoint x"),
        (["build", "--model", "../x"], "letters, digits"),
        (["build", "--model", "x"], "x_anytime/1/catalog.json"),
        (["build", "--model", "x", "--target", "torch"], "detector itself"),
        (
            ["build", "--model", "x", "--sizes", "300"],
            "only of what is exported, which --checkpoint",
        ),
        (["build", "--model", "x", "--exits", "1"], "only of what is exported, which --checkpoint"),
        (["build", "--config", "bccd", "--recalibrate-images", "y/*"], "no file is called y/*"),
        (["build", "--config", "bccd", "--sizes", "640x500"], "multiples of 128: (500, 640)"),
        (["build", "--config", "bccd", "--exits", "8"], "bccd: exits are 1 to 7, not 8"),
        (["build", "--config", "bccd", "--set", "detector.conv=1"], "conv is 1, it must be"),
        (["build", "--model", "x", "--level", "3", "--precision", "int8"], "--precision, --level"),
        ([*TENSORRT, "--level", "6"], "0 to 5, not 6"),
        ([*TENSORRT, "--precision", "int8", "--config", "bccd"], "needs --calibration-images"),
        (["build", "--model", "x", "--calibration-images", "y/*"], "no file is called y/*"),
    ],
)
def test_misuse_is_explained_before_any_work(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(capsys, *arguments)
    assert not list(tmp_path.iterdir())
