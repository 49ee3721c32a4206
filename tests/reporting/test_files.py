"""Result files: whole, and beside each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reporting.files import write_report, write_whole


def test_a_report_is_two_files_whatever_its_name_has_in_it(tmp_path: Path) -> None:
    figures, tables = write_report(tmp_path / "new" / "live-v1.2", {"a": 1}, "# A\n")
    assert (figures.name, tables.name) == ("live-v1.2.json", "live-v1.2.md")
    assert json.loads(figures.read_text()) == {"a": 1}
    assert tables.read_text() == "# A\n"


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "tables.md"
    write_whole(path, "before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\udcff")
    assert path.read_text() == "before"
