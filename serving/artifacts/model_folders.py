"""A model repository on disk: where each model lies in it, and the catalogue that describes it.

    MODEL_REPOSITORY/<model>_anytime/1/catalog.json, stem.onnx, stack_1.onnx, ..., head_N.onnx

A model of several input sizes has the segments of each, ``stem.300x300.onnx``, and may have weights
in one file that they share. ``punctual build`` writes it; the server, Triton and the load tests
read it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from serving.core.catalog import Catalog, SegmentFile
from serving.core.command_errors import CommandError
from serving.core.model_entry import ModelEntry

MODEL_SUFFIX = "_anytime"
"""Of the folder of a model, behind the model's name: what Triton calls the model's executor."""
VERSION = "1"
"""Of the model, to Triton; there is no other."""
CATALOG = "catalog.json"
MAX_CATALOG_BYTES = 16 * 2**20
"""Largest catalogue that is read; those of models with many exits have some ten thousand bytes."""


class ModelError(CommandError):
    """A model cannot be used; the message is one sentence for who asked for it."""


class ModelNotFound(ModelError):
    """A model or its catalogue is not there."""


def version_folder(repository: Path, name: str) -> Path:
    """Return where the segments and the catalogue of model ``name`` lie."""
    return repository / f"{name}{MODEL_SUFFIX}" / VERSION


def depth_model(catalog: Catalog, depth: int) -> str:
    """Return Triton's name of the model that is exit ``depth`` of ``catalog`` alone.

    Its folder in the repository is called so too.
    """
    size = f"_{catalog.size}" if catalog.one_of_several else ""
    return f"{catalog.name}{size}_d{depth}"


def every_model(repository: Path) -> dict[str, Path]:
    """Return the folders with the catalogues of all models there, at least one, by name.

    Raises ModelNotFound.
    """
    pattern = f"*{MODEL_SUFFIX}/{VERSION}/{CATALOG}"
    catalogs = sorted(repository.glob(pattern))
    found = {path.parents[1].name.removesuffix(MODEL_SUFFIX): path.parent for path in catalogs}
    if not found:
        raise ModelNotFound(f"there is no model in {repository} (no {pattern})")
    return found


def find_model(repository: Path, name: str | None) -> Path:
    """Return the folder with the catalogue of model ``name``, or of the default one.

    Raises as ``find_models``.
    """
    (folder,) = find_models(repository, () if name is None else (name,))
    return folder


def find_models(repository: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Return the folders with the catalogues of the models called ``names``, in that order.

    Without a name it is that of the only model there, or of the one that is marked as the default.
    Raises ModelNotFound, and where that takes reading them, ModelError for catalogues that cannot
    be used.
    """
    found = every_model(repository)
    if not names and len(found) > 1:
        return (_default_of(repository, found),)
    for name in names:
        if name not in found:
            there = ", ".join(found)
            raise ModelNotFound(f"there is no model {name!r} in {repository}; there is {there}")
    return tuple(found[name] for name in names) or tuple(found.values())


def _default_of(repository: Path, found: Mapping[str, Path]) -> Path:
    marked = [name for name, folder in found.items() if read_entry(folder).default]
    if len(marked) == 1:
        return found[marked[0]]
    which = f"{' and '.join(marked)} are each marked as" if marked else "none is marked as"
    raise ModelNotFound(
        f"{repository} has several models ({', '.join(found)}), of which {which} the default: name "
        f"one, or those to be served as one, as in --model {','.join(found)}"
    )


def read_entry(folder: Path) -> ModelEntry:
    """Return the model whose catalogue is in ``folder``.

    Raises ModelNotFound where there is none, ModelError for one that cannot be used.
    """
    path = folder / CATALOG
    try:
        if path.stat().st_size > MAX_CATALOG_BYTES:
            raise ValueError(f"it is larger than {MAX_CATALOG_BYTES} bytes")
        return ModelEntry.from_json(json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelNotFound(f"{path} cannot be used: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be used: {error}") from error


def read_catalog(folder: Path, size: str | None = None) -> Catalog:
    """Return the catalogue in ``folder`` of the input size called ``size``, or of the only one.
    Raises as ``read_entry``, and ModelError where there is no such size, or are several."""
    entry = read_entry(folder)
    try:
        return entry.size(size)
    except ValueError as error:
        raise ModelError(str(error)) from error


def check_files(folder: Path, files: Iterable[SegmentFile]) -> None:
    """Raise ModelError unless each of these files is in ``folder``, and is what is described.

    A file that differs by one bit loads as well as another does, and answers nonsense.
    """
    for entry in files:
        path = folder / entry.file
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ModelError(f"{path} cannot be used: {error}") from error
        if found != entry.sha256:
            raise ModelError(
                f"{path} is not the file that was built: its SHA-256 digest is {found}, and should "
                f"be {entry.sha256}"
            )
