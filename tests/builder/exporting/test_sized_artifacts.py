"""What is made of segments of several input sizes: plans, programs, int8 segments."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from builder.exporting import build as exporting
from builder.exporting.build import at_sizes, write_model
from builder.modeling.architectures import make_detector
from serving.__main__ import main
from serving.artifacts.int8_segments import read_quantized
from serving.artifacts.model_folders import read_entry, version_folder
from serving.core.segment import fused_exit
from serving.models.opening import open_runner
from serving.models.runtime_options import RuntimeOptions
from tests.builder.tiny import TINY
from tests.cuda import fake_cuda
from tests.serving.fakes import JPEG
from tests.serving.world import FakeClock

SIZES = ("128x128", "256x128")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an untrained model of two input sizes, which no test changes."""
    root = tmp_path_factory.mktemp("repository")
    torch.manual_seed(0)
    detectors = at_sizes(make_detector(TINY.detector).eval(), [(128, 128), (128, 256)], 1)
    with pytest.MonkeyPatch.context() as patch:  # other tests verify segments
        patch.setattr(exporting, "verify_segments", lambda *_: {})
        patch.setattr(exporting, "measure_postprocess", lambda *_: 0.0)
        write_model(detectors, "toy", "test", root, FakeClock())
    return root


@pytest.fixture
def repository(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "repository")


def build(repository: Path, *arguments: str) -> int:
    where = ["--model-repository", str(repository), "--model", "toy", "--threads", "1"]
    return main(["build", *where, *arguments])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_plans_of_each_size_are_stored_and_found(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    arguments = ("--target", "tensorrt", "--store", str(store))
    with fake_cuda():
        assert build(repository, *arguments) == 0
        (target,) = store.iterdir()
        assert read_entry(version_folder(repository, "toy")).digest[:12] in target.name
        plans = version_folder(target, "toy") / "tensorrt"
        for size in SIZES:
            assert {f"plans.{size}.json", f"stem.{size}.plan", f"exit_1.{size}.plan"} <= names(
                plans
            )
            depth_plan = target / f"toy_{size}_d1/1/model.plan"
            assert depth_plan.read_bytes() == (plans / f"exit_1.{size}.plan").read_bytes()
        capsys.readouterr()
        assert build(repository, *arguments) == 0
        assert "nothing to do" in capsys.readouterr().out
        (plans / f"head_1.{SIZES[1]}.plan").write_bytes(b"damaged")
        assert build(repository, *arguments) == 2
        assert "head_1.256x128.plan is not the plan that was built" in capsys.readouterr().err


def test_programs_of_each_size_run(repository: Path) -> None:
    """The runner of a size finds its own record, and not that of the other."""
    from builder.exporting.torch_programs import export_programs

    folder = version_folder(repository, "toy")
    torch.manual_seed(0)
    for each in at_sizes(make_detector(TINY.detector).eval(), [(128, 128), (128, 256)], 1):
        export_programs(each, folder)
    for size in SIZES:
        assert {f"programs.{size}.json", f"head_1.{size}.pt2"} <= names(folder / "torch")
        catalog = read_entry(folder).size(size)
        runner = open_runner(folder, RuntimeOptions("torch", 1), {fused_exit(1)}, size)
        image = np.zeros((catalog.input_height, catalog.input_width, 3), np.uint8)
        assert len(runner.detections(runner.run(fused_exit(1), runner.load([image])))) == 1
        runner.close()


def test_int8_segments_share_their_weights(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    assert build(repository, "--calibration-images", str(tmp_path / "*.jpg")) == 0
    folder = version_folder(repository, "toy")
    entry = read_entry(folder)
    for place in ("int8", "tensorrt/int8"):
        assert read_quantized(folder / place, entry.digest).num_images == 1
        files = {file.file for each in entry.catalogs for file in each.segments.values()}
        assert names(folder / place) == {*files, "weights.bin", "quantized.json"}
    (catalog, larger) = entry.catalogs
    stems = [(folder / "int8" / each.segments["stem"].file).stat().st_size
             for each in (catalog, larger)]  # fmt: skip
    assert max(stems) < (folder / "int8/weights.bin").stat().st_size
    for each in entry.catalogs:
        runner = open_runner(
            folder, RuntimeOptions("openvino", 1, "int8"), {fused_exit(1)}, each.size
        )
        image = np.zeros((each.input_height, each.input_width, 3), np.uint8)
        assert len(runner.detections(runner.run(fused_exit(1), runner.load([image])))) == 1
        runner.close()
