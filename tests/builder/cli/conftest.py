"""Fixtures for the builder's commands."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.exporting.repository import write_entry
from serving.artifacts.model_folders import version_folder
from serving.core.model_entry import ModelEntry
from tests.exported import exported_detector


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with an untrained model, which no test changes but for its texts."""
    folder = tmp_path_factory.mktemp("repository")
    exported = exported_detector(version_folder(folder, "toy"))
    write_entry(ModelEntry((replace(exported.catalog, name="toy"),)), exported.folder)
    return folder
