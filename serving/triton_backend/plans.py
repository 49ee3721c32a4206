"""The wait of a Triton with TensorRT plans for a repository built for the GPU of this machine.

It is over before Triton starts. Nothing is ever built here.

    punctual plans --store STORE --link LINK        LINK -> STORE/KEY
    tritonserver --model-repository=LINK
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tensorrt as trt
from cuda.bindings import runtime as cudart

from serving.artifacts.cuda import Gpu
from serving.artifacts.model_folders import find_model, read_entry
from serving.artifacts.tensorrt_plans import PlansError, check_stored, store_key
from serving.core.ports import Clock

RETRY_S = 5.0
"""Seconds between two looks into the store."""


def link_plans(
    store: Path,
    repository: Path,
    model: str | None,
    link: Path,
    *,
    wait_s: float,
    clock: Clock,
    sleep: Callable[[float], None],
    say: Callable[[str], None],
) -> Path:
    """Make ``link`` point to the repository in ``store`` with plans for this machine.

    They are plans of ``model`` for its GPU and TensorRT; returns where the link points.
    ``repository`` is the model's own, whose digest counts. Waits up to ``wait_s`` seconds for
    somebody else to build them, and calls ``say`` with what is waited for. Raises PlansError, which
    says what is there instead, when that is over, ModelError, and GpuError without a GPU.
    """
    folder = find_model(repository, model)
    entry = read_entry(folder)
    gpu = Gpu.current(cudart)
    target = store / store_key(trt.__version__, gpu, entry.digest)
    there = str(folder.relative_to(repository))
    until_s = clock() + wait_s
    said = None
    while True:
        try:
            check_stored(target, there, trt.__version__, gpu, entry)
            break
        except PlansError as error:
            # What is there is never changed, so that there is nothing to wait for.
            if target.exists() or clock() >= until_s:
                raise
            if str(error) != said:
                said = str(error)
                say(said)
            sleep(RETRY_S)
    link.unlink(missing_ok=True)
    link.symlink_to(target, target_is_directory=True)
    return target
