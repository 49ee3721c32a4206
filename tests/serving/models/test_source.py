"""Versions of a model: each is what its folders were when it was read, or nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serving.artifacts.model_folders import ModelError, find_models
from serving.core.catalog import SegmentFile
from serving.models import source as module
from serving.models.runtime_options import RuntimeOptions
from serving.models.source import ModelSource
from serving.models.trial import Trial, TrialJob
from tests.serving.fakes import CATALOG, family_of, write_catalogs
from tests.serving.world import FakeClock, FakeRunner

OTHER = replace(CATALOG, weights=SegmentFile("weights.bin", "ab"))
"""The same model with other weights."""


def replace_files(repository: Path) -> None:
    """Put the model with other weights in the place of what is there."""
    shutil.rmtree(repository / "cells_anytime")
    write_catalogs(repository, OTHER)


def source_of(repository: Path, precision: str | None = None) -> ModelSource:
    options = RuntimeOptions("openvino", 1, precision)
    return ModelSource(repository, (), options, engine_process=False, max_second_bytes=2**40)


def test_what_is_there_is_read(tmp_path: Path) -> None:
    source = source_of(write_catalogs(tmp_path, CATALOG))
    version = source.read()
    assert version.folders == tuple(path.resolve() for path in find_models(tmp_path, ()))
    assert version.family == family_of(CATALOG)
    assert version.precision is None
    assert source.first(may_choose=False) == version
    assert source_of(tmp_path, "bf16").read().precision == "bf16"
    with pytest.raises(ModelError, match="no quantised segments"):
        source_of(tmp_path, "int8").read()


def test_a_version_is_opened_as_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    runner = FakeRunner(FakeClock())

    def open_instances(*given: object, only_paying: bool) -> list[FakeRunner]:
        opened.append(given[1])
        return [runner]

    monkeypatch.setattr(module, "open_instances", open_instances)
    source = source_of(write_catalogs(tmp_path, CATALOG))
    version = replace(source.read(), precision="bf16")
    assert source.open(version) == [runner]
    assert opened == [RuntimeOptions("openvino", 1, "bf16")]
    replace_files(tmp_path)
    with pytest.raises(ModelError, match="are no longer in"):
        source.open(version)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Trial]], list[TrialJob]]:
    """What lets trials come out as a function says, and returns the jobs of those there were."""

    def let(trial: Callable[[], Trial]) -> list[TrialJob]:
        jobs: list[TrialJob] = []

        def try_version(job: TrialJob, max_bytes: int, clock: object) -> Trial:
            jobs.append(job)
            return trial()

        monkeypatch.setattr(module, "try_version", try_version)
        return jobs

    return let


def test_a_version_serves_in_the_precision_that_its_trial_chose(
    tmp_path: Path, tried: Callable[[Callable[[], Trial]], list[TrialJob]]
) -> None:
    source = source_of(write_catalogs(tmp_path, CATALOG))
    jobs = tried(lambda: Trial("bf16", "it is quick"))
    version = source.try_one(source.read(), low_priority=True)
    assert (version.precision, version.family.precision_reason) == ("bf16", "it is quick")
    assert [(job.options, job.low_priority) for job in jobs] == [(source.options, True)]


def test_a_version_that_is_replaced_during_its_trial_does_not_serve(
    tmp_path: Path, tried: Callable[[Callable[[], Trial]], list[TrialJob]]
) -> None:
    source = source_of(write_catalogs(tmp_path, CATALOG))

    def replaced() -> Trial:
        replace_files(tmp_path)
        return Trial()

    tried(replaced)
    with pytest.raises(ModelError, match="were replaced while it was tried"):
        source.try_one(source.read(), low_priority=False)
