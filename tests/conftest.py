"""Rules for all tests: those for hardware that is not there skip, and in CI nothing else may."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

HARDWARE = ("gpu", "bf16")
"""Markers of tests that not every machine can run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if shutil.which("nvidia-smi") is not None:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    is_excused = any(item.get_closest_marker(name) for name in HARDWARE)
    if report.skipped and os.environ.get("CI") and not is_excused:
        if hasattr(report, "wasxfail"):
            return report
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where everything must run: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def small_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Triton model repository with a small model, for all backends."""
    from tests.e2e.backends import write_repository  # brings torch along

    folder = tmp_path_factory.mktemp("model_repo")
    write_repository(folder)
    return folder


@pytest.fixture(scope="session")
def tritonserver() -> None:
    """Makes sure that there is one, and perf_analyzer."""
    from loadtest.servers.tritonserver import AssemblyError, assemble_perf_analyzer, default_folder

    try:
        assemble_perf_analyzer(default_folder())
    except AssemblyError as error:
        pytest.skip(f"no tritonserver: {error}")
