"""A key file in use: read again when it changes, kept as it was while it is broken."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.access import key_file
from serving.access.key_file import KeyFile, Look
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

    def look(self) -> None:
        self.used.use(self.used.look())

    def knows(self, name: str) -> bool:
        return self.used.keyring.find(name.encode()) is not None


def test_it_is_read_again_when_it_changes(tmp_path: Path):
    file = File(tmp_path, holders("one"))
    file.look()
    assert file.told == [["one"]]
    file.write(holders("one", "two"))
    assert not file.knows("two")
    file.look()
    assert file.knows("one")
    assert file.knows("two")
    file.write(holders("two"))
    file.look()
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
                file.look()
            assert file.knows("one")
    assert len(caplog.records) == 2
    assert all("stay in use" in record.message for record in caplog.records)
    file.write(holders("two"))
    file.look()
    assert file.knows("two")
    assert not file.knows("one")


def test_it_is_read_at_once_where_that_is_asked_for(tmp_path: Path):
    file = File(tmp_path, holders("one"))
    file.write(holders("two"))
    file.used.use(file.used.reread())
    assert file.knows("two")


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "device", "large", "no text", "twice"])
def test_whatever_is_in_its_place_is_said_and_changes_nothing(tmp_path: Path, caplog, kind: str):
    file = File(tmp_path, holders("one"))
    file.path.unlink()
    match kind:
        case "folder":
            file.path.mkdir()
        case "pipe":
            os.mkfifo(file.path)
        case "loop":
            file.path.symlink_to(file.path)
        case "device":
            file.path.symlink_to("/dev/zero")
        case "large":
            with file.path.open("wb") as large:
                large.truncate(2**30)
        case "no text":
            file.path.write_bytes(b"\xff" * 100)
        case "twice":
            file.path.write_text(holders("two", "two"))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            file.look()
    (record,) = caplog.records
    assert "stay in use" in record.message
    assert file.knows("one")
    assert file.told == [["one"]]
    with pytest.raises(KeyFileError):
        KeyFile(file.path)


def test_a_change_that_looks_like_none_is_seen(tmp_path: Path):
    """A key that was taken away must not stay in use, whatever the file says of its age."""
    file = File(tmp_path, holders("one"))
    before = file.path.stat()
    file.path.write_text(holders("two"))
    os.utime(file.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
        *(before.st_ino, before.st_size, before.st_mtime_ns),
    )
    file.look()
    assert not file.knows("one")


def test_rights_that_were_lost_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    file = File(tmp_path, holders("one"))
    file.path.chmod(0)
    monkeypatch.setattr("serving.access.keys.os.open", refuse)  # as for all but root
    with caplog.at_level(logging.ERROR):
        file.look()
    assert "Permission denied; the keys that were there before stay in use" in caplog.text
    assert file.knows("one")


class Watched:
    """A key file that is watched, and read when the test lets it."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.num_reads = 0
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.fails = False

    async def in_thread(self, look: Look) -> Keyring | None:
        self.num_reads += 1
        await self.may_read.wait()
        if self.fails:
            self.fails = False
            raise RuntimeError("nobody has thought of that")
        return look()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20.0):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.mark.anyio
async def test_signals_are_not_queued_while_it_is_read(tmp_path: Path):
    file = File(tmp_path, holders("one"))
    watched = Watched(file)
    watched.may_read.clear()
    watching = asyncio.create_task(file.used.watch(watched.in_thread))
    await asyncio.sleep(0)
    for _ in range(1000):
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
    await watched.until(lambda: watched.num_reads == 1)
    file.write(holders("two"))
    watched.may_read.set()
    await watched.until(lambda: file.knows("two"))
    await asyncio.sleep(0.01)
    assert watched.num_reads <= 2
    watching.cancel()
    asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)


@pytest.mark.anyio
async def test_watching_goes_on_after_a_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
    monkeypatch.setattr(key_file, "LOOK_EVERY_S", 0.001)
    file = File(tmp_path, holders("one"))
    watched = Watched(file)
    watched.fails = True
    watching = asyncio.create_task(file.used.watch(watched.in_thread))
    await watched.until(lambda: "could not be looked at" in caplog.text)
    file.write(holders("two"))
    await watched.until(lambda: file.knows("two"))
    watching.cancel()
    asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)


def test_a_server_does_not_begin_with_a_broken_one(tmp_path: Path):
    with pytest.raises(KeyFileError):
        File(tmp_path, BROKEN)
