"""Shared memory for images: a Triton on this host maps what the gateway writes.

There is one file in /dev/shm for each gateway, cut into slots of one batch. The gateway holds a
lock on its file for as long as it lives, and the kernel lets go of the lock however it ends; so
whoever can lock such a file knows that its owner is gone, and removes it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.core.ports import Image

FOLDER = Path("/dev/shm")
"""Folder of the kernel's shared memory."""
PREFIX = "punctual-"
"""Start of the names of all gateways' files."""
PERMISSIONS = 0o660
"""Permissions of a file: Triton may run as another user of the same group."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one batch in the file: bytes ``offset`` to ``offset + size``."""

    index: int
    offset: int
    size: int


class SharedImages:
    """A file of ``num_slots`` slots of ``slot_bytes`` each. Not thread-safe."""

    def __init__(self, slot_bytes: int, num_slots: int, folder: Path = FOLDER) -> None:
        """Create the file. Raises OSError where there is no room for it, or no such folder."""
        self.size = slot_bytes * num_slots
        self._slot_bytes = slot_bytes
        self._path, self._file = _create_locked(folder)
        try:
            # Reserved now: were it found missing at the first write, the process would be killed.
            os.posix_fallocate(self._file, 0, self.size)
            self._memory = mmap.mmap(self._file, self.size)
        except BaseException:
            self._path.unlink()
            os.close(self._file)
            raise
        # Last in, first out: a lone request keeps meeting the same, still cached, memory.
        self._free = list(range(num_slots))

    @property
    def name(self) -> str:
        """Name of the region, and of its file."""
        return self._path.name

    @property
    def key(self) -> str:
        """Name of the file as ``shm_open`` wants it."""
        return f"/{self.name}"

    def put(self, images: Sequence[Image]) -> Slot | None:
        """Copy ``images``, which must fit, into a slot, and return it; None if none is free.

        ``free`` gives it back.
        """
        if not self._free:
            return None
        index = self._free.pop()
        size = sum(image.nbytes for image in images)
        slot = Slot(index, index * self._slot_bytes, size)
        target = np.frombuffer(self._memory, np.uint8, size, slot.offset)
        np.stack(images, out=target.reshape(len(images), *images[0].shape))
        return slot

    def free(self, slot: Slot) -> None:
        """Take a slot back: nobody reads it any more."""
        self._free.append(slot.index)

    def close(self) -> None:
        """Remove the file.

        Whoever has mapped it keeps the memory.
        """
        self._path.unlink(missing_ok=True)
        self._memory.close()
        os.close(self._file)


def _create_locked(folder: Path) -> tuple[Path, int]:
    """Create and lock a file; return its path and its descriptor.

    A sweep may come between creating and locking, and remove it; then another is made.
    """
    while True:
        path = folder / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PERMISSIONS)
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():
            return path, file
        os.close(file)


def sweep(folder: Path = FOLDER) -> list[str]:
    """Remove what gateways left behind that were killed, and return the names."""
    swept = []
    for path in folder.glob(f"{PREFIX}*"):
        try:
            file = os.open(path, os.O_RDWR)
        except OSError:  # another gateway's sweep was quicker, or it is not ours to touch
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            swept.append(path.name)
        except OSError:  # its owner lives
            pass
        finally:
            os.close(file)
    return swept
