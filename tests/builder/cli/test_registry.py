"""The whole way of a model, by the commands a user types, from train to report and profile."""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

import serving.model_repository
from builder.cli import options
from builder.cli.build import PRECISIONS, RUNTIMES
from builder.cli.registry import register
from builder.data import BAD_ANNOTATIONS, DATASETS
from builder.exporting.repository import depth_folder, read_catalog, version_folder, write_catalog
from builder.exporting.triton_config import PLAN
from builder.modeling.checkpoint import load_checkpoint
from serving.__main__ import main
from serving.core.catalog import Catalog
from serving.model_repository import RUNNERS, find_model
from tests.cuda import fake_cuda
from tests.exported import exported_detector
from tests.serving.world import FakeClock, FakeRunner

SMALL = [
    "detector.input_size=[128,128]",
    "detector.num_stacks=2",
    "detector.neck_channels=16",
    "detector.head_channels=16",
    'train.split="train"',
    "train.batch_size=4",
]


def train(data: Path, out: Path, *more: str) -> Path:
    changes = [text for change in SMALL for text in ("--set", change)]
    arguments = ["train", "--config", "bccd", "--data", str(data), "--out", str(out)]
    assert main([*arguments, "--epochs", "1", *changes, *more]) == 0
    return out / "checkpoint.pt"


def build(repository: Path, *arguments: str) -> None:
    where = ["--model-repository", str(repository), "--threads", "1"]
    assert main(["build", *where, *arguments]) == 0


def refused(capsys, *arguments: str) -> str:
    """What the command says about arguments that it does not take."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def measured_in_int8_too(repository: Path, bccd: Path, evaluation: list[str], capsys) -> Catalog:
    """The catalogue of the model with figures of int8, which left the others as they were."""
    model, data = evaluation[:7], evaluation[7:]
    folder = version_folder(repository, "toy")
    before = read_catalog(folder)
    build(repository, "--model", "toy", "--calibration-images", str(bccd / "JPEGImages/*.jpg"))
    assert f"for CPUs, {folder / 'int8'}" in capsys.readouterr().out
    int8 = ["--precision", "int8"]
    assert main(["evaluate", *model, *data, *int8]) == 0
    rounds = ["--rounds", "2", "--path-rounds", "2"]
    assert main(["profile", *model, *rounds, *int8, "--against", "f32"]) == 0
    said = capsys.readouterr().out
    assert "in int8" in said
    assert "ms     f32  ratio p50" in said
    both = read_catalog(folder)
    assert replace(both, precisions={}) == before
    assert both.at("int8").evaluation.split == "val"
    assert set(both.at("int8").profiles) == {"openvino"}
    assert main(["models", *model[:4], *int8]) == 0
    assert capsys.readouterr().out.startswith("openvino, int8\n")
    with pytest.raises(SystemExit, match="2"):
        main(["profile", *model[:4], "--runtime", "onnxruntime", *int8])
    assert "onnxruntime does not run segments in int8" in capsys.readouterr().err
    return both


def test_from_images_to_a_model_with_measured_facts(bccd, tmp_path, capsys):
    checkpoint = train(bccd, tmp_path / "run")
    written = checkpoint.read_bytes()
    train(bccd, tmp_path / "run", "--resume")
    assert checkpoint.read_bytes() == written, "nothing is left to do"

    build(tmp_path, "--checkpoint", str(checkpoint), "--model", "toy")
    said = capsys.readouterr().out
    assert "head_2     agrees with torch" in said
    assert "ran all 7 segments once at batch 1, 4" in said
    assert find_model(tmp_path, None) == version_folder(tmp_path, "toy")

    model = ["--model", "toy", "--model-repository", str(tmp_path), "--threads", "1", "--write"]
    data = ["--data", str(bccd), "--split", "val"]
    assert main(["evaluate", *model, *data, "--seed", "7"]) == 0
    assert "Platelets" in capsys.readouterr().out
    assert main(["profile", *model, "--rounds", "2", "--path-rounds", "2"]) == 0
    assert "unit/fused" in capsys.readouterr().out

    folder = version_folder(tmp_path, "toy")
    catalog = read_catalog(folder)
    assert catalog.name == "toy"
    assert catalog.num_exits == 2
    assert catalog.evaluation.split == "val"
    assert catalog.evaluation.seed == 7
    assert all(0 <= entry.ap <= entry.ap50 <= 1 for entry in catalog.exits)
    assert set(catalog.exits[0].ap_by_class) == set(catalog.classes)
    assert all(q.p50_s <= q.p99_s for q in catalog.profiles["openvino"].table.values())

    catalog = measured_in_int8_too(tmp_path, bccd, [*model, *data], capsys)

    # The same weights again keep what was measured and what was compiled.
    plan = tmp_path / "toy_d1/1/model.plan"
    plan.write_bytes(b"")
    build(tmp_path, "--checkpoint", str(checkpoint), "--model", "toy", "--target", "torch")
    assert "torch" in capsys.readouterr().out.splitlines()[-2]
    assert read_catalog(folder) == catalog
    assert plan.exists()
    assert (folder / "torch/stem.pt2").exists()

    # Other weights do not.
    train(bccd, tmp_path / "other", "--seed", "5")
    capsys.readouterr()
    build(tmp_path, "--checkpoint", str(tmp_path / "other/checkpoint.pt"), "--model", "toy")
    assert f"removed {plan}, which belonged to other weights" in capsys.readouterr().out
    assert not plan.exists()
    assert not list((folder / "torch").iterdir())
    assert read_catalog(folder).digest != catalog.digest
    assert read_catalog(folder).evaluation is None
    assert not read_catalog(folder).profiles


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with an untrained model, which no test changes but for its texts."""
    folder = tmp_path_factory.mktemp("repository")
    exported = exported_detector(version_folder(folder, "toy"))
    write_catalog(replace(exported.catalog, name="toy"), exported.folder)
    return folder


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


