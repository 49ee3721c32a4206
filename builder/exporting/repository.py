"""Files that the builder writes into a model repository, with folders by
``artifacts.model_folders``.

MODEL_REPOSITORY/<model>_anytime/1/      catalog.json, stem.onnx, stack_1.onnx, ..., head_N.onnx
                                         tensorrt/, torch/, int8/: made from them, not in git
                 <model>_d1 .. _dN/1/    model.plan: compiled, not in git
                 .../config.pbtxt, configs/cpu.pbtxt, 1/model.py     see ``triton_config``
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from builder.exporting.triton_config import PLAN, repository_files
from reporting.files import write_whole
from serving.artifacts import int8_segments as quantized
from serving.artifacts import tensorrt_plans as plans
from serving.artifacts import torch_programs as programs
from serving.artifacts.folder_locks import only_writer
from serving.artifacts.model_folders import (
    CATALOG,
    VERSION,
    ModelError,
    depth_model,
    read_entry,
    version_folder,
)
from serving.core.catalog import Catalog
from serving.core.model_entry import ModelEntry

PARTIAL = ".partial-"
"""Prefix of the names of files and folders that a build has not finished."""
COMPILED = (
    f"{plans.FOLDER}/*.plan",
    f"{plans.FOLDER}/*.json",
    f"{programs.FOLDER}/*.pt2",
    f"{programs.FOLDER}/*.json",
    *(
        f"{folder}/{pattern}"
        for folder in (quantized.CPU_FOLDER, quantized.TENSORRT_FOLDER)
        for pattern in ("*.onnx", "*.bin", quantized.MANIFEST)
    ),
)
"""Patterns of what a build leaves beside the segments that is worth nothing without these weights.

A timing cache is not among them: it knows layers and a GPU, no weights.
"""


def depth_folder(repository: Path, catalog: Catalog, depth: int) -> Path:
    """Return the folder of the plan of exit ``depth`` of a model at one input size."""
    return repository / depth_model(catalog, depth) / VERSION


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_entry(entry: ModelEntry, folder: Path) -> None:
    """Write the catalogue whole or not at all, the same one always to the same bytes.

    Raises ValueError for a figure that is no number, which JSON has no word for.
    """
    text = json.dumps(entry.to_json(), indent=2, allow_nan=False) + "\n"
    write_whole(folder / CATALOG, text)


def update_entry(
    folder: Path, earlier: ModelEntry, change: Callable[[ModelEntry], ModelEntry]
) -> ModelEntry:
    """Write what ``change`` makes of the catalogue in ``folder``, and return it.

    The catalogue is read anew: while something was measured of ``earlier``, other figures may have
    been written. Raises ModelError if it is of other segments by now, and OSError.
    """
    with only_writer(folder, wait=True):
        current = read_entry(folder)
        if current.digest != earlier.digest:
            raise ModelError(
                f"the model in {folder} was built anew meanwhile: figures of the earlier one are "
                "not written into its catalogue"
            )
        changed = change(current)
        write_entry(changed, folder)
    return changed


def files_of(entry: ModelEntry) -> tuple[str, ...]:
    """Return the names of the files that the catalogue describes: segments, and their weights."""
    return tuple(_digests(entry))


def _digests(entry: ModelEntry) -> dict[str, str]:
    """Return what the digests of files are to be, by their names."""
    described = [file for catalog in entry.catalogs for file in catalog.segments.values()]
    described += [file for file in (entry.catalogs[0].weights,) if file is not None]
    return {file.file: file.sha256 for file in described}


def check_segments(entry: ModelEntry, folder: Path) -> None:
    """Raise OSError or ValueError unless the segments are there as the catalogue describes them.

    OSError is for a file that is not there, ValueError for one that is another.
    """
    for file, digest in _digests(entry).items():
        if sha256(folder / file) != digest:
            raise ValueError(f"{folder / file} is not the file that the catalogue describes")


def write_texts(repository: Path, entry: ModelEntry, cpu_runtime: str) -> int:
    """Write the configurations and ``model.py`` files of ``repository_files``; return how many.

    Nobody else's edits are kept: they are facts of the catalogue.
    """
    files = repository_files(entry, cpu_runtime)
    for name, text in files.items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    return len(files)


def remove_leftovers(repository: Path, entry: ModelEntry) -> list[Path]:
    """Remove what an earlier build of this model with other weights left.

    Returns the removed paths. Triton would serve a plan that does not belong to the catalogue
    without a word.
    """
    folder = version_folder(repository, entry.name)
    current = files_of(entry)
    found = [
        path
        for pattern in ("*.onnx", "*.bin")
        for path in folder.glob(pattern)
        if path.name not in current
    ]
    found += [path for pattern in COMPILED for path in folder.glob(pattern)]
    depth_models = {
        depth_model(catalog, each.depth) for catalog in entry.catalogs for each in catalog.exits
    }
    for model in _depth_models(repository, entry.name):
        found += model.glob(PLAN) if model.name in depth_models else [model]
    for path in found:
        _remove(path)
    return found


def remove_partial(folder: Path) -> None:
    """Remove what builds that were interrupted left unfinished in ``folder``."""
    for path in folder.glob(f"{PARTIAL}*"):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _depth_models(repository: Path, name: str) -> Iterator[Path]:
    """Yield the folders of every ``<name>_d<depth>`` and ``<name>_<size>_d<depth>`` there."""
    pattern = re.compile(rf"({re.escape(name)}(?:_[1-9][0-9]*x[1-9][0-9]*)?)_d[1-9][0-9]*")
    for path in sorted(repository.glob(f"{name}_*")):
        matched = pattern.fullmatch(path.name)
        if matched is None or not path.is_dir():
            continue
        # Another model may be called as this one's sizes are.
        if matched[1] == name or not version_folder(repository, matched[1]).exists():
            yield path
