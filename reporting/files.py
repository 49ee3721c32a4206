"""Files of results."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """``text`` as the file at ``path``: all of it or, if writing fails, what was there before."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)
