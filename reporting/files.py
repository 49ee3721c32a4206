"""Writing of result files."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` as the file at ``path``, all of it or nothing, in UTF-8 wherever this runs.

    If writing fails, what was there before stays; of two processes that write it at once, the last.
    Names of files in a text need not be UTF-8: what is not is written as an escape. Raises OSError.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def beside(path: Path, suffix: str) -> Path:
    """Return the path with ``suffix`` behind its name, whatever dots that has."""
    return path.with_name(path.name + suffix)


def write_report(path: Path, data: Mapping[str, Any], markdown: str) -> tuple[Path, Path]:
    """Write a report with its figures as JSON and with tables to be read; return both paths.

    They are ``path`` with ``.json`` and ``.md`` behind its name, each written whole or not at all.
    The folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figures, tables = (beside(path, suffix) for suffix in (".json", ".md"))
    write_whole(figures, json.dumps(data, indent=1) + "\n")
    write_whole(tables, markdown)
    return figures, tables
