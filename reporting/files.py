"""Writing of result files."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` as the file at ``path``, all of it or nothing.

    If writing fails, what was there before stays.
    """
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)
