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
from collections.abc import Iterator
from pathlib import Path

from builder.exporting.triton_config import PLAN, depth_model, repository_files
from serving.artifacts import int8_segments as quantized
from serving.artifacts import tensorrt_plans as plans
from serving.artifacts import torch_programs as programs
from serving.artifacts.model_folders import CATALOG, VERSION, version_folder
from serving.core.catalog import Catalog, ModelEntry

PARTIAL = ".partial-"
"""Prefix of the names of files and folders that a build has not finished."""
COMPILED = (
    f"{plans.FOLDER}/*.plan",
    f"{plans.FOLDER}/{plans.MANIFEST}",
    f"{programs.FOLDER}/*.pt2",
    f"{programs.FOLDER}/{programs.RECORD}",
    f"{quantized.CPU_FOLDER}/*.onnx",
    f"{quantized.CPU_FOLDER}/{quantized.MANIFEST}",
    f"{quantized.TENSORRT_FOLDER}/*.onnx",
    f"{quantized.TENSORRT_FOLDER}/{quantized.MANIFEST}",
)
"""Patterns of what a build leaves beside the segments that is worth nothing without these weights.

A timing cache is not among them: it knows layers and a GPU, no weights.
"""


def depth_folder(repository: Path, name: str, depth: int) -> Path:
    """Return the folder of the plan of exit ``depth`` of model ``name``."""
    return repository / depth_model(name, depth) / VERSION


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_entry(entry: ModelEntry, folder: Path) -> None:
    """Write the catalogue whole or not at all, the same one always to the same bytes.

    Raises ValueError for a figure that is no number, which JSON has no word for.
    """
    path = folder / CATALOG
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(entry.to_json(), indent=2, allow_nan=False) + "\n")
    partial.replace(path)


def check_segments(catalog: Catalog, folder: Path) -> None:
    """Raise OSError or ValueError unless the segments are there as the catalogue describes them.

    OSError is for a segment that is not there, ValueError for one that is another file.
    """
    for entry in catalog.segments.values():
        if sha256(folder / entry.file) != entry.sha256:
            raise ValueError(f"{folder / entry.file} is not the file that the catalogue describes")


def write_texts(repository: Path, catalog: Catalog, cpu_runtime: str) -> int:
    """Write the configurations and ``model.py`` files of ``repository_files``; return how many.

    Nobody else's edits are kept: they are facts of the catalogue.
    """
    files = repository_files(catalog, cpu_runtime)
    for name, text in files.items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return len(files)


def remove_leftovers(repository: Path, catalog: Catalog) -> list[Path]:
    """Remove what an earlier build of this model with other weights left.

    Returns the removed paths. Triton would serve a plan that does not belong to the catalogue
    without a word.
    """
    folder = version_folder(repository, catalog.name)
    current = {entry.file for entry in catalog.segments.values()}
    found = [path for path in folder.glob("*.onnx") if path.name not in current]
    found += [path for pattern in COMPILED for path in folder.glob(pattern)]
    for depth, model in _depth_models(repository, catalog.name):
        found += model.glob(PLAN) if depth <= catalog.num_exits else [model]
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


def _depth_models(repository: Path, name: str) -> Iterator[tuple[int, Path]]:
    """Yield depth and folder of every ``<name>_d<depth>`` that is there."""
    for path in sorted(repository.glob(f"{name}_d*")):
        matched = re.fullmatch(rf"{re.escape(name)}_d([1-9][0-9]*)", path.name)
        if matched is not None and path.is_dir():
            yield int(matched[1]), path
