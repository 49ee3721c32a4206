"""Folders that one process at a time writes into."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.core.command_errors import CommandFailed


class FolderBusy(CommandFailed):
    """Error of a folder that another process writes into."""


@contextmanager
def only_writer(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep out of ``folder``, which is there, all other processes that ask for it in this way.

    It is let go of when this process ends, however it does, and leaves no file. With ``wait`` it
    waits for another process that has it; or else raises FolderBusy.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise FolderBusy(
                f"another process writes into {folder}: wait for its end, or choose another folder"
            ) from error
        except OSError:  # of a file system that knows no locks there is nothing to ask for
            pass
        yield
    finally:
        os.close(descriptor)
