"""Models on disk and the runners for them: what every process that serves starts from.

A *runtime* is the name of a library that runs segments; its runner is imported when it is chosen.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from serving.artifacts.int8_segments import CPU_FOLDER, read_quantized
from serving.core.catalog import Catalog
from serving.core.family import Family
from serving.core.latency import LatencyModel
from serving.core.pareto_front import Front
from serving.core.ports import SegmentRunner
from serving.core.scheduling.path_costs import Costs, paths_of
from serving.core.segment import Segment
from serving.runners.family import FamilyRunner, Refit

RUNNERS = {
    "openvino": "serving.runners.openvino:OpenVinoRunner",
    "onnxruntime": "serving.runners.onnxruntime:OnnxRuntimeRunner",
    "torch": "serving.runners.torch:TorchRunner",
    "tensorrt": "serving.runners.tensorrt:TensorRtRunner",
}
"""Runtime -> its runner, imported when chosen: each drags in a library of its own."""

PRECISIONS = {"openvino": ("f32", "bf16", "int8")}
"""Runtime -> what convolutions can be computed in, where that can be chosen; a runtime's own choice
is one of the first two. ONNX Runtime stays with float32: int8 segments take longer there."""

MODEL_SUFFIX = "_anytime"


class StartError(Exception):
    """The server cannot start; the message is one sentence for the person who started it."""


def find_model(repository: Path, name: str | None) -> Path:
    """The folder with the catalogue of model ``name``, or of the only model there. Raises
    StartError."""
    (folder,) = find_models(repository, () if name is None else (name,))
    return folder


def every_model(repository: Path) -> dict[str, Path]:
    """The folders with the catalogues of all models there, at least one, by name. Raises
    StartError."""
    catalogs = sorted(repository.glob(f"*{MODEL_SUFFIX}/1/catalog.json"))
    found = {path.parents[1].name.removesuffix(MODEL_SUFFIX): path.parent for path in catalogs}
    if not found:
        raise StartError(f"there is no model in {repository} (no *{MODEL_SUFFIX}/1/catalog.json)")
    return found


def find_models(repository: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """The folders with the catalogues of the models called ``names``, in that order; without a
    name, of the only model there. Raises StartError."""
    found = every_model(repository)
    if not names and len(found) > 1:
        raise StartError(
            f"{repository} has several models ({', '.join(found)}): name one, or those to be "
            f"served as one, as in --model {','.join(found)}"
        )
    for name in names:
        if name not in found:
            there = ", ".join(found)
            raise StartError(f"there is no model {name!r} in {repository}; there is {there}")
    return tuple(found[name] for name in names) or tuple(found.values())


def read_family(folders: Sequence[Path], precision: str | None = None) -> Family:
    """The catalogues in ``folders``, as models that are served as one, with the figures of
    ``precision``. Raises StartError."""
    try:
        return Family(tuple(read_catalog(folder).at(precision) for folder in folders))
    except ValueError as error:
        raise StartError(str(error)) from error


def read_catalog(folder: Path) -> Catalog:
    """The catalogue in ``folder``. Raises StartError."""
    path = folder / "catalog.json"
    try:
        return Catalog.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise StartError(f"{path} cannot be used: {error}") from error


def check_precision(runtime: str, folder: Path, precision: str | None) -> None:
    """Raises StartError unless the model in ``folder`` can be run in ``precision``."""
    if precision is None:
        return
    offered = PRECISIONS.get(runtime, ())
    if precision not in offered:
        there = f"there are {', '.join(offered)}" if offered else "it has no choice of precision"
        raise StartError(f"{runtime} does not run segments in {precision}: {there}")
    if precision == "int8":
        try:
            read_quantized(folder / CPU_FOLDER, read_catalog(folder).digest)
        except ValueError as error:
            raise StartError(str(error)) from error


def measured_front(family: Family, runtime: str) -> Front:
    """The exits of ``family`` that are worth the time they took, half of the time, when they were
    profiled on ``runtime``. Raises StartError where they were not."""
    for catalog in family.catalogs:
        if runtime not in catalog.profiles:
            asked = f" --precision {catalog.precision}" if catalog.precision else ""
            raise StartError(
                f"{catalog.name} was not profiled on {runtime}: "
                f"punctual profile --model {catalog.name} --runtime {runtime}{asked} --write"
            )
    profile = family.profile(runtime)
    assert profile is not None
    latency = LatencyModel(profile)
    try:
        every = paths_of({segment for segment, _ in profile.table})
    except ValueError as error:
        raise StartError(f"the profile of {family.name} on {runtime}: {error}") from error
    costs = [Costs(latency, paths) for paths in every]
    return family.front(lambda depth, model: costs[model].typical_path(depth))


def open_runner(
    runtime: str,
    folder: Path,
    num_threads: int | None,
    wanted: Collection[Segment] | None = None,
    precision: str | None = None,
) -> SegmentRunner:
    """The runner called ``runtime`` over the segments in ``folder``: all that it can run, or those
    ``wanted``, in ``precision`` or, without one, what the runtime chooses. Raises StartError for an
    unknown name or a precision that is not there, ImportError when its library is not installed."""
    if runtime not in RUNNERS:
        raise StartError(f"there is no runtime {runtime!r}; there are {', '.join(RUNNERS)}")
    check_precision(runtime, folder, precision)
    module, _, name = RUNNERS[runtime].partition(":")
    choices = {"wanted": wanted, "precision": precision}
    choice = {key: value for key, value in choices.items() if value is not None}
    runner: SegmentRunner = getattr(importlib.import_module(module), name)(
        folder, read_catalog(folder), num_threads, **choice
    )
    return runner


def open_family(
    runtime: str,
    folders: Sequence[Path],
    num_threads: int | None,
    refit: Refit,
    precision: str | None = None,
) -> SegmentRunner:
    """One runner over the models in ``folders``, all on the runtime called so, each with as many
    threads, since only one of them runs at a time. ``refit`` brings images to the sizes of the
    smaller ones. Raises as ``open_runner``."""
    runners: list[SegmentRunner] = []
    try:
        for folder in folders:
            runners.append(open_runner(runtime, folder, num_threads, precision=precision))
        if len(runners) == 1:
            return runners[0]
        return FamilyRunner(read_family(folders), runners, refit)
    except BaseException:
        for runner in runners:
            runner.close()
        raise
