"""Folders that one process at a time writes into."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.artifacts.folder_locks import FolderBusy, only_writer


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    """A second one in the same process counts as one of another; nothing is left in the folder."""
    with (
        only_writer(tmp_path),
        pytest.raises(FolderBusy, match="another process writes into"),
        only_writer(tmp_path),
    ):
        pass
    with only_writer(tmp_path, wait=True):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), only_writer(tmp_path / "nowhere"):
        pass
