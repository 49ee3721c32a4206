"""A detector into the repository: what is there while segments are replaced, and afterwards."""

from __future__ import annotations

import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from builder.exporting import build
from builder.exporting.build import write_model
from builder.exporting.onnx_segments import SegmentError
from builder.exporting.repository import check_segments
from builder.modeling.detector import Detector
from serving.__main__ import main
from serving.artifacts.model_folders import ModelError, find_model, read_catalog, version_folder
from serving.core.command_errors import CommandError
from tests.builder.tiny import TINY
from tests.serving.world import FakeClock


def detector(seed: int) -> Detector:
    torch.manual_seed(seed)
    return Detector(TINY.detector).eval()


def write(root: Path, seed: int) -> None:
    write_model(detector(seed), "toy", "test", root, FakeClock())


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments count as what the detector computes, and nothing is timed: other tests do that."""
    monkeypatch.setattr(build, "verify_segments", lambda *_: {})
    monkeypatch.setattr(build, "measure_postprocess", lambda *_: 0.0)


def stopped_at_segment(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM comes when so many segments are in their place."""
    replace_file, placed = Path.replace, []

    def killed(path: Path, target: Path) -> Path:
        placed.append(target)
        if len(placed) > number:
            signal.raise_signal(signal.SIGTERM)
        return replace_file(path, target)

    monkeypatch.setattr(Path, "replace", killed)


@pytest.mark.usefixtures("verified")
def test_an_interrupted_build_of_other_weights_leaves_no_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, 0)
    folder = version_folder(tmp_path, "toy")
    plan = folder / "tensorrt/stem.plan"
    plan.parent.mkdir()
    plan.write_bytes(b"")
    assert find_model(tmp_path, "toy") == folder
    monkeypatch.setattr(build, "open_detector", lambda *_: (detector(1), "test"))
    arguments = ["build", "--config", "bccd", "--model", "toy", "--model-repository", str(tmp_path)]
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        stopped_at_segment(2, patch)
        capsys.readouterr()
        assert main(arguments) == 130
    assert signal.getsignal(signal.SIGTERM) is before
    said = capsys.readouterr().err
    assert said == "punctual: stopped; the same command builds it from the start\n"
    with pytest.raises(ModelError, match="there is no model in"):
        find_model(tmp_path, "toy")
    assert not plan.exists(), "a plan of the earlier weights"

    write(tmp_path, 1)
    catalog = read_catalog(folder)
    check_segments(catalog, folder)
    files = {entry.file for entry in catalog.segments.values()}
    assert {path.name for path in folder.iterdir() if path.is_file()} == {*files, "catalog.json"}


@pytest.mark.usefixtures("verified")
def test_the_same_weights_again_keep_the_catalogue_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 0)
    folder = version_folder(tmp_path, "toy")
    before = read_catalog(folder)
    with monkeypatch.context() as patch:
        patch.setattr(signal, "raise_signal", lambda *_: pytest.fail("as if it were killed"))
        stopped_at_segment(2, patch)
        with pytest.raises(pytest.fail.Exception):
            write(tmp_path, 0)
    assert read_catalog(folder) == before
    check_segments(before, folder)


@pytest.mark.usefixtures("verified")
def test_what_a_killed_build_left_goes_with_the_next(tmp_path: Path) -> None:
    write(tmp_path, 0)
    folder = version_folder(tmp_path, "toy")
    (folder / ".partial-abcd").mkdir()
    (folder / ".partial-abcd/stem.onnx").write_bytes(b"half")
    (folder / ".partial-stem.onnx").write_bytes(b"half")
    write(tmp_path, 0)
    assert not list(folder.glob(".partial-*"))


def test_a_segment_that_differs_from_torch_ends_in_a_sentence_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def differs(*_: object) -> None:
        raise SegmentError("stem differs from torch by 1 of its largest value")

    monkeypatch.setattr(build, "open_detector", lambda *_: (detector(0), "test"))
    monkeypatch.setattr(build, "verify_segments", differs)
    arguments = ["build", "--config", "bccd", "--model-repository", str(tmp_path / "repository")]
    assert main(arguments) == 1
    assert capsys.readouterr().err == (
        "punctual: stem differs from torch by 1 of its largest value\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_repository_that_is_a_file_is_refused(
    below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    assert main(["build", "--config", "bccd", "--model-repository", str(file / below)]) == 2
    said = capsys.readouterr().err
    assert re.search(rf"--model-repository: {re.escape(str(file))} is a file, not a folder", said)


@pytest.mark.usefixtures("verified")
def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy_anytime").write_bytes(b"")
    monkeypatch.setattr(build, "open_detector", lambda *_: (detector(0), "test"))
    arguments = ["build", "--config", "bccd", "--model", "toy", "--model-repository", str(tmp_path)]
    assert main(arguments) == 2
    assert "toy_anytime" in capsys.readouterr().err


@pytest.mark.usefixtures("verified")
def test_a_detector_of_stretched_images_is_refused(tmp_path: Path) -> None:
    """Nobody would bring images to its input as it learnt from them."""
    torch.manual_seed(0)
    stretched = Detector(replace(TINY.detector, resize="stretch")).eval()
    with pytest.raises(CommandError, match="servers letterbox them: train it on with --set"):
        write_model(stretched, "toy", "test", tmp_path, FakeClock())
    assert not list(tmp_path.iterdir())
