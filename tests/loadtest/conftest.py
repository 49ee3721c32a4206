from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.tritonserver import (
    AssemblyError,
    assemble,
    assemble_perf_analyzer,
    default_folder,
)
from tests.e2e.backends import write_repository


@pytest.fixture(scope="session")
def small_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Triton model repository with a small model."""
    folder = tmp_path_factory.mktemp("model_repo")
    write_repository(folder)
    return folder


@pytest.fixture(scope="session")
def tritonserver() -> None:
    """Makes sure that there is one, and perf_analyzer."""
    try:
        assemble(default_folder())
        assemble_perf_analyzer(default_folder())
    except AssemblyError as error:
        pytest.skip(f"no tritonserver: {error}")