def test_every_runtime_can_be_built_for_and_profiled():
    assert set(RUNTIMES) == set(RUNNERS)


def test_every_precision_that_can_be_served_can_be_measured():
    for offered in serving.model_repository.PRECISIONS.values():
        assert offered == options.PRECISIONS


def test_every_reader_can_be_named():
    assert tuple(DATASETS) == options.DATASETS
    assert BAD_ANNOTATIONS == options.BAD_ANNOTATIONS


def test_bad_annotations_are_skipped_or_refused(repository, bccd, tmp_path, capsys):
    data = ["--data", str(bccd), "--bad-annotations", "refuse"]
    changes = [text for change in SMALL for text in ("--set", change)]
    where = ["--out", str(tmp_path / "run"), *changes]
    assert main(["train", "--config", "bccd", *data, *where]) == 1
    refusal = "1 bad annotations\n  Annotations/image_0.xml:1: box (30.0, 30.0, 30.0, 40.0)"
    assert refusal in capsys.readouterr().err
    model = ["evaluate", "--model-repository", str(repository), "--model", "toy"]
    assert main([*model, *data, "--split", "val"]) == 1
    assert refusal in capsys.readouterr().err
    assert main([*model, *data[:2], "--split", "val", "--threads", "1"]) == 0
    assert "skipped: Annotations/image_0.xml:1: box" in capsys.readouterr().err


def test_a_split_that_is_not_there(bccd, tmp_path, capsys):
    data = ["--data", str(bccd), "--split", "test", "--out", str(tmp_path / "run")]
    assert main(["train", "--config", "bccd", *data]) == 1
    assert "has no split 'test'" in capsys.readouterr().err


def test_data_of_ones_own(bccd, tmp_path):
    (bccd / "classes.txt").write_text("WBC\nRBC\nPlatelets\n")
    path = train(bccd, tmp_path / "run", "--dataset", "voc", "--validation-split", "val")
    _, config, metadata = load_checkpoint(path)
    assert config.classes == ("WBC", "RBC", "Platelets")
    assert metadata["validation"]["split"] == "val"


def test_a_comparison(bccd, tmp_path, capsys):
    changes = [text for change in SMALL for text in ("--set", change)]
    options = [
        "--options",
        "random",
        "fpn/separate",
        "--depths",
        "2",
        "--seeds",
        "3",
        "--epochs",
        "1",
    ]
    splits = ["--split", "train", "--validation-split", "val"]
    where = ["--data", str(bccd), *splits, "--out", str(tmp_path / "out")]
    asked = ["ablate", "--config", "bccd_small", *where, *options, *changes]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "random/seed_3: 1 epochs" in said
    assert "fpn/separate/depth_2/seed_3: 1 epochs" in said
    assert "| AP less that of random | exit 1 | exit 2 |" in said
    assert main(asked) == 0
    assert capsys.readouterr().out == (tmp_path / "out/ablation.md").read_text()


def test_a_report(repository, bccd, tmp_path, capsys):
    model = ["--model-repository", str(repository), "--model", "toy", "--threads", "1"]
    page = tmp_path / "report.html"
    data = ["--data", str(bccd), "--split", "val", "--images", "2", "--out", str(page)]
    assert main(["report", *model, *data]) == 0
    assert f"wrote {page}" in capsys.readouterr().out
    text = page.read_text()
    assert "Exits of toy" in text
    assert text.count("data:image/jpeg;base64,") == 2


