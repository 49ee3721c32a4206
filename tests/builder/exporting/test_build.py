"""A detector into the repository: what is there while segments are replaced, and afterwards."""

from __future__ import annotations

import contextlib
import io
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from builder.exporting import build
from builder.exporting.build import at_sizes, write_model
from builder.exporting.onnx_segments import SegmentError
from builder.exporting.repository import check_segments, files_of, write_entry
from builder.modeling.detector import Detector
from builder.modeling.frozen import freeze
from serving.__main__ import main
from serving.artifacts.model_folders import (
    ModelError,
    find_model,
    read_catalog,
    read_entry,
    version_folder,
)
from serving.core.command_errors import CommandError
from serving.core.model_entry import MergedAccuracy, Merging, ModelEntry, SizedExit
from serving.core.segment import fused_exit
from serving.models.opening import open_runner
from serving.models.runtime_options import RuntimeOptions
from tests.builder.tiny import TINY
from tests.exported import ssdlite
from tests.serving.world import FakeClock


def detector(seed: int) -> Detector:
    torch.manual_seed(seed)
    return Detector(TINY.detector).eval()


def write(root: Path, seed: int) -> None:
    write_model([detector(seed)], "toy", "test", root, FakeClock())


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
    check_segments(read_entry(folder), folder)
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
    check_segments(read_entry(folder), folder)


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


@pytest.fixture(scope="module")
def of_two_sizes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelEntry, list[str]]:
    """A repository with a model of two input sizes, its entry, and what was said."""
    root = tmp_path_factory.mktemp("sizes")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        detectors = at_sizes(ssdlite(), [(108, 76), (76, 76)])
        entry = write_model(detectors, "toy", "test", root, FakeClock())
    return root, entry, said.getvalue().splitlines()


def test_several_sizes_share_their_weights(
    of_two_sizes: tuple[Path, ModelEntry, list[str]],
) -> None:
    root, entry, said = of_two_sizes
    folder = version_folder(root, "toy")
    assert read_entry(folder) == entry
    check_segments(entry, folder)
    assert entry.sizes == ("76x76", "76x108")
    assert (entry.catalogs[0].resize, entry.catalogs[0].num_exits) == ("stretch", 2)
    assert entry.merging == Merging(128.0, 0.55)
    assert {path.name for path in folder.iterdir()} == {*files_of(entry), "catalog.json"}
    assert {"stem.76x76.onnx", "stack_1.76x108.onnx", "weights.bin"} < set(files_of(entry))
    weights = (folder / "weights.bin").stat().st_size
    rest = sum((folder / file).stat().st_size for file in files_of(entry)) - weights
    parameters = sum(x.numel() for x in ssdlite().parameters())
    assert weights < 2.2 * parameters, "kernels in half precision, all of them once"
    assert rest < 0.15 * weights
    checked = [line for line in said if "agrees with torch" in line]
    assert len(checked) == 2 * 5
    assert sum("76x108 agrees" in line for line in checked) == 5


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_size_finds_what_torch_finds(
    runtime: str, of_two_sizes: tuple[Path, ModelEntry, list[str]]
) -> None:
    """The weights are found beside the segments, and anchors are those of the size."""
    root, _, _ = of_two_sizes
    folder = version_folder(root, "toy")
    for frozen in map(freeze, at_sizes(ssdlite(), [(108, 76), (76, 76)])):
        height, width = frozen.config.input_size
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        with torch.inference_mode():
            outputs = frozen(torch.from_numpy(image[None]), [1])[1]
            boxes, scores, *_ = (x[0].numpy() for x in frozen.postprocess(outputs))
        precision = "f32" if runtime == "openvino" else None
        runner = open_runner(
            folder, RuntimeOptions(runtime, 1, precision), {fused_exit(1)}, f"{width}x{height}"
        )
        (found,) = runner.detections(runner.run(fused_exit(1), runner.load([image])))
        runner.close()
        count = len(found.scores)
        assert count > 5
        np.testing.assert_allclose(found.scores, scores[:count], atol=1e-4)
        # Boxes of equal scores may be in another order.
        distance = np.abs(found.boxes_xyxy_input[:, None] - boxes[None]).max(-1)  # (found, torch's)
        assert (distance.min(1) < 0.01).mean() > 0.9


def test_sizes_are_those_of_the_configuration_and_exits_the_first() -> None:
    (only,) = at_sizes(ssdlite(), num_exits=1)
    assert (only.config.input_size, only.config.num_exits) == ((76, 76), 1)
    (as_it_is,) = at_sizes(detector(0))
    assert as_it_is.config == TINY.detector
    with pytest.raises(CommandError, match="76x76 is given twice"):
        at_sizes(ssdlite(), [(76, 76), (76, 76)])
    with pytest.raises(CommandError, match="exits are 1 to 2, not 3"):
        at_sizes(ssdlite(), num_exits=3)
    with pytest.raises(CommandError, match=r"multiples of 128: \(96, 128\)"):
        at_sizes(detector(0), [(96, 128)])


@pytest.mark.usefixtures("verified")
def test_figures_stay_with_the_segments_that_they_are_of(tmp_path: Path) -> None:
    detectors = at_sizes(ssdlite(), [(108, 76), (76, 76)], 1)
    folder = version_folder(tmp_path, "toy")
    entry = write_model(detectors, "toy", "test", tmp_path, FakeClock())
    points = [SizedExit(size, 1) for size in entry.sizes]
    catalogs = tuple(
        replace(catalog, exits=(replace(catalog.exits[0], ap=0.5),)) for catalog in entry.catalogs
    )
    merged = (MergedAccuracy(points[0], points[1], 0.6, 0.7),)
    measured = replace(entry, catalogs=catalogs, merged=merged, default=True)
    write_entry(measured, folder)
    assert write_model(detectors, "toy", "test", tmp_path, FakeClock()) == measured
    alone = write_model(detectors[:1], "toy", "test", tmp_path, FakeClock())
    assert (alone.default, alone.merged, alone.catalogs[0].exits[0].ap) == (True, (), 0.0)
    assert {path.name for path in folder.iterdir()} == {*files_of(alone), "catalog.json"}
    assert "stem.onnx" in files_of(alone)
