"""Files that a user names: read within bounds, whatever they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.config import user_files
from builder.config.pyramid_graphs import GRAPHS, graph_json, read_graph
from builder.config.user_files import read_bytes, read_text
from serving.core.command_errors import CommandError


def test_what_never_ends_or_never_begins_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(CommandError, match=f"{path} is no regular file"):
            read_bytes(path)
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)


def test_a_file_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_files, "MAX_BYTES", 3)
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert read_bytes(path) == b"abc"
    path.write_bytes(b"abcd")
    with pytest.raises(CommandError, match="file is larger than"):
        read_bytes(path)


def test_a_mark_at_the_beginning_is_no_part_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    path.write_text("\ufeff" + graph_json(GRAPHS["nas_fpn"]), encoding="utf-8")
    assert read_text(path).startswith("{")
    assert read_graph(path) == GRAPHS["nas_fpn"]
