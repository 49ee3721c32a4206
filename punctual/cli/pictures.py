"""Image files that a user names: files, folders and patterns; and where their drawings go."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from punctual.images import SUFFIXES
from serving.core.command_errors import CommandError, InvalidArgument

_PATTERN = frozenset("*?[")
_NUM_FOLDERS = 256
"""Number of folders of which it is remembered where they are."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One image file, and its path below what the user named."""

    path: Path
    below: Path


def find_pictures(names: Iterable[str]) -> list[Picture]:
    """Return the image files that are named, in order, each once.

    A folder means all images below it. Raises CommandError for a name that leads to none.
    """
    found: dict[Path, Picture] = {}
    for name in names:
        pictures = list(_named(name))
        if not pictures:
            where = "in the folder " if Path(name).is_dir() else ""
            raise CommandError(f"there is no image {where}{name}")
        for picture in pictures:
            found.setdefault(picture.path, picture)
    return list(found.values())


def _named(name: str) -> Iterable[Picture]:
    path = Path(name)
    if path.is_dir():
        for each in sorted(path.rglob("*")):
            if each.suffix.lower() in SUFFIXES and each.is_file():
                yield Picture(each, each.relative_to(path))
    elif path.is_file():
        yield Picture(path, Path(path.name))
    elif _PATTERN & set(name):
        for match in sorted(glob.glob(name, recursive=True)):
            if Path(match).is_file():
                yield Picture(Path(match), Path(Path(match).name))


def drawing_paths(pictures: list[Picture], out: Path) -> dict[Path, Path]:
    """Return where each picture's drawing goes.

    That is ``out``, if it is the name of an image and there is one picture, else below the folder
    ``out``. Raises InvalidArgument where two would be the same file, or one would replace a
    picture.
    """
    if len(pictures) == 1 and out.suffix.lower() in SUFFIXES and not out.is_dir():
        paths = {pictures[0].path: out}
    elif out.is_file():
        raise InvalidArgument(f"--draw: {out} is a file, not a folder")
    else:
        paths = {picture.path: out / picture.below for picture in pictures}
    resolve = lru_cache(_NUM_FOLDERS)(Path.resolve)

    def place(path: Path) -> Path:
        return path.resolve() if path.is_symlink() else resolve(path.parent) / path.name

    taken: dict[Path, Path] = {place(path): path for path in paths}
    for path, drawing in paths.items():
        to = place(drawing)
        other = taken.setdefault(to, path)
        if other is not path or to == place(path):
            raise InvalidArgument(f"--draw: {drawing} would be drawn over {other}")
    return paths
