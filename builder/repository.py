"""The model repository on disk: what the builder writes and the server reads.

MODEL_REPOSITORY/<name>_anytime/1/catalog.json, stem.onnx, stack_1.onnx, ..., head_N.onnx
"""

from __future__ import annotations

import json
from pathlib import Path

from serving.core.catalog import Catalog

VERSION = "1"
CATALOG = "catalog.json"


def version_folder(repository: Path, name: str) -> Path:
    """Where the segments and the catalogue of model ``name`` lie."""
    return repository / f"{name}_anytime" / VERSION


def read_catalog(folder: Path) -> Catalog:
    """The catalogue in ``folder``. Raises OSError or ValueError."""
    return Catalog.from_json(json.loads((folder / CATALOG).read_text()))


def write_catalog(catalog: Catalog, folder: Path) -> None:
    """Write it whole or not at all, and the same catalogue always to the same bytes."""
    path = folder / CATALOG
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(catalog.to_json(), indent=2) + "\n")
    partial.replace(path)
