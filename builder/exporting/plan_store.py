"""Store of TensorRT plans, filled by whoever has the GPU: once for each GPU, TensorRT and model.

    MODEL_REPOSITORY --copy--> STORE/.partial-KEY --build--> rename --> STORE/KEY

A repository appears in the store whole or not at all, and is never changed. One build at a time
for each key; what an interrupted one left is removed by the next.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import tensorrt as trt
from cuda.bindings import runtime as cudart

from serving.artifacts import tensorrt_plans as plans
from serving.artifacts import torch_programs as programs
from serving.artifacts.cuda import Gpu
from serving.artifacts.model_folders import version_folder
from serving.artifacts.tensorrt_plans import PlansError
from serving.core.command_errors import CommandError
from serving.core.model_entry import ModelEntry


class StoreError(CommandError):
    """Error of a store that cannot be filled, because what is in it already is in the way."""


def build_once(
    store: Path,
    repository: Path,
    entry: ModelEntry,
    precision: str,
    build: Callable[[Path], None],
) -> None:
    """Fill ``store`` with a model's plans for this machine's GPU and TensorRT, unless it has them.

    ``build`` makes them in the copy of ``repository`` that it is given; what it leaves when it
    raises is removed. Raises GpuError without a GPU, and StoreError when what is there is damaged
    or of another precision.
    """
    gpu = Gpu.current(cudart)
    folder = version_folder(Path(), entry.name)
    key = plans.store_key(trt.__version__, gpu, entry.digest)
    target = store / key
    if target.exists():
        _check(target, entry, gpu, precision)
        print(f"{target} has every plan, as it was built: nothing to do", flush=True)
        return
    partial = store / f".partial-{key}"
    shutil.rmtree(partial, ignore_errors=True)
    compiled = shutil.ignore_patterns(plans.FOLDER, programs.FOLDER)  # elsewhere
    shutil.copytree(repository / folder, partial / folder, ignore=compiled)
    try:
        build(partial)
    except CommandError:
        shutil.rmtree(partial)
        raise
    partial.rename(target)
    print(f"wrote {target}", flush=True)


def _check(target: Path, entry: ModelEntry, gpu: Gpu, precision: str) -> None:
    folder = version_folder(Path(), entry.name)
    try:
        stored = plans.check_stored(target, str(folder), trt.__version__, gpu, entry)
    except PlansError as error:
        raise StoreError(f"{error}; remove {target} to build it again") from error
    for there in stored:
        if there.precision != precision:
            raise StoreError(
                f"{target} has plans in {there.precision}: {precision} needs a store of its own"
            )
