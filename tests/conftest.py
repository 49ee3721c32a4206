"""Rules for all tests: which are slow, how many threads one has, and that those for hardware that
is not there skip, and in CI nothing else may."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

# Tests run side by side, one in a process. Threads of their libraries, which read this as they are
# loaded, would spin against each other.
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{library}_NUM_THREADS"] = "1"

import pytest
from hypothesis import settings

from tests.properties import FULL, QUICK
from tests.shared import made_once

if TYPE_CHECKING:
    from tests.exported import Exported

settings.register_profile("full", FULL)
settings.register_profile("quick", QUICK)
settings.load_profile("quick")

HARDWARE = ("gpu", "bf16")
"""Markers of tests that not every machine can run."""
SLOW_FIXTURES = {"tritonserver", "promtool"}
"""Whoever needs one of them waits for seconds."""
SLOW_FOLDERS = {Path(__file__).parent / name for name in ("browser", "e2e")}


def is_slow(item: pytest.Item) -> bool:
    """Whether a test is slow by what it needs or where it is."""
    needed = set(getattr(item, "fixturenames", ()))
    return bool(SLOW_FIXTURES & needed or SLOW_FOLDERS & set(item.path.parents))


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    has_gpu = shutil.which("nvidia-smi") is not None
    for item in items:
        if is_slow(item):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("gpu") and not has_gpu:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))


def pytest_collection_finish() -> None:
    """What was imported stays, as in a server: a collection that went through all of it would take
    a tenth of a second of whichever thread it happens in, such as one that decodes."""
    gc.collect()
    gc.freeze()


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
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The small detector in every form that a runner takes."""
    from tests.exported import exported_detector, write_programs  # bring torch along

    def export(folder: Path) -> Exported:
        exported = exported_detector(folder)
        write_programs(exported)
        exported.quantize()
        return exported

    return made_once(tmp_path_factory, "segments", export)


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
