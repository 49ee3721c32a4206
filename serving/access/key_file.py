"""A key file in use: read again when it changes, and kept as it was while it is broken."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from pathlib import Path

from serving.access.keys import KeyFileError, Keyring, read_keys

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
"""Seconds between two looks at whether the file has changed."""

Changed = Callable[[Keyring], None]
"""Function that is told of a keyring that has come into use."""
_Version = tuple[int, int, int]


class KeyFile:
    """One key file and the keyring that was last read from it."""

    def __init__(self, path: Path, changed: Changed = lambda _: None) -> None:
        """Read the file. Raises KeyFileError. ``changed`` is called now and after each change."""
        self._path = path
        self._changed = changed
        self._version: _Version | None = _version_of(path)
        self.keyring = read_keys(path)
        changed(self.keyring)

    def look(self) -> None:
        """Read the file again if it is another version than was last read, broken or not."""
        version = _version_of(self._path)
        if version != self._version:
            self._version = version
            self.reload()

    def reload(self) -> None:
        """Read the file again, and keep what there is where that cannot be used."""
        try:
            keyring = read_keys(self._path)
        except KeyFileError as error:
            logger.error("%s; the keys that were there before stay in use", error)
            return
        self.keyring = keyring
        self._changed(keyring)
        logger.info("%d principals from %s", len(keyring.principals), self._path)

    async def watch(self) -> None:
        """Look at the file again and again, until cancelled, and read it on SIGHUP."""
        loop = asyncio.get_running_loop()
        # Only the main thread can have handlers of signals, and not every system has this one.
        with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(signal.SIGHUP, self.reload)
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()


def _version_of(path: Path) -> _Version | None:
    """Return what changes when a file does; None if it is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
