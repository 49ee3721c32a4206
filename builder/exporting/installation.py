"""Putting a model in its place in a repository, whole or not at all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from builder.exporting.repository import (
    PARTIAL,
    files_of,
    remove_leftovers,
    remove_partial,
    sha256,
    write_entry,
)
from serving.artifacts.folder_locks import only_writer
from serving.artifacts.model_folders import CATALOG, ModelError, read_entry, version_folder
from serving.core.catalog import SegmentFile
from serving.core.model_entry import ModelEntry


def described(folder: Path, file: str) -> SegmentFile:
    """Return what a catalogue says about ``file`` in ``folder``."""
    return SegmentFile(file, sha256(folder / file))


def install(entry: ModelEntry, source: Path, repository: Path) -> ModelEntry:
    """Put the files of ``entry``, which lie in ``source``, and the catalogue in place.

    Returns the entry as it is written: with what was measured before, if these are the same
    segments. What is removed is printed.

    Wherever this is interrupted, it leaves in the repository the earlier model, this one, or no
    catalogue: never that of one with segments of the other.
    """
    folder = version_folder(repository, entry.name)
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder, wait=True):
        return _install(entry, source, repository, folder)


def _install(entry: ModelEntry, source: Path, repository: Path, folder: Path) -> ModelEntry:
    remove_partial(folder)
    earlier = _entry_in(folder)
    if earlier is not None:
        entry = replace(entry, default=earlier.default)
    if earlier is not None and earlier.digest == entry.digest:
        entry = _with_figures_of(earlier, entry)
    else:
        (folder / CATALOG).unlink(missing_ok=True)
        for path in remove_leftovers(repository, entry):
            print(f"removed {path}, which belonged to other weights")
    for file in files_of(entry):
        # Beside it first: who serves the file that is there may have it mapped into memory.
        partial = folder / f"{PARTIAL}{file}"
        shutil.copyfile(source / file, partial)
        partial.replace(folder / file)
    write_entry(entry, folder)
    return entry


def _with_figures_of(earlier: ModelEntry, entry: ModelEntry) -> ModelEntry:
    """Return ``entry`` with what was measured of ``earlier``, which has the same segments."""
    measured = ("exits", "evaluation", "profiles", "precisions")
    catalogs = tuple(
        replace(catalog, **{fact: getattr(known, fact) for fact in measured})
        for catalog, known in zip(entry.catalogs, earlier.catalogs, strict=True)
    )
    merged = earlier.merged if earlier.merging == entry.merging else ()
    return replace(entry, catalogs=catalogs, merged=merged)


def _entry_in(folder: Path) -> ModelEntry | None:
    try:
        return read_entry(folder)
    except ModelError:
        return None
