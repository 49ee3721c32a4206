from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import pytest

from serving.artifacts.int8_segments import CPU_FOLDER, MANIFEST, Quantized
from serving.artifacts.model_folders import ModelError, find_model, find_models
from serving.core import segment as segments
from serving.core.catalog import Exit, SegmentFile
from serving.core.family import Family
from serving.models.opening import open_runner
from serving.models.repository import measured_front, read_family
from serving.models.runtime_options import RuntimeOptions
from tests.serving.fakes import CATALOG, family_of, write_catalogs
from tests.serving.models.runners import OtherRunners, Runners
from tests.serving.world import cost_s, exact_profile


def test_several_models_as_one(tmp_path: Path) -> None:
    catalogs = {name: replace(CATALOG, name=name) for name in ("small", "large")}
    other = replace(CATALOG, name="streets", classes=("car", "bus"))
    write_catalogs(tmp_path, *catalogs.values(), other)
    folders = find_models(tmp_path, ("small", "large"))
    assert [folder.parts[-2] for folder in folders] == ["small_anytime", "large_anytime"]
    assert read_family(folders) == family_of(*catalogs.values())
    with pytest.raises(ModelError, match="classes differ: circle, square; car, bus"):
        read_family(find_models(tmp_path, ("small", "streets")))
    with pytest.raises(ModelError, match="no model 'sea'"):
        find_models(tmp_path, ("small", "sea"))


def test_a_precision_that_is_not_there(tmp_path: Path) -> None:
    folder = find_model(write_catalogs(tmp_path, "cells"), None)
    with pytest.raises(ModelError, match=r"no quantised segments in .*--calibration-images"):
        open_runner(folder, RuntimeOptions("openvino", precision="int8"))
    with pytest.raises(
        ModelError, match=r"openvino does not run .* int4: there are f32, bf16, int8"
    ):
        open_runner(folder, RuntimeOptions("openvino", precision="int4"))
    with pytest.raises(ModelError, match=r"onnxruntime .* it has no choice of precision"):
        open_runner(folder, RuntimeOptions("onnxruntime", precision="f32"))
    (folder / CPU_FOLDER).mkdir()
    record = {"model_digest": "0123", "num_images": 1, "runtime": "test"}
    (folder / CPU_FOLDER / MANIFEST).write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"were made of model 0123.* calibrate again"):
        open_runner(folder, RuntimeOptions("openvino", precision="int8"))


def test_a_family_has_the_figures_of_the_precision(tmp_path: Path) -> None:
    exits = tuple(replace(entry, ap=0.1) for entry in CATALOG.exits)
    catalog = CATALOG.with_figures(replace(CATALOG.at("int8"), exits=exits))
    folders = find_models(write_catalogs(tmp_path, catalog), ())
    assert read_family(folders).expected_ap(0, 1) == CATALOG.expected_ap(1)
    family = read_family(folders, "int8")
    assert family.expected_ap(0, 1) == 0.1
    with pytest.raises(ModelError, match="--runtime openvino --precision int8 --write"):
        measured_front(family, "openvino")


class TestMeasuredFront:
    @staticmethod
    def family(*depths: int) -> Family:
        """With a profile of exit 1 to 5, or of these alone."""
        every = exact_profile()
        known = {segments.fused_exit(depth) for depth in depths}
        table = {key: q for key, q in every.table.items() if not known or key[0] in known}
        exits = tuple(Exit(d, ap, ap, {}) for d, ap in enumerate((0.5, 0.6, 0.59, 0.7, 0.7), 1))
        profiles = {"fake": replace(every, table=table)}
        first = replace(CATALOG, exits=exits, profiles=profiles)
        return family_of(first, replace(first, name="again"))

    def test_by_the_quickest_path_at_batch_1(self) -> None:
        front = measured_front(self.family(), "fake")
        assert [(point.model, point.depth) for point in front.points] == [(0, 1), (0, 2), (0, 4)]
        for point in front.points:
            assert point.latency_s == pytest.approx(cost_s(segments.fused_exit(point.depth)))

    def test_what_was_not_profiled_is_said(self) -> None:
        with pytest.raises(ModelError, match="cells was not profiled on openvino"):
            measured_front(self.family(), "openvino")
        with pytest.raises(ModelError, match=r"the profile of cells.again on fake: .* lacks"):
            measured_front(self.family(1, 3), "fake")


class TestFiles:
    """What the catalogue describes is looked at, bit by bit, before anything is loaded."""

    CONTENTS: ClassVar = {"stem.onnx": b"stem", "head_1.onnx": b"head", "weights.bin": b"weights"}

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setitem(sys.modules, "serving.runners.openvino.runner", Runners())  # type: ignore[arg-type]
        monkeypatch.setitem(sys.modules, "serving.runners.torch.runner", OtherRunners())  # type: ignore[arg-type]
        digests = {name: sha256(data).hexdigest() for name, data in self.CONTENTS.items()}
        files = {
            name.removesuffix(".onnx"): SegmentFile(name, digest)
            for name, digest in digests.items()
        }
        weights = files.pop("weights.bin")
        catalog = replace(CATALOG, segments=files, weights=weights)
        folder = find_model(write_catalogs(tmp_path, catalog), None)
        for place in (folder, folder / CPU_FOLDER):
            place.mkdir(exist_ok=True)
            for name, data in self.CONTENTS.items():
                (place / name).write_bytes(data)
        record = Quantized(catalog.digest, 1, "test", digests)
        (folder / CPU_FOLDER / MANIFEST).write_text(json.dumps(asdict(record)))
        return folder

    def test_what_was_built_is_opened(self, folder: Path) -> None:
        for precision in (None, "int8"):
            assert open_runner(folder, RuntimeOptions("openvino", 2, precision))

    @pytest.mark.parametrize("precision", [None, "int8"])
    @pytest.mark.parametrize("name", CONTENTS)
    @pytest.mark.parametrize("bit", [0, 7])
    def test_a_flipped_bit(self, name: str, bit: int, precision: str | None, folder: Path) -> None:
        path = (folder / CPU_FOLDER if precision else folder) / name
        data = bytearray(path.read_bytes())
        data[-1] ^= 1 << bit
        path.write_bytes(data)
        with pytest.raises(ModelError, match=rf"{re.escape(str(path))} is not the file that was"):
            open_runner(folder, RuntimeOptions("openvino", 2, precision))
        assert open_runner(folder, RuntimeOptions("torch", 2)), (
            "it has files of its own, and checks those"
        )

    @pytest.mark.parametrize("precision", [None, "int8"])
    def test_a_file_that_is_not_there(self, precision: str | None, folder: Path) -> None:
        ((folder / CPU_FOLDER if precision else folder) / "weights.bin").unlink()
        with pytest.raises(ModelError, match=r"weights\.bin cannot be used"):
            open_runner(folder, RuntimeOptions("openvino", 2, precision))

    def test_quantised_segments_without_digests(self, folder: Path) -> None:
        path = folder / CPU_FOLDER / MANIFEST
        record = json.loads(path.read_text())
        del record["files"]
        path.write_text(json.dumps(record))
        with pytest.raises(ModelError, match=r"no digest of .*: calibrate again"):
            open_runner(folder, RuntimeOptions("openvino", 2, "int8"))
