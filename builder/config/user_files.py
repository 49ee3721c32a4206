"""Files of results that a user names, read within bounds."""

from __future__ import annotations

import stat
from pathlib import Path

from serving.core.command_errors import CommandError

MAX_BYTES = 256 * 2**20
"""Most bytes of such a file: a journal of some hundred thousand children."""


def check_regular(path: Path) -> None:
    """Raise CommandError for what is no file, and OSError for what is not there.

    A folder passes: opening it says that it is one.
    """
    kind = path.stat().st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise CommandError(f"{path} is no regular file")


def read_bytes(path: Path) -> bytes:
    """Return what a file holds.

    Raises OSError, and CommandError for what is no file, such as a pipe that nobody writes to or a
    device that never ends, and for one of more than ``MAX_BYTES``.
    """
    check_regular(path)
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise CommandError(f"{path} is larger than {MAX_BYTES >> 20} MiB")
    return data


def read_text(path: Path) -> str:
    """Return what a file holds, in UTF-8, without the mark that some editors begin it with.

    Raises what ``read_bytes`` raises, and ValueError for what is no text.
    """
    return read_bytes(path).decode("utf-8-sig")
