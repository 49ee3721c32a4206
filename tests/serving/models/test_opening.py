"""Runners are opened of what is asked for, and closed if any of them cannot be."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serving.artifacts.int8_segments import CPU_FOLDER, MANIFEST
from serving.artifacts.model_folders import ModelError, find_model, find_models
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.latency_profile import LatencyProfile, Quantiles
from serving.models.opening import open_family, open_instances, open_runner
from serving.models.repository import RUNNERS
from serving.models.runtime_options import RuntimeOptions
from tests.serving.fakes import CATALOG, write_catalogs
from tests.serving.models.runners import Runners, unused
from tests.serving.world import FakeClock, FakeRunner


def test_runners_are_imported_when_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no runtime 'magic'"):
        open_runner(tmp_path, RuntimeOptions("magic"))
    folder = find_model(write_catalogs(tmp_path, "cells"), None)
    monkeypatch.setitem(sys.modules, "serving.runners.openvino.runner", Runners())  # type: ignore[arg-type]
    opened: Any = open_runner(folder, RuntimeOptions("openvino", 2))
    assert opened == (folder, CATALOG, 2)


def test_some_segments_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_model(write_catalogs(tmp_path, "cells"), None)
    monkeypatch.setitem(sys.modules, "serving.runners.openvino.runner", Runners())  # type: ignore[arg-type]
    wanted = {segments.fused_exit(2)}
    assert open_runner(folder, RuntimeOptions("openvino", 2), wanted) == (
        folder,
        CATALOG,
        2,
        wanted,
    )  # type: ignore[comparison-overlap]


def test_a_precision_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_model(write_catalogs(tmp_path, "cells"), None)
    opened: list[Any] = []

    def create(*given: Any, **choice: Any) -> FakeRunner:
        opened.append(choice)
        return FakeRunner(FakeClock())

    module = SimpleNamespace(OpenVinoRunner=create)
    monkeypatch.setitem(sys.modules, "serving.runners.openvino.runner", module)  # type: ignore[arg-type]
    (folder / CPU_FOLDER).mkdir()
    record = {"model_digest": CATALOG.digest, "num_images": 1, "runtime": "test"}
    (folder / CPU_FOLDER / MANIFEST).write_text(json.dumps(record))
    for precision in ("f32", "bf16", "int8"):
        open_family((folder,), RuntimeOptions("openvino", precision=precision), unused)
    assert opened == [{"precision": name} for name in ("f32", "bf16", "int8")]


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
        monkeypatch.setitem(sys.modules, "serving.runners.openvino.runner", module)  # type: ignore[arg-type]
        return opened

    def test_of_one_is_its_runner(self, tmp_path: Path, runners: list[FakeRunner]) -> None:
        folders = find_models(write_catalogs(tmp_path, "cells"), ())
        assert open_family(folders, RuntimeOptions("openvino"), unused) is runners[0]

    def test_of_several(self, tmp_path: Path, runners: list[FakeRunner]) -> None:
        catalogs = [replace(CATALOG, name=name) for name in ("small", "large")]
        folders = find_models(write_catalogs(tmp_path, *catalogs), ("small", "large"))
        runner = open_family(folders, RuntimeOptions("openvino"), unused)
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
        monkeypatch.setitem(sys.modules, "serving.runners.openvino.runner", module)  # type: ignore[arg-type]
        catalogs = [
            replace(CATALOG, name=name, exits=CATALOG.exits[:count])
            for name, count in (("small", 1), ("large", deeper))
        ]
        folders = find_models(write_catalogs(tmp_path, *catalogs), ("small", "large"))
        runner = open_family(folders, RuntimeOptions("openvino"), unused)
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
            open_family(folders, RuntimeOptions("openvino"), unused)
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
        runners = open_instances(folders, RuntimeOptions("openvino", 1, num_instances=3), unused)
        assert [runner.runtime for runner in runners] == ["fake 1", "a replica", "a replica"]
        assert [choice["num_instances"] for choice in opened] == [3]

    def test_each_is_opened_where_nothing_can_be_shared(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[dict[str, Any]] = []
        self.library("onnxruntime", opened, monkeypatch)
        folders = find_models(write_catalogs(tmp_path, "cells"), ())
        runners = open_instances(folders, RuntimeOptions("onnxruntime", 1, num_instances=3), unused)
        assert [runner.runtime for runner in runners] == ["fake 1"] * 3
        assert all("num_instances" not in choice for choice in opened)

    def test_of_several_models_each_has_one_of_all(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.library("openvino", [], monkeypatch)
        folders = find_models(write_catalogs(tmp_path, "a", "b"), ("a", "b"))
        runners = open_instances(folders, RuntimeOptions("openvino", 1, num_instances=2), unused)
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
        open_instances(
            folders, RuntimeOptions("openvino", 1, num_instances=1), unused, only_paying=True
        )
        open_instances(folders, RuntimeOptions("openvino", 1, num_instances=1), unused)
        assert [choice.get("batch_sizes") for choice in opened] == [compiled, None]
