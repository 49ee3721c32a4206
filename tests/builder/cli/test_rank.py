"""``punctual rank``: on the runner that serves, and as named."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from builder.exporting.repository import write_entry
from builder.onnx_import.layouts import LAYOUTS
from serving.__main__ import main
from serving.artifacts.model_folders import read_entry, version_folder
from serving.core.model_entry import ModelEntry
from tests.builder.onnx_import.detectors import THINGS, known_detector, save
from tests.trained import IMAGES


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A model that finds one object, and one that finds all."""
    folder = tmp_path_factory.mktemp("imported")
    (folder / "labels.txt").write_text("cat\ndog\nowl")
    for name, things in (("small", THINGS[:1]), ("large", THINGS)):
        path = save(known_detector(LAYOUTS["yolov8"], things), folder / f"{name}.onnx")
        where = [
            "--classes",
            str(folder / "labels.txt"),
            "--model-repository",
            str(folder / "repo"),
        ]
        assert main(["import-onnx", str(path), "--name", name, *where, "--threads", "1"]) == 0
    return folder / "repo"


@pytest.fixture
def repository(imported, tmp_path, capsys):
    """The two, in a repository of the test's own."""
    capsys.readouterr()
    return shutil.copytree(imported, tmp_path / "repo")


def rank(repository, *options):
    models = ["--model", "small", "large", "--model-repository", str(repository)]
    assert main(["rank", *models, "--threads", "1", "--write", *options]) == 0


def figures(repository):
    entries = [read_entry(version_folder(repository, name)) for name in ("small", "large")]
    return [(e.catalogs[0].evaluation.measure, e.catalogs[0].exits[0].ap) for e in entries]


def test_by_agreement(repository, capsys):
    rank(repository, "--images", str(IMAGES[0]))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("agreement with large@64x64/1 on 1 images, openvino")
    assert said[1].split() == ["answer", "agreement"]
    assert figures(repository) == [("agreement", pytest.approx(1 / 3, abs=1e-3)), ("agreement", 1)]


def test_as_named(repository, capsys):
    rank(repository)
    assert capsys.readouterr().out.splitlines()[0].split() == ["answer", "order"]
    assert figures(repository) == [("order", 0.5), ("order", 1.0)]


def test_mistakes(repository, capsys):
    models = ["--model", "small", "large", "--model-repository", str(repository)]
    images = ["--images", str(IMAGES[0]), "--threshold", "0.95"]
    assert main(["rank", *models, *images]) == 2
    assert "large finds nothing in these 1 images" in capsys.readouterr().err
    folder = version_folder(repository, "small")
    (catalog,) = read_entry(folder).catalogs
    write_entry(ModelEntry((replace(catalog, classes=("a", "b", "c")),)), folder)
    assert main(["rank", *models]) == 2
    assert "the models small, large are not for the same classes" in capsys.readouterr().err


def test_several_are_profiled_in_the_same_rounds(repository, capsys):
    models = ["--model", "small", "large", "--model-repository", str(repository)]
    rounds = ["--rounds", "1", "--path-rounds", "0", "--threads", "1", "--write"]
    assert main(["profile", *models, *rounds]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said if "p50" in line] == ["small@64x64", "large@64x64"]
    for name in ("small", "large"):
        (catalog,) = read_entry(version_folder(repository, name)).catalogs
        assert {s.name for s, _ in catalog.profiles["openvino"].table} == {"exit_1"}