TRAIN = ["train", "--config", "bccd", "--out", "x"]
ABLATE = ["ablate", "--config", "bccd_small", "--out", "x"]
TENSORRT = ["build", "--model", "x", "--target", "tensorrt"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--config", "nothing", "--out", "x"], "invalid choice"),
        ([*TRAIN, "--set", "train.epochs=many"], "train.epochs=many is not FIELD=JSON"),
        ([*TRAIN, "--set", "detector.input_size=[1,2]"], "must be multiples of 128"),
        ([*TRAIN, "--set", "detector.input_size=5"], "input_size is 5, it must be a list of 2"),
        ([*ABLATE, "--options", "sinking"], "'sinking' is not one of joint, random, separate"),
        ([*ABLATE, "--options", "bifpn/joint"], "'bifpn' is not one of nas_fpn"),
        ([*ABLATE, "--options", "/joint"], "'' is not one of nas_fpn"),
        ([*ABLATE, "--set", "train.seed=1"], "--set train.seed=1: --options and --seeds say that"),
        ([*ABLATE, "--depths", "6"], "depths are 1 to 5, not 6"),
        ([*ABLATE[:2], "bccd", *ABLATE[3:]], "give --validation-split"),
        (["evaluate"], "required"),
        (["build"], "say which model"),
        (["build", "--config", "bccd", "--checkpoint", "x"], "not allowed"),
        (["build", "--checkpoint", "x"], "no checkpoint x"),
        (["build", "--model", "../x"], "letters, digits"),
        (["build", "--model", "x"], "x_anytime/1/catalog.json"),
        (["build", "--model", "x", "--target", "abacus"], "invalid choice"),
        (["build", "--model", "x", "--target", "torch"], "detector itself"),
        (["build", "--model", "x", "--level", "3", "--precision", "int8"], "--precision, --level"),
        ([*TENSORRT, "--level", "6"], "0 to 5, not 6"),
        ([*TENSORRT, "--precision", "int8", "--config", "bccd"], "needs --calibration-images"),
        (["build", "--model", "x", "--calibration-images", "y/*"], "no file is called y/*"),
    ],
)
def test_misuse_is_explained_before_any_work(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, *arguments)
    assert "punctual" in said
    assert sentence in said
    assert not list(tmp_path.iterdir())


class Tools:
    """``ServingTools`` whose runners take no time."""

    def __init__(self) -> None:
        self.opened = []

    def open_runner(self, runtime, folder, num_threads):
        self.opened.append((runtime, folder))
        return FakeRunner(FakeClock())

    def load_image(self, data, width, height):
        return np.full((height, width, 3), len(data), np.uint8), None


@dataclass
class Tensorrt:
    """What ``builder.exporting.tensorrt_plans`` offers to the command."""

    error: Exception | None = None
    calls: list = field(default_factory=list)

    class PlanBuildError(Exception):
        pass

    def build_plans(self, folder, catalog, depth_folder, **options):
        if self.error is not None:
            raise self.error
        self.calls.append((folder, catalog, depth_folder(2), options))


@pytest.fixture
def tensorrt(monkeypatch):
    module = Tensorrt()
    monkeypatch.setitem(sys.modules, "builder.exporting.tensorrt_plans", module)
    return module


def run_build(tools: Tools, *arguments: str) -> int:
    """The command with other tools than the server's."""
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers(), tools)
    options = parser.parse_args(["build", *arguments])
    return options.run(options)


def test_plans_are_built_where_triton_and_the_runner_look(repository, tensorrt, capsys):
    tools = Tools()
    where = ["--model-repository", str(repository), "--model", "toy", "--target", "tensorrt"]
    assert run_build(tools, *where) == 0
    given = ["--precision", "int8", "--level", "0", "--timing-cache", "t"]
    assert run_build(tools, *where, *given) == 0
    folder = version_folder(repository, "toy")
    catalog = read_catalog(folder)
    there = (folder, catalog, repository / "toy_d2/1")
    options = {"precision": "int8", "level": 0, "timing_cache": Path("t")}
    assert tensorrt.calls == [(*there, {}), (*there, options)]
    assert tools.opened == [("tensorrt", folder)] * 2
    tensorrt.error = tensorrt.PlanBuildError("there is no GPU")
    capsys.readouterr()
    assert run_build(tools, *where) == 1
    assert capsys.readouterr().err == "punctual: there is no GPU\n"


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
        plan = depth_folder(tmp_path / "copy", "toy", depth) / "model.plan"
        assert plan.read_bytes() == (folder / f"tensorrt/exit_{depth}.plan").read_bytes()


def test_segments_are_quantised_with_the_images_given(repository, tmp_path, monkeypatch, capsys):
    calls = []

    def quantize_segments(folder, catalog, images):
        calls.append((folder, catalog, [image[0, 0, 0] for image in images]))
        return folder / "int8"

    monkeypatch.setattr("builder.exporting.int8_segments.quantize_segments", quantize_segments)
    folder = version_folder(repository, "toy")
    catalog = read_catalog(folder)
    write_catalog(catalog.with_figures(catalog.at("int8")), folder)
    for size in (3, 1, 2):
        (tmp_path / f"{size}.jpg").write_bytes(b"x" * size)
    images = ["--calibration-images", str(tmp_path / "*.jpg")]
    where = ["--model-repository", str(repository), "--model", "toy"]
    assert run_build(Tools(), *where, *images) == 0
    assert calls == [(folder, read_catalog(folder), [1, 2, 3])]
    assert not read_catalog(folder).precisions, "they are of other scales"
    assert f"wrote {folder / 'int8'}" in capsys.readouterr().out


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
