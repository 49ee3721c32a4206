"""What lies where in a model repository, and what a build with other weights clears away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builder.exporting.repository import (
    check_segments,
    depth_folder,
    remove_leftovers,
    sha256,
    write_entry,
    write_texts,
)
from builder.exporting.triton_config import repository_files
from serving.artifacts.model_folders import version_folder
from serving.core.catalog import Exit, ModelEntry, SegmentFile
from tests.builder.measuring.test_latency import CATALOG as EMPTY

CATALOG = replace(EMPTY, exits=EMPTY.exits[:2])


@pytest.fixture
def repository(tmp_path):
    """A repository of two exits with one segment file."""
    folder = version_folder(tmp_path, CATALOG.name)
    folder.mkdir(parents=True)
    (folder / "stem.onnx").write_bytes(b"stem")
    entry = SegmentFile("stem.onnx", sha256(folder / "stem.onnx"))
    catalog = replace(CATALOG, segments={"stem": entry})
    write_entry(ModelEntry((catalog,)), folder)
    write_texts(tmp_path, catalog, "openvino")
    return tmp_path, catalog


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_folders():
    assert depth_folder(Path("r"), "m", 3) == Path("r/m_d3/1")


def test_texts_are_written_where_triton_looks(repository):
    root, catalog = repository
    files = repository_files(catalog, "openvino")
    assert {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and path.name not in ("catalog.json", "stem.onnx")
    } == set(files)
    assert (root / "toy_d2/config.pbtxt").read_text() == files["toy_d2/config.pbtxt"]


def test_segments_must_be_those_of_the_catalogue(repository):
    root, catalog = repository
    folder = version_folder(root, catalog.name)
    check_segments(catalog, folder)
    (folder / "stem.onnx").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"stem\.onnx is not the file"):
        check_segments(catalog, folder)
    (folder / "stem.onnx").unlink()
    with pytest.raises(FileNotFoundError):
        check_segments(catalog, folder)


def test_what_other_weights_left_goes_and_nothing_else(repository):
    root, catalog = repository
    folder = version_folder(root, catalog.name)
    deeper = replace(catalog, exits=(*catalog.exits, Exit(3, 0.0, 0.0, {})))
    write_texts(root, deeper, "openvino")
    stale = {
        put(folder / "stack_3.onnx"),
        put(folder / "tensorrt/stem.plan"),
        put(folder / "tensorrt/plans.json"),
        put(folder / "torch/stem.pt2"),
        put(folder / "torch/programs.json"),
        put(depth_folder(root, "toy", 1) / "model.plan"),
    }
    kept = {
        put(folder / "tensorrt/timing.cache"),
        put(root / "toy_d3_anytime/1/catalog.json"),
        put(root / "toy_dance/1/model.plan"),
        put(root / "other_d3/1/model.plan"),
        folder / "stem.onnx",
        folder / "catalog.json",
        *(root / name for name in repository_files(catalog, "openvino")),
    }
    assert set(remove_leftovers(root, catalog)) == stale | {root / "toy_d3"}
    assert {path for path in root.rglob("*") if path.is_file()} == kept
    assert remove_leftovers(root, catalog) == []
