"""Result files: whole, beside each other, and the same wherever they are written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from reporting.files import write_report, write_whole


def test_a_report_is_two_files_whatever_its_name_has_in_it(tmp_path: Path) -> None:
    figures, tables = write_report(tmp_path / "new" / "live-v1.2", {"a": 1}, "# A\n")
    assert (figures.name, tables.name) == ("live-v1.2.json", "live-v1.2.md")
    assert json.loads(figures.read_text()) == {"a": 1}
    assert tables.read_text() == "# A\n"


def test_a_text_is_written_in_utf_8(tmp_path: Path) -> None:
    """Also one with the name of a file that is not."""
    path = tmp_path / "report.md"
    write_whole(path, "± " + os.fsdecode(b"caf\xe9"))
    assert path.read_bytes() == b"\xc2\xb1 caf\\udce9"


def test_what_cannot_be_written_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.md"
    write_whole(path, "before")

    def no_room(*_: object, **__: object) -> None:
        (tmp_path / f"report.md.{os.getpid()}.partial").touch()
        raise OSError("no room")

    monkeypatch.setattr(Path, "write_text", no_room)
    with pytest.raises(OSError, match="no room"):
        write_whole(path, "after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_one_that_writes_does_not_touch_what_another_is_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.md"
    written = []

    def replaced_later(partial: Path, to: Path) -> None:
        written.append((partial, to))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replaced_later)
        write_whole(path, "one")
        patched.setattr(os, "getpid", lambda: -1)
        write_whole(path, "the other")
    for partial, to in written:
        partial.replace(to)
    assert path.read_text() == "the other"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_named_where_a_file_was_to_be(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as refused:
        write_whole(tmp_path, "text")
    assert refused.value.filename == str(tmp_path)
