"""A key file in use: read again when it changes, kept as it was while it is broken."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from serving.access.key_file import KeyFile
from serving.access.keys import KeyFileError, Keyring, digest_of

BROKEN = "[[principal]]\nname = 1"


def holders(*names: str) -> str:
    """A file in which the key of each is its name."""
    return "".join(
        f'[[principal]]\nname = "{name}"\nsha256 = "{digest_of(name.encode())}"\n' for name in names
    )


class File:
    """A key file, and the names that were told of each time it came into use."""

    def __init__(self, folder: Path, content: str) -> None:
        self.path = folder / "keys.toml"
        self.told: list[list[str]] = []
        self.write(content)
        self.used = KeyFile(self.path, self._changed)

    def _changed(self, keyring: Keyring) -> None:
        self.told.append([each.name for each in keyring.principals])

    def write(self, content: str) -> None:
        """As an editor or Kubernetes does it: another file in the place of the one before."""
        other = self.path.with_suffix(".new")
        other.write_text(content)
        os.replace(other, self.path)

    def knows(self, name: str) -> bool:
        return self.used.keyring.find(name.encode()) is not None


def test_it_is_read_again_when_it_changes(tmp_path: Path):
    file = File(tmp_path, holders("one"))
    file.used.look()
    assert file.told == [["one"]]
    file.write(holders("one", "two"))
    assert not file.knows("two")
    file.used.look()
    assert file.knows("one")
    assert file.knows("two")
    file.write(holders("two"))
    file.used.look()
    assert not file.knows("one")
    assert file.told == [["one"], ["one", "two"], ["two"]]


def test_a_broken_one_changes_nothing_and_is_said_once(tmp_path: Path, caplog):
    file = File(tmp_path, holders("one"))
    with caplog.at_level(logging.ERROR):
        for content in (BROKEN, None):
            if content is None:
                file.path.unlink()
            else:
                file.write(content)
            for _ in range(3):
                file.used.look()
            assert file.knows("one")
    assert len(caplog.records) == 2
    assert all("stay in use" in record.message for record in caplog.records)
    file.write(holders("two"))
    file.used.look()
    assert file.knows("two")
    assert not file.knows("one")


def test_it_is_read_at_once_where_that_is_asked_for(tmp_path: Path):
    file = File(tmp_path, holders("one"))
    file.write(holders("two"))
    file.used.reload()
    assert file.knows("two")


def test_a_server_does_not_begin_with_a_broken_one(tmp_path: Path):
    with pytest.raises(KeyFileError):
        File(tmp_path, BROKEN)
