"""A key file in use: read again when it changes, and kept as it was while it is broken."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from serving.access.keys import KeyFileError, Keyring, read_keys

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
"""Seconds between two looks at whether the file has changed."""

Changed = Callable[[Keyring], None]
"""Function that is told of a keyring that has come into use."""
Look = Callable[[], Keyring | None]
InThread = Callable[[Look], Awaitable[Keyring | None]]
"""Function that runs another one in a thread, which may never return."""
_Version = tuple[int, int, int, int]


class KeyFile:
    """One key file and the keyring that was last read from it."""

    def __init__(self, path: Path, changed: Changed = lambda _: None) -> None:
        """Read the file. Raises KeyFileError. ``changed`` is called now and after each change."""
        self._path = path
        self._changed = changed
        self._version: _Version | None = _version_of(path)
        self.keyring = read_keys(path)
        changed(self.keyring)

    def look(self) -> Keyring | None:
        """Return what is in the file if it is another version than was last read, broken or not.

        It is None if it is the same, or cannot be used, which is logged.
        """
        version = _version_of(self._path)
        return None if version == self._version else self._read(version)

    def reread(self) -> Keyring | None:
        """Return what is in the file, changed or not; None as ``look``."""
        return self._read(_version_of(self._path))

    def use(self, keyring: Keyring | None) -> None:
        """Let the next request be known by this keyring, if it is one."""
        if keyring is not None:
            self.keyring = keyring
            self._changed(keyring)
            logger.info("%d principals from %s", len(keyring.principals), self._path)

    async def watch(self, in_thread: InThread) -> None:
        """Look at the file again and again, until cancelled, and read it on SIGHUP.

        It is read beside the event loop, which a long file, or one on a disk that hangs, would hold
        up; once more after however many signals.
        """
        loop, is_asked = asyncio.get_running_loop(), asyncio.Event()
        # Only the main thread can have handlers of signals, and not every system has this one.
        with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(signal.SIGHUP, is_asked.set)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await is_asked.wait()
            read = self.reread if is_asked.is_set() else self.look
            is_asked.clear()
            try:
                self.use(await in_thread(read))
            except Exception as error:  # the next version may be another
                logger.error("%s could not be looked at", self._path, exc_info=error)

    def _read(self, version: _Version | None) -> Keyring | None:
        self._version = version
        try:
            return read_keys(self._path)
        except KeyFileError as error:
            logger.error("%s; the keys that were there before stay in use", error)
            return None


def _version_of(path: Path) -> _Version | None:
    """Return what changes when a file does; None if it is not there.

    The time of its last change is the kernel's own, whatever its writer says of its age.
    """
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ctime_ns, stat.st_mtime_ns, stat.st_ino, stat.st_size
