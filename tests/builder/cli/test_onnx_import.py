"""``punctual import-onnx``: through the runner that serves, and what it refuses."""

from __future__ import annotations

import pytest

from builder.cli.registry import register
from builder.onnx_import.layouts import LAYOUTS
from serving.__main__ import _Tools, main
from serving.artifacts.model_folders import read_entry, version_folder
from tests.builder.cli.commands import Tools, refused, usage_shown
from tests.builder.onnx_import.detectors import (
    NAMES,
    known_detector,
    random_detector,
    save,
    unbatched,
)
from tests.commands import run_command
from tests.cuda import fake_cuda
from tests.trained import IMAGES


@pytest.fixture
def files(tmp_path):
    """A detector, and the names of its classes."""
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    return save(random_detector(), tmp_path / "detector.onnx"), str(tmp_path / "labels.txt")


def run(tools, *arguments):
    return run_command(lambda commands: register(commands, tools), "import-onnx", *arguments)


def test_a_detector_is_tried_out_on_the_runner_that_serves(files, tmp_path, capsys):
    path, labels = files
    repository = tmp_path / "repo"
    where = ["--name", "mine", "--classes", labels, "--model-repository", str(repository)]
    pixels = ["--scale", "1/255", "--mean", "0", "--std", "1,1,1", "--threads", "1"]
    images = ["--images", str(IMAGES[0])]
    assert run(_Tools(), path, *where, *pixels, *images) == 0
    said = capsys.readouterr().out
    assert "checked against the file on 1 images" in said
    assert "ran all 4 segments once at batch 1, 4" in said
    entry = read_entry(version_folder(repository, "mine"))
    assert entry.catalogs[0].command.startswith("punctual ")
    texts = {str(path.relative_to(repository)) for path in repository.rglob("*.pbtxt")}
    assert texts == {
        f"mine_{kind}/{name}"
        for kind in ("anytime", "d1")
        for name in ("config.pbtxt", "configs/cpu.pbtxt")
    }


class Broken(Tools):
    """Tools whose runner cannot run it."""

    def open_runner(self, runtime, folder, num_threads, size=None):
        assert read_entry(folder).name == "mine", "as it would be served"
        raise RuntimeError("no such kernel\nat line 1")


def test_what_the_runner_cannot_run_is_not_written(files, tmp_path, capsys):
    path, labels = files
    where = ["--name", "mine", "--classes", labels, "--model-repository", str(tmp_path / "repo")]
    assert run(Broken(), path, *where) == 2
    assert capsys.readouterr().err.endswith("openvino cannot run it at 64x64: no such kernel\n")
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--name", "a/b"), "a model's name has"),
        (("--name", "a", "--images", "no/*.jpg"), "no file is called no/*.jpg"),
        (("--name", "a", "--classes", "gone.txt"), "gone.txt"),
        (("--name", "a", "--sizes", "32,64"), "--sizes: only of a single file"),
        (("--name", "a", "--layout", "yolox"), "are those of no detector of 3 classes"),
    ],
)
def test_mistakes(files, options, said, capsys):
    path, labels = files
    paths = [str(path)] * (1 + ("--sizes" in options))
    assert said in refused(capsys, "import-onnx", *paths, "--classes", labels, *options)


@pytest.mark.parametrize(
    "option",
    [
        ("--scale", "0"),
        ("--scale", "x"),
        ("--mean", "1,2"),
        ("--std", "nan"),
        ("--score-threshold", "2"),
        ("--sizes", "small"),
        ("--boxes", "xxyy"),
    ],
    ids=" ".join,
)
def test_options_that_cannot_be(option, capsys):
    said = usage_shown(capsys, "import-onnx", "x.onnx", "--name", "a", *option)
    assert option[0] in said


def test_a_deviation_of_nothing_is_refused(files, capsys):
    path, labels = files
    said = refused(
        capsys, "import-onnx", str(path), "--classes", labels, "--name", "a", "--std", "0"
    )
    assert "no deviation is 0" in said


def test_a_file_that_is_not_there(capsys):
    assert "gone.onnx" in refused(capsys, "import-onnx", "gone.onnx", "--name", "a")
    assert main(["import-onnx", ".", "--name", "a"]) == 2


def test_layouts_are_named(files, tmp_path, capsys):
    layout = LAYOUTS["end-to-end"]
    path = save(known_detector(layout), tmp_path / "known.onnx")
    where = ["--classes", files[1], "--name", "mine", "--model-repository", str(tmp_path / "repo")]
    assert run(_Tools(), path, *where, "--layout", layout.name, "--threads", "1") == 0
    assert (
        "end-to-end: the outputs boxes+scores+labels [1, 84, 6], for 3 " in capsys.readouterr().out
    )


def test_plans_are_built_of_it(files, tmp_path, capsys):
    path, labels = files
    where = ["--model-repository", str(tmp_path / "repo")]
    assert run(Tools(), path, "--name", "mine", "--classes", labels, *where) == 0
    with fake_cuda():
        assert main(["build", "--model", "mine", "--target", "tensorrt", *where]) == 0
    said = capsys.readouterr().out
    assert "ran all 4 segments once at batch 1, 4, 8" in said
    assert (tmp_path / "repo/mine_d1/1/model.plan").is_file()


def test_runners_take_one_image_of_what_takes_one(files, tmp_path, capsys):
    path = save(random_detector(batch=1, change=unbatched), tmp_path / "single.onnx")
    where = ["--model-repository", str(tmp_path / "repo"), "--threads", "1"]
    assert run(_Tools(), path, "--name", "mine", "--classes", files[1], *where) == 0
    assert "ran all 4 segments once at batch 1\n" in capsys.readouterr().out
    assert main(["build", "--model", "mine", "--target", "onnxruntime", *where]) == 0
    assert "ran all 4 segments once at batch 1\n" in capsys.readouterr().out


def test_plans_are_not_built_of_what_takes_one_image(files, tmp_path, capsys):
    model = random_detector(batch=1, change=unbatched)
    path = save(model, tmp_path / "single.onnx")
    where = ["--model-repository", str(tmp_path / "repo")]
    assert run(Tools(), path, "--name", "mine", "--classes", files[1], *where) == 0
    text = (tmp_path / "repo/mine_d1/configs/cpu.pbtxt").read_text()
    assert "max_batch_size: 1\n" in text
    with fake_cuda():
        assert main(["build", "--model", "mine", "--target", "tensorrt", *where]) == 1
    assert "mine is run on 1 images at a time" in capsys.readouterr().err
