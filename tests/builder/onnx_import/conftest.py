"""What tests of imports have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from builder.onnx_import.checking import run_segments
from builder.onnx_import.importing import ImportOptions, import_model
from serving.artifacts.model_folders import version_folder
from serving.core.model_entry import ModelEntry
from tests.builder.onnx_import.detectors import NAMES, save


@dataclass
class Importer:
    """An import of models into a repository."""

    scratch: Path
    labels: str

    @property
    def repository(self) -> Path:
        return self.scratch / "repo"

    @property
    def folder(self) -> Path:
        return version_folder(self.repository, "mine")

    def __call__(self, *models, **options) -> ModelEntry:
        files = tuple(
            save(model, self.scratch / f"detector_{number}.onnx")
            for number, model in enumerate(models)
        )
        wanted = replace(ImportOptions(files, "mine", classes=self.labels), **options)
        return import_model(wanted, self.repository, lambda _: (), lambda *_: None)


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(NAMES) + "\n")
    return str(path)


@pytest.fixture
def imported(tmp_path, labels):
    """What imports models, one for each file."""
    return Importer(tmp_path, labels)


@pytest.fixture
def find(imported):
    """A function that runs the segments of an entry, or of one size: the boxes at each exit in each
    image."""

    def run(entry, images, at_once=None, size=None):
        catalog = entry.size(size)
        segments = {
            name: onnx.load(imported.folder / file.file) for name, file in catalog.segments.items()
        }
        images = [np.asarray(image) for image in images]
        return run_segments(segments, catalog.num_exits, images, at_once or len(images))

    return run
