"""Compiled models on disk, so that only the first start on a machine has to compile.

FOLDER/compiled/<key>.blob      SHA-256 of the last part, zeros, what a runtime exported

A key names all that the compiled form depends on, so nothing here is ever out of date: it is used,
or never asked for again and, being the least recently used, the first to go. A cache may be
missing, read-only or damaged at any time, and costs then what not having it does.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
import time
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)

SUBFOLDER = "compiled"
DIGEST_BYTES, HEADER_BYTES = 32, 64
"""Bytes of the digest, and of all before the model, which lies in memory as it does in the file: at
a multiple of what processors like."""
SUFFIX, PARTIAL = ".blob", ".partial"
STALE_S = 3600.0
"""Age in seconds of an unfinished file from which on nobody is still writing it."""

Blob = npt.NDArray[np.uint8]
"""Array of the bytes of a compiled model."""


def default_folder() -> Path | None:
    """Return the folder of this program among the user's caches; None where there is none."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return None
    return Path(home) / "punctual"


class CompiledCache:
    """Compiled models in ``folder``, of ``max_bytes`` bytes together at most.

    For any thread, and several processes at once. Nothing is raised but by a defect.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._folder = folder / SUBFOLDER
        self._writing = Lock()
        self._complained = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what makes another one over the same folder, in a process that opens runners."""
        return CompiledCache, (self.folder, self.max_bytes)

    def get(self, key: str) -> Blob | None:
        """Return what is kept under ``key``, whole and as it was put; None if there is none.

        It lies in the file, for as long as the array lives: of its memory no more is taken than is
        looked at, and that is shared.
        """
        path = self._path(key)
        try:
            if not self._is_own():
                return None
            data: Any = np.memmap(path, np.uint8, mode="c")
            digest, blob = data[:DIGEST_BYTES].tobytes(), data[HEADER_BYTES:]
            if hashlib.sha256(blob).digest() != digest:
                raise ValueError("it is damaged")
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("a compiled model is not used: %s: %s", path, error)
            self.drop(key)
            return None
        return blob  # type: ignore[no-any-return]

    def put(self, key: str, blob: bytes) -> None:
        """Keep ``blob`` under ``key``, and let go what was least recently used, if need be."""
        if len(blob) + HEADER_BYTES > self.max_bytes:
            return
        try:
            with self._writing:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                if not self._is_own():
                    self._complain(f"{self._folder} is not this user's alone")
                    return
                self._make_room(len(blob) + HEADER_BYTES)
                with tempfile.NamedTemporaryFile(
                    dir=self._folder, suffix=PARTIAL, delete=False
                ) as file:
                    partial = Path(file.name)
                    try:
                        file.write(hashlib.sha256(blob).digest().ljust(HEADER_BYTES, b"\0"))
                        file.write(blob)
                        file.flush()
                        partial.replace(self._path(key))
                    except BaseException:
                        partial.unlink(missing_ok=True)
                        raise
        except OSError as error:
            self._complain(str(error))

    def drop(self, key: str) -> None:
        """Let go what is kept under ``key``, if anything."""
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            self._complain(str(error))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{SUFFIX}"

    def _is_own(self) -> bool:
        """Return whether nobody else may write what is loaded from here. Raises OSError."""
        status = self._folder.stat()
        return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    def _make_room(self, num_bytes: int) -> None:
        """Let go what is too much besides ``num_bytes`` more, least recently used first."""
        kept = []
        for path in self._folder.iterdir():
            try:
                status = path.stat()
            except FileNotFoundError:  # another process was quicker
                continue
            if path.suffix == SUFFIX:
                kept.append((status.st_mtime, status.st_size, path))
            elif path.suffix == PARTIAL and status.st_mtime < time.time() - STALE_S:
                path.unlink(missing_ok=True)
        total = num_bytes + sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _complain(self, why: str) -> None:
        """Say once that compiled models cannot be kept."""
        if not self._complained:
            self._complained = True
            log.warning("compiled models are not kept, so that each start compiles anew: %s", why)
