"""Names that ``--help`` repeats, since what they are of is not imported for it."""

from __future__ import annotations

from pathlib import Path

import serving.models.repository
from builder.cli import options
from builder.cli.build import RUNTIMES
from builder.cli.options import files_of_glob
from builder.data import BAD_ANNOTATIONS, DATASETS
from serving.models.repository import RUNNERS


def test_every_runtime_can_be_built_for_and_profiled():
    assert set(RUNTIMES) == set(RUNNERS)


def test_every_precision_that_can_be_served_can_be_measured():
    for offered in serving.models.repository.PRECISIONS.values():
        assert offered == options.PRECISIONS


def test_every_reader_can_be_named():
    assert tuple(DATASETS) == options.DATASETS
    assert BAD_ANNOTATIONS == options.BAD_ANNOTATIONS


def test_a_file_with_brackets_in_its_name(tmp_path: Path) -> None:
    for name in ("a[1].jpg", "a1.jpg"):
        (tmp_path / name).touch()
    assert files_of_glob(str(tmp_path / "a[1].jpg")) == [tmp_path / "a[1].jpg"]
    assert files_of_glob(str(tmp_path / "a[12].jpg")) == [tmp_path / "a1.jpg"]
