from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from serving.artifacts.int8_segments import CPU_FOLDER, MANIFEST, Quantized
from serving.artifacts.model_folders import ModelError, find_model, find_models
from serving.core import segment as segments
from serving.core.catalog import Catalog, Exit, SegmentFile
from serving.core.family import Family
from serving.core.latency import LatencyProfile, Quantiles
from serving.model_repository import (
    RUNNERS,
    find_precision,
    measured_front,
    open_family,
    open_instances,
    open_runner,
    read_family,
)
from tests.serving.fakes import CATALOG, family_of, write_catalogs
from tests.serving.world import FakeClock, FakeRunner, cost_s, exact_profile


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


def test_runners_are_imported_when_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no runtime 'magic'"):
        open_runner("magic", tmp_path, None)
    folder = find_model(write_catalogs(tmp_path, "cells"), None)
    monkeypatch.setitem(sys.modules, "serving.runners.openvino", Runners())  # type: ignore[arg-type]
    assert open_runner("openvino", folder, 2) == (folder, CATALOG, 2)  # type: ignore[comparison-overlap]


def test_some_segments_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_model(write_catalogs(tmp_path, "cells"), None)
    monkeypatch.setitem(sys.modules, "serving.runners.openvino", Runners())  # type: ignore[arg-type]
    wanted = {segments.fused_exit(2)}
    assert open_runner("openvino", folder, 2, wanted) == (folder, CATALOG, 2, wanted)  # type: ignore[comparison-overlap]


def test_a_precision_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_model(write_catalogs(tmp_path, "cells"), None)
    opened: list[Any] = []

    def create(*given: Any, **choice: Any) -> FakeRunner:
        opened.append(choice)
        return FakeRunner(FakeClock())

    module = SimpleNamespace(OpenVinoRunner=create)
    monkeypatch.setitem(sys.modules, "serving.runners.openvino", module)  # type: ignore[arg-type]
    (folder / CPU_FOLDER).mkdir()
    record = {"model_digest": CATALOG.digest, "num_images": 1, "runtime": "test"}
    (folder / CPU_FOLDER / MANIFEST).write_text(json.dumps(record))
    for precision in ("f32", "bf16", "int8"):
        open_family("openvino", (folder,), None, unused, precision)
    assert opened == [{"precision": name} for name in ("f32", "bf16", "int8")]


def test_a_precision_that_is_not_there(tmp_path: Path) -> None:
    folder = find_model(write_catalogs(tmp_path, "cells"), None)
    with pytest.raises(ModelError, match=r"no quantised segments in .*--calibration-images"):
        open_runner("openvino", folder, None, precision="int8")
    with pytest.raises(
        ModelError, match=r"openvino does not run .* int4: there are f32, bf16, int8"
    ):
        open_runner("openvino", folder, None, precision="int4")
    with pytest.raises(ModelError, match=r"onnxruntime .* it has no choice of precision"):
        open_runner("onnxruntime", folder, None, precision="f32")
    (folder / CPU_FOLDER).mkdir()
    record = {"model_digest": "0123", "num_images": 1, "runtime": "test"}
    (folder / CPU_FOLDER / MANIFEST).write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"were made of model 0123.* calibrate again"):
        open_runner("openvino", folder, None, precision="int8")


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


