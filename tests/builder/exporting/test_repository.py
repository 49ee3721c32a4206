"""What lies where in a model repository, and what a build with other weights clears away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builder.exporting.repository import (
    check_segments,
    depth_folder,
    files_of,
    remove_leftovers,
    sha256,
    update_entry,
    write_entry,
    write_texts,
)
from builder.exporting.triton_config import repository_files
from serving.artifacts.model_folders import ModelError, read_entry, version_folder
from serving.core.catalog import Exit, SegmentFile
from serving.core.model_entry import ModelEntry
from tests.builder.measuring.test_latency import CATALOG as EMPTY

CATALOG = replace(EMPTY, exits=EMPTY.exits[:2])


@pytest.fixture
def repository(tmp_path):
    """A repository of two exits with one segment file, and its entry."""
    folder = version_folder(tmp_path, CATALOG.name)
    folder.mkdir(parents=True)
    (folder / "stem.onnx").write_bytes(b"stem")
    entry = SegmentFile("stem.onnx", sha256(folder / "stem.onnx"))
    model = ModelEntry((replace(CATALOG, segments={"stem": entry}),))
    write_entry(model, folder)
    write_texts(tmp_path, model, "openvino")
    return tmp_path, model


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_folders():
    assert depth_folder(Path("r"), CATALOG, 3) == Path("r/toy_d3/1")


def test_texts_are_written_where_triton_looks(repository):
    root, entry = repository
    files = repository_files(entry, "openvino")
    assert {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and path.name not in ("catalog.json", "stem.onnx")
    } == set(files)
    assert (root / "toy_d2/config.pbtxt").read_text() == files["toy_d2/config.pbtxt"]


def test_segments_must_be_those_of_the_catalogue(repository):
    root, entry = repository
    folder = version_folder(root, entry.name)
    check_segments(entry, folder)
    (folder / "stem.onnx").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"stem\.onnx is not the file"):
        check_segments(entry, folder)
    (folder / "stem.onnx").unlink()
    with pytest.raises(FileNotFoundError):
        check_segments(entry, folder)


def test_weights_that_segments_share_must_be_those_of_the_catalogue(repository):
    root, entry = repository
    folder = version_folder(root, entry.name)
    (folder / "weights.bin").write_bytes(b"weights")
    weights = SegmentFile("weights.bin", sha256(folder / "weights.bin"))
    shared = ModelEntry((replace(entry.catalogs[0], weights=weights),))
    assert files_of(shared) == ("stem.onnx", "weights.bin")
    check_segments(shared, folder)
    (folder / "weights.bin").write_bytes(b"others")
    with pytest.raises(ValueError, match=r"weights\.bin is not the file"):
        check_segments(shared, folder)


def test_what_other_weights_left_goes_and_nothing_else(repository):
    root, entry = repository
    (catalog,) = entry.catalogs
    folder = version_folder(root, entry.name)
    deeper = replace(catalog, exits=(*catalog.exits, Exit(3, 0.0, 0.0, {})))
    write_texts(root, ModelEntry((deeper,)), "openvino")
    larger = replace(catalog, input_width=2 * catalog.input_width)
    write_texts(root, ModelEntry((catalog, larger)), "openvino")
    stale = {
        put(folder / "stack_3.onnx"),
        put(folder / "stem.8x8.onnx"),
        put(folder / "weights.bin"),
        put(folder / "tensorrt/stem.plan"),
        put(folder / "tensorrt/plans.json"),
        put(folder / "tensorrt/plans.8x8.json"),
        put(folder / "torch/stem.pt2"),
        put(folder / "torch/programs.json"),
        put(folder / "int8/stem.onnx"),
        put(folder / "int8/weights.bin"),
        put(folder / "int8/quantized.json"),
        put(depth_folder(root, catalog, 1) / "model.plan"),
    }
    of_sizes = {
        root / f"toy_{size}_d{depth}" for size in (catalog.size, larger.size) for depth in (1, 2)
    }
    kept = {
        put(folder / "tensorrt/timing.cache"),
        put(root / "toy_d3_anytime/1/catalog.json"),
        put(root / "toy_dance/1/model.plan"),
        put(root / "other_d3/1/model.plan"),
        # Of a model that is called as if it were one of the sizes.
        put(root / "toy_9x9_anytime/1/catalog.json"),
        put(root / "toy_9x9_d1/1/model.plan"),
        folder / "stem.onnx",
        folder / "catalog.json",
        *(root / name for name in repository_files(entry, "openvino")),
    }
    assert set(remove_leftovers(root, entry)) == stale | of_sizes | {root / "toy_d3"}
    assert {path for path in root.rglob("*") if path.is_file()} == kept
    assert remove_leftovers(root, entry) == []


def test_one_size_again_after_several(repository):
    """What Triton had of each size goes, and the other way round."""
    root, entry = repository
    (catalog,) = entry.catalogs
    several = ModelEntry((catalog, replace(catalog, input_width=2 * catalog.input_width)))
    assert set(remove_leftovers(root, several)) == {root / "toy_d1", root / "toy_d2"}
    write_texts(root, several, "openvino")
    plan = put(depth_folder(root, several.catalogs[0], 1) / "model.plan")
    assert remove_leftovers(root, several) == [plan]


def test_a_catalogue_that_changed_meanwhile_keeps_what_others_wrote(repository):
    root, entry = repository
    folder = version_folder(root, entry.name)
    write_entry(replace(entry, default=True), folder)
    (catalog,) = entry.catalogs
    measured = replace(catalog, exits=(Exit(1, 0.5, 0.6, {}), Exit(2, 0.6, 0.7, {})))
    written = update_entry(folder, entry, lambda now: now.with_figures(measured))
    assert read_entry(folder) == written
    assert written.default
    assert written.catalogs[0].exits == measured.exits
    assert not list(folder.glob("*.partial"))


def test_figures_of_earlier_weights_are_not_written(repository):
    root, entry = repository
    folder = version_folder(root, entry.name)
    (catalog,) = entry.catalogs
    anew = ModelEntry((replace(catalog, segments={"stem": SegmentFile("stem.onnx", "0" * 64)}),))
    write_entry(anew, folder)
    with pytest.raises(ModelError, match="was built anew meanwhile"):
        update_entry(folder, entry, lambda now: replace(now, default=True))
    assert read_entry(folder) == anew
