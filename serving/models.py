"""Models on disk and the runners for them: what every process that serves starts from.

A *runtime* is the name of a library that runs segments; its runner is imported when it is chosen.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection
from pathlib import Path

from serving.core.catalog import Catalog
from serving.core.ports import SegmentRunner
from serving.core.segment import Segment

RUNNERS = {
    "openvino": "serving.runners.openvino:OpenVinoRunner",
    "onnxruntime": "serving.runners.onnxruntime:OnnxRuntimeRunner",
    "torch": "serving.runners.torch:TorchRunner",
    "tensorrt": "serving.runners.tensorrt:TensorRtRunner",
}
"""Runtime -> its runner, imported when chosen: each drags in a library of its own."""

MODEL_SUFFIX = "_anytime"


class StartError(Exception):
    """The server cannot start; the message is one sentence for the person who started it."""


def find_model(repository: Path, name: str | None) -> Path:
    """The folder with the catalogue of model ``name``, or of the only model there. Raises
    StartError."""
    catalogs = sorted(repository.glob(f"*{MODEL_SUFFIX}/1/catalog.json"))
    found = {path.parents[1].name.removesuffix(MODEL_SUFFIX): path.parent for path in catalogs}
    if not found:
        raise StartError(f"there is no model in {repository} (no *{MODEL_SUFFIX}/1/catalog.json)")
    if name is None and len(found) > 1:
        raise StartError(f"{repository} has several models ({', '.join(found)}): name one")
    if name is not None and name not in found:
        raise StartError(f"there is no model {name!r} in {repository}; there is {', '.join(found)}")
    return found[name] if name is not None else next(iter(found.values()))


def read_catalog(folder: Path) -> Catalog:
    """The catalogue in ``folder``. Raises StartError."""
    path = folder / "catalog.json"
    try:
        return Catalog.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise StartError(f"{path} cannot be used: {error}") from error


def open_runner(
    runtime: str,
    folder: Path,
    num_threads: int | None,
    wanted: Collection[Segment] | None = None,
) -> SegmentRunner:
    """The runner called ``runtime`` over the segments in ``folder``: all that it can run, or those
    ``wanted``. Raises StartError for an unknown name, ImportError when its library is not
    installed."""
    if runtime not in RUNNERS:
        raise StartError(f"there is no runtime {runtime!r}; there are {', '.join(RUNNERS)}")
    module, _, name = RUNNERS[runtime].partition(":")
    choice = {} if wanted is None else {"wanted": wanted}
    runner: SegmentRunner = getattr(importlib.import_module(module), name)(
        folder, read_catalog(folder), num_threads, **choice
    )
    return runner