class TestOpenFamily:
    @pytest.fixture
    def runners(self, monkeypatch: pytest.MonkeyPatch) -> list[FakeRunner]:
        """Those that have been opened; there are two."""
        opened: list[FakeRunner] = []

        def create(*_: Any) -> FakeRunner:
            if len(opened) == 2:
                raise RuntimeError("no memory left")
            opened.append(FakeRunner(FakeClock()))
            return opened[-1]

        module = SimpleNamespace(OpenVinoRunner=create)
        monkeypatch.setitem(sys.modules, "serving.runners.openvino", module)  # type: ignore[arg-type]
        return opened

    def test_of_one_is_its_runner(self, tmp_path: Path, runners: list[FakeRunner]) -> None:
        folders = find_models(write_catalogs(tmp_path, "cells"), ())
        assert open_family("openvino", folders, None, unused) is runners[0]

    def test_of_several(self, tmp_path: Path, runners: list[FakeRunner]) -> None:
        catalogs = [replace(CATALOG, name=name) for name in ("small", "large")]
        folders = find_models(write_catalogs(tmp_path, *catalogs), ("small", "large"))
        runner = open_family("openvino", folders, None, unused)
        assert {segment.model for segment in runner.segments} == {0, 1}
        runner.run(segments.STEM.of(1), runner.load([np.zeros((96, 128, 3), np.uint8)]))
        assert [member.log for member in runners] == [[], [("stem", 1)]]

    @pytest.mark.parametrize("deeper", [1, 2])
    def test_without_a_place_to_stop_at_there_are_fused_segments_alone(
        self, deeper: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Unit segments are opened where any size has an exit to go on to."""
        opened: list[Any] = []

        def create(
            _: Path, catalog: Catalog, threads: int | None, wanted: Any = None
        ) -> FakeRunner:
            opened.append(wanted)
            runner = FakeRunner(FakeClock(), exits=(catalog.num_exits,))
            return replace(runner, units=wanted is None)

        module = SimpleNamespace(OpenVinoRunner=create)
        monkeypatch.setitem(sys.modules, "serving.runners.openvino", module)  # type: ignore[arg-type]
        catalogs = [
            replace(CATALOG, name=name, exits=CATALOG.exits[:count])
            for name, count in (("small", 1), ("large", deeper))
        ]
        folders = find_models(write_catalogs(tmp_path, *catalogs), ("small", "large"))
        runner = open_family("openvino", folders, None, unused)
        fused = {segments.fused_exit(1).of(model) for model in (0, 1)}
        assert opened == [{segments.fused_exit(1)} if deeper == 1 else None] * 2
        assert (runner.segments == fused) is (deeper == 1)

    def test_what_was_opened_is_closed_when_another_fails(
        self, tmp_path: Path, runners: list[FakeRunner], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed: list[FakeRunner] = []

        def close(runner: FakeRunner) -> None:
            closed.append(runner)

        monkeypatch.setattr(FakeRunner, "close", close)
        names = ("a", "b", "c")
        folders = find_models(write_catalogs(tmp_path, *names), names)
        with pytest.raises(RuntimeError, match="no memory left"):
            open_family("openvino", folders, None, unused)
        assert closed == runners


class TestOpenInstances:
    @staticmethod
    def library(
        runtime: str, opened: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Let a runtime's library be one whose runners have replicas."""

        class Replicable(FakeRunner):
            def replica(self) -> FakeRunner:
                return FakeRunner(FakeClock(), runtime="a replica")

        def create(*_: Any, **choice: Any) -> FakeRunner:
            opened.append(choice)
            return Replicable(FakeClock())

        module, _, name = RUNNERS[runtime].partition(":")
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{name: create}))  # type: ignore[arg-type]

    def test_one_is_compiled_and_the_others_share_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[dict[str, Any]] = []
        self.library("openvino", opened, monkeypatch)
        folders = find_models(write_catalogs(tmp_path, "cells"), ())
        runners = open_instances("openvino", folders, 1, 3, unused)
        assert [runner.runtime for runner in runners] == ["fake 1", "a replica", "a replica"]
        assert [choice["num_instances"] for choice in opened] == [3]

    def test_each_is_opened_where_nothing_can_be_shared(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[dict[str, Any]] = []
        self.library("onnxruntime", opened, monkeypatch)
        folders = find_models(write_catalogs(tmp_path, "cells"), ())
        runners = open_instances("onnxruntime", folders, 1, 3, unused)
        assert [runner.runtime for runner in runners] == ["fake 1"] * 3
        assert all("num_instances" not in choice for choice in opened)

    def test_of_several_models_each_has_one_of_all(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.library("openvino", [], monkeypatch)
        folders = find_models(write_catalogs(tmp_path, "a", "b"), ("a", "b"))
        runners = open_instances("openvino", folders, 1, 2, unused)
        assert len(runners) == 2
        assert all({s.model for s in runner.segments} == {0, 1} for runner in runners)

    @pytest.mark.parametrize(
        ("of_four_s", "compiled"), [(0.010, (1, 4)), (0.038, (1,)), (None, None)]
    )
    def test_whole_models_are_compiled_for_batches_that_pay(
        self,
        of_four_s: float | None,
        compiled: tuple[int, ...] | None,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        opened: list[dict[str, Any]] = []
        self.library("openvino", opened, monkeypatch)
        segment, profiles = segments.fused_exit(1), {}
        if of_four_s is not None:
            table = {
                (segment, 1): Quantiles(*[0.01] * 3),
                (segment, 4): Quantiles(*[of_four_s] * 3),
            }
            profiles = {"openvino": LatencyProfile("openvino", "a machine", "2026-01-01", 1, table)}
        one_exit = replace(CATALOG, exits=CATALOG.exits[:1], profiles=profiles)
        folders = find_models(write_catalogs(tmp_path, one_exit), ())
        open_instances("openvino", folders, 1, 1, unused, only_paying=True)
        open_instances("openvino", folders, 1, 1, unused)
        assert [choice.get("batch_sizes") for choice in opened] == [compiled, None]


class TestFindPrecision:
    @pytest.mark.parametrize(("share", "precision"), [(0.5, "int8"), (1.1, None)])
    def test_both_are_timed_in_turn(
        self, share: float, precision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock, opened = FakeClock(), []

        def create(_: Path, catalog: Catalog, threads: int | None, **choice: Any) -> FakeRunner:
            factor = share if choice.get("precision") else 1.0
            opened.append((threads, catalog.size, choice["wanted"], choice.get("precision")))
            return FakeRunner(clock, cost=lambda segment, batch: factor * cost_s(segment, batch))

        module = SimpleNamespace(OpenVinoRunner=create)
        monkeypatch.setitem(sys.modules, "serving.runners.openvino", module)  # type: ignore[arg-type]
        measured = CATALOG.with_figures(replace(CATALOG, precision="int8"))
        folders = find_models(write_catalogs(tmp_path, measured), ())
        assert find_precision("openvino", folders, 2, clock) is None, "nothing was quantised"
        quantized = folders[0] / "int8"
        quantized.mkdir()
        record = Quantized(read_family(folders).entries[0].digest, 1, "test")
        (quantized / "quantized.json").write_text(json.dumps(asdict(record)))
        assert find_precision("onnxruntime", folders, 2, clock) is None, "it runs no int8"
        choice = find_precision("openvino", folders, 2, clock)
        assert choice is not None
        assert choice.precision == precision
        assert f"{share:.2f} of the time here" in choice.reason
        wanted = {segments.fused_exit(3)}
        assert opened == [(2, "128x96", wanted, "int8"), (2, "128x96", wanted, None)]
        family = read_family(folders, choice.precision, choice.reason)
        assert family.precision_reason == choice.reason


class TestFiles:
    """What the catalogue describes is looked at, bit by bit, before anything is loaded."""

    CONTENTS: ClassVar = {"stem.onnx": b"stem", "head_1.onnx": b"head", "weights.bin": b"weights"}

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setitem(sys.modules, "serving.runners.openvino", Runners())  # type: ignore[arg-type]
        monkeypatch.setitem(sys.modules, "serving.runners.torch", OtherRunners())  # type: ignore[arg-type]
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
            assert open_runner("openvino", folder, 2, precision=precision)

    @pytest.mark.parametrize("precision", [None, "int8"])
    @pytest.mark.parametrize("name", CONTENTS)
    @pytest.mark.parametrize("bit", [0, 7])
    def test_a_flipped_bit(self, name: str, bit: int, precision: str | None, folder: Path) -> None:
        path = (folder / CPU_FOLDER if precision else folder) / name
        data = bytearray(path.read_bytes())
        data[-1] ^= 1 << bit
        path.write_bytes(data)
        with pytest.raises(ModelError, match=rf"{re.escape(str(path))} is not the file that was"):
            open_runner("openvino", folder, 2, precision=precision)
        assert open_runner("torch", folder, 2), "it has files of its own, and checks those"

    @pytest.mark.parametrize("precision", [None, "int8"])
    def test_a_file_that_is_not_there(self, precision: str | None, folder: Path) -> None:
        ((folder / CPU_FOLDER if precision else folder) / "weights.bin").unlink()
        with pytest.raises(ModelError, match=r"weights\.bin cannot be used"):
            open_runner("openvino", folder, 2, precision=precision)

    def test_quantised_segments_without_digests(self, folder: Path) -> None:
        path = folder / CPU_FOLDER / MANIFEST
        record = json.loads(path.read_text())
        del record["files"]
        path.write_text(json.dumps(record))
        with pytest.raises(ModelError, match=r"no digest of .*: calibrate again"):
            open_runner("openvino", folder, 2, precision="int8")


class OtherRunners:
    """A module with a runner that reads none of the files that the catalogue describes."""

    @staticmethod
    def TorchRunner(*arguments: Any, **named: Any) -> tuple[Any, ...]:  # noqa: N802
        return (*arguments, *named.values())


def unused(*_: Any) -> Any:
    """Models of one input size need no other."""
    raise AssertionError("resized")


class Runners:
    """A module whose runner is the arguments it was made with."""

    @staticmethod
    def OpenVinoRunner(*arguments: Any, **named: Any) -> tuple[Any, ...]:  # noqa: N802
        return (*arguments, *named.values())
