"""Compiled models on disk: what was put is what one gets, or nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from serving.runners.compiled_cache import (
    DIGEST_BYTES,
    HEADER_BYTES,
    STALE_S,
    CompiledCache,
    default_folder,
)

BLOB = bytes(range(256)) * 4


def got(cache: CompiledCache, key: str) -> bytes | None:
    blob = cache.get(key)
    return None if blob is None else blob.tobytes()


def files(folder: Path) -> list[Path]:
    return sorted((folder / "compiled").iterdir())


def test_what_was_put_is_what_one_gets(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path, 10**6)
    assert cache.get("a") is None
    cache.put("a", BLOB)
    cache.put("b", b"")
    assert (got(cache, "a"), got(CompiledCache(tmp_path, 10**6), "b")) == (BLOB, b"")
    assert stat.S_IMODE((tmp_path / "compiled").stat().st_mode) == 0o700
    cache.put("a", b"another")
    assert got(cache, "a") == b"another"
    cache.drop("a")
    assert cache.get("a") is None


@pytest.mark.parametrize("place", [0, DIGEST_BYTES - 1, HEADER_BYTES, -1])
def test_a_flipped_bit_is_noticed_and_the_file_goes(place: int, tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path, 10**6)
    cache.put("a", BLOB)
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert cache.get("a") is None
    assert files(tmp_path) == []


@pytest.mark.parametrize("length", [0, 1, DIGEST_BYTES, HEADER_BYTES, HEADER_BYTES + 1])
def test_a_file_that_was_cut_is_noticed(length: int, tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path, 10**6)
    cache.put("a", BLOB)
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    assert cache.get("a") is None
    assert files(tmp_path) == []


def test_what_was_least_recently_used_goes_first(tmp_path: Path) -> None:
    one = len(BLOB) + HEADER_BYTES
    cache = CompiledCache(tmp_path, 3 * one)
    for age, key in enumerate("abc"):
        cache.put(key, BLOB)
        os.utime(tmp_path / "compiled" / f"{key}.blob", (age, age))
    assert cache.get("a") is not None  # and so it is the most recent
    cache.put("d", BLOB)
    assert [path.stem for path in files(tmp_path)] == ["a", "c", "d"]
    cache.put("e", BLOB * 2)
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 3 * one
    cache.put("f", BLOB * 4)
    assert cache.get("f") is None, "larger than all"


def test_an_unfinished_file_is_cleared_away_once_nobody_writes_it(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path, 10**6)
    cache.put("a", BLOB)
    old, new = (tmp_path / "compiled" / f"{name}.partial" for name in ("old", "new"))
    for path in (old, new):
        path.touch()
    long_ago = old.stat().st_mtime - 2 * STALE_S
    os.utime(old, (long_ago, long_ago))
    cache.put("b", BLOB)
    assert [path.name for path in files(tmp_path)] == ["a.blob", "b.blob", "new.partial"]


def test_a_folder_that_is_none_costs_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken = tmp_path / "file"
    taken.touch()
    cache = CompiledCache(taken, 10**6)
    for key in "ab":
        cache.put(key, BLOB)
        assert cache.get(key) is None
    assert caplog.text.count("compiled models are not kept") == 1


def test_what_others_may_write_is_not_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = CompiledCache(tmp_path, 10**6)
    cache.put("a", BLOB)
    (tmp_path / "compiled").chmod(0o777)
    assert cache.get("a") is None
    cache.put("b", BLOB)
    assert cache.get("b") is None
    assert "not this user's alone" in caplog.text


def test_it_is_among_the_users_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "punctual"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_folder() == Path("/home/somebody/.cache/punctual")
