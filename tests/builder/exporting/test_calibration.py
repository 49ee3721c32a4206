"""``punctual build --calibration-images``: what cannot be read changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builder.exporting import build
from builder.exporting.repository import write_entry
from serving.__main__ import main
from serving.artifacts.int8_segments import read_quantized
from serving.artifacts.model_folders import read_catalog, version_folder
from serving.core.catalog import Catalog
from serving.core.model_entry import ModelEntry
from tests.exported import exported_detector
from tests.serving.fakes import JPEG


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Catalog]:
    """A repository with an untrained model, and its catalogue with figures of int8."""
    repository = tmp_path_factory.mktemp("repository")
    exported = exported_detector(version_folder(repository, "toy"), num_stacks=1)
    plain = replace(exported.catalog, name="toy")
    return repository, plain.with_figures(plain.at("int8"))


@pytest.fixture
def folder(catalog: tuple[Path, Catalog]) -> Path:
    folder = version_folder(catalog[0], "toy")
    write_entry(ModelEntry((catalog[1],)), folder)
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("data", [JPEG[: len(JPEG) // 2], b"text", b""])
def test_an_image_that_cannot_be_read_is_named_and_nothing_is_changed(
    data: bytes, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    (tmp_path / "b.jpg").write_bytes(data)
    before = contents(folder.parents[1])
    where = ["--model-repository", str(folder.parents[1]), "--model", "toy"]
    assert main(["build", *where, "--calibration-images", str(tmp_path / "*.jpg")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"punctual: {tmp_path / 'b.jpg'} cannot be used: ")
    assert said.count("\n") == 1
    assert contents(folder.parents[1]) == before


def test_nothing_is_exported_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"text")
    monkeypatch.setattr(build, "write_model", lambda *_: pytest.fail("exported"))
    where = ["--model-repository", str(tmp_path / "repository"), "--config", "bccd_small"]
    assert main(["build", *where, "--calibration-images", str(tmp_path / "*.jpg")]) == 2
    assert f"{tmp_path / 'a.jpg'} cannot be used" in capsys.readouterr().err


def test_a_folder_among_the_images_is_none(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    (tmp_path / "b.jpg").mkdir()
    where = ["--model-repository", str(folder.parents[1]), "--model", "toy", "--threads", "1"]
    assert main(["build", *where, "--calibration-images", str(tmp_path / "*.jpg")]) == 0
    digest = read_catalog(folder).digest
    assert read_quantized(folder / "int8", digest).num_images == 1


def test_a_folder_alone_is_no_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.jpg").mkdir()
    where = ["--model-repository", str(folder.parents[1]), "--model", "toy"]
    assert main(["build", *where, "--calibration-images", str(tmp_path / "*.jpg")]) == 2
    assert "no file is called" in capsys.readouterr().err
