"""The models that a process serves, and the runners for them: what every one starts from.

A *runtime* is the name of a library that runs segments; its runner is imported when it is chosen.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from serving.artifacts.int8_segments import CPU_FOLDER, read_quantized
from serving.artifacts.model_folders import ModelError, check_files, read_catalog, read_entry
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.family import Family
from serving.core.latency import LatencyModel
from serving.core.pareto_front import Front
from serving.core.ports import Clock, SegmentRunner
from serving.core.precision_choice import PrecisionChoice, choose_precision
from serving.core.scheduling.path_costs import Costs
from serving.core.scheduling.paths import paths_of
from serving.core.segment import Segment
from serving.runners.compiled_cache import CompiledCache
from serving.runners.family import FamilyRunner, Refit

RUNNERS = {
    "openvino": "serving.runners.openvino:OpenVinoRunner",
    "onnxruntime": "serving.runners.onnxruntime:OnnxRuntimeRunner",
    "torch": "serving.runners.torch:TorchRunner",
    "tensorrt": "serving.runners.tensorrt:TensorRtRunner",
}
"""Runtime -> its runner, imported when chosen: each drags in a library of its own."""

WITH_REPLICAS = frozenset({"openvino"})
"""Runtimes whose runners share what they have compiled, for batch sizes that may be chosen, with
replicas that run beside them. On any other each instance is opened by itself."""

UNTIMED_ROUNDS, TIMED_ROUNDS = 2, 10
"""Numbers of rounds before times in two precisions are compared, and in which they are."""

READ_SEGMENTS = ("openvino", "onnxruntime")
"""Runtimes that read the files which the catalogue describes. The others have files of their own,
and check those."""

COMPILED_FORMS = ("openvino",)
"""Runtimes whose compiled segments can be kept."""

PRECISIONS = {"openvino": ("f32", "bf16", "int8")}
"""Runtime -> what convolutions can be computed in, where that can be chosen; a runtime's own choice
is one of the first two. ONNX Runtime stays with float32: int8 segments take longer there."""


def read_family(
    folders: Sequence[Path], precision: str | None = None, reason: str | None = None
) -> Family:
    """The models in ``folders``, as one that is served, with the figures of ``precision``, which
    was chosen for this ``reason``. Raises ModelError."""
    try:
        return Family(tuple(read_entry(folder).at(precision) for folder in folders), reason)
    except ValueError as error:
        raise ModelError(str(error)) from error


def check_precision(runtime: str, folder: Path, precision: str | None) -> None:
    """Raises ModelError unless every size of the model in ``folder`` can be run in
    ``precision``."""
    if precision is None:
        return
    offered = PRECISIONS.get(runtime, ())
    if precision not in offered:
        there = f"there are {', '.join(offered)}" if offered else "it has no choice of precision"
        raise ModelError(f"{runtime} does not run segments in {precision}: {there}")
    if precision == "int8":
        try:
            read_quantized(folder / CPU_FOLDER, read_entry(folder).digest)
        except ValueError as error:
            raise ModelError(str(error)) from error


def find_precision(
    runtime: str,
    folders: Sequence[Path],
    num_threads: int | None,
    clock: Clock,
    cache: CompiledCache | None = None,
) -> PrecisionChoice | None:
    """The precision in which to serve the models in ``folders`` where none was asked for; None, if
    they have no other than the runtime's own. Raises as ``open_runner``."""
    try:
        for folder in folders:
            check_precision(runtime, folder, "int8")
    except ModelError:
        return None
    entries = [read_entry(folder) for folder in folders]
    return choose_precision(
        entries, "int8", lambda: _time_ratios(runtime, folders[-1], num_threads, clock, cache)
    )


def _time_ratios(
    runtime: str,
    folder: Path,
    num_threads: int | None,
    clock: Clock,
    cache: CompiledCache | None,
) -> list[float]:
    """Times of the deepest exits of the smallest and the largest input size in int8, as shares of
    those in the runtime's own precision, in turn."""
    entry = read_entry(folder)
    ratios = []
    for catalog in {each.size: each for each in (entry.catalogs[0], entry.catalogs[-1])}.values():
        segment = segments.fused_exit(catalog.num_exits)
        runners = [
            open_runner(runtime, folder, num_threads, {segment}, precision, catalog.size, cache)
            for precision in ("int8", None)
        ]
        image = np.zeros((catalog.input_height, catalog.input_width, 3), np.uint8)
        batches = [runner.load([image]) for runner in runners]
        for number in range(-UNTIMED_ROUNDS, TIMED_ROUNDS):
            seconds = []
            for runner, batch in zip(runners, batches, strict=True):
                started_s = clock()
                runner.release(runner.run(segment, batch))
                seconds.append(clock() - started_s)
            if number >= 0:
                ratios.append(seconds[0] / seconds[1])
        for runner in runners:
            runner.close()
    return ratios


def measured_front(family: Family, runtime: str) -> Front:
    """The exits of ``family`` that are worth the time they took, half of the time, when they were
    profiled on ``runtime``. Raises ModelError where they were not."""
    for catalog in family.catalogs:
        if runtime not in catalog.profiles:
            asked = f" --precision {catalog.precision}" if catalog.precision else ""
            raise ModelError(
                f"{catalog.name} was not profiled on {runtime}: "
                f"punctual profile --model {catalog.name} --runtime {runtime}{asked} --write"
            )
    profile = family.profile(runtime)
    assert profile is not None
    latency = LatencyModel(profile)
    try:
        every = paths_of({segment for segment, _ in profile.table})
    except ValueError as error:
        raise ModelError(f"the profile of {family.name} on {runtime}: {error}") from error
    costs = [Costs(latency, paths) for paths in every]
    return family.front(lambda depth, model: costs[model].typical_path(depth))


def open_runner(
    runtime: str,
    folder: Path,
    num_threads: int | None,
    wanted: Collection[Segment] | None = None,
    precision: str | None = None,
    size: str | None = None,
    cache: CompiledCache | None = None,
) -> SegmentRunner:
    """The runner called ``runtime`` over the segments in ``folder`` for the input size called
    ``size``, or the only one: all that it can run, or those ``wanted``, in ``precision`` or,
    without one, what the runtime chooses. Compiled segments are taken from ``cache`` and kept
    there, where the runtime has such. Raises ModelError for an unknown name, a size or precision
    that is not there, or files that are not those that were built, ImportError when its library is
    not installed."""
    _check(runtime, folder, [size], precision)
    return _open_replicas(1, runtime, folder, num_threads, wanted, precision, size, cache)[0]


def _open_replicas(
    num_instances: int,
    runtime: str,
    folder: Path,
    num_threads: int | None,
    wanted: Collection[Segment] | None,
    precision: str | None,
    size: str | None,
    cache: CompiledCache | None,
    *,
    only_paying: bool = False,
) -> list[SegmentRunner]:
    """So many runners as ``open_runner`` returns one, which may run at the same time, of what
    has been checked."""
    catalog = read_catalog(folder, size)
    module, _, name = RUNNERS[runtime].partition(":")
    shared = num_instances if num_instances > 1 and runtime in WITH_REPLICAS else None
    choices = {
        "wanted": wanted,
        "precision": precision,
        "num_instances": shared,
        "cache": cache if runtime in COMPILED_FORMS else None,
        "batch_sizes": _paying_sizes(catalog, runtime, wanted) if only_paying else None,
    }
    choice = {key: value for key, value in choices.items() if value is not None}
    create = partial(
        getattr(importlib.import_module(module), name),
        folder,
        catalog,
        num_threads,
        **choice,
    )
    first = create()
    others = range(1, num_instances)
    return [first, *[create() if shared is None else first.replica() for _ in others]]


def _paying_sizes(
    catalog: Catalog, runtime: str, wanted: Collection[Segment] | None
) -> tuple[int, ...] | None:
    """The batch sizes at which any of the ``wanted`` whole models paid when it was profiled; None,
    which is all of the runtime's, where others are wanted, or it was not profiled."""
    profile = catalog.profiles.get(runtime)
    if runtime not in WITH_REPLICAS or profile is None or wanted is None:
        return None
    if not all(segment.head and (segment, 1) in profile.table for segment in wanted):
        return None
    return tuple(sorted(set().union(*(profile.paying_sizes(segment) for segment in wanted))))


def _check(runtime: str, folder: Path, sizes: Iterable[str | None], precision: str | None) -> None:
    """Raises ModelError for an unknown runtime, a precision that is not there, and segments of
    these sizes that are not as they were built. A file that sizes share is read once."""
    if runtime not in RUNNERS:
        raise ModelError(f"there is no runtime {runtime!r}; there are {', '.join(RUNNERS)}")
    check_precision(runtime, folder, precision)
    if runtime not in READ_SEGMENTS:
        return
    catalogs = [read_catalog(folder, size) for size in sizes]
    files = tuple(dict.fromkeys(file for catalog in catalogs for file in catalog.files))
    if precision != "int8":
        check_files(folder, files)
        return
    try:
        record = read_quantized(folder / CPU_FOLDER, read_entry(folder).digest)
        files = record.described(files)
    except ValueError as error:
        raise ModelError(str(error)) from error
    check_files(folder / CPU_FOLDER, files)


def check_entries(runtime: str, folders: Sequence[Path], precision: str | None) -> None:
    """Raises ModelError unless the models in ``folders`` can be run on the runtime called so, in
    ``precision`` if one is asked for, and their files are those that were built."""
    for folder in folders:
        _check(runtime, folder, read_entry(folder).sizes, precision)


def open_family(
    runtime: str,
    folders: Sequence[Path],
    num_threads: int | None,
    refit: Refit,
    precision: str | None = None,
    cache: CompiledCache | None = None,
) -> SegmentRunner:
    """One runner over all sizes of the models in ``folders``, on the runtime called so, each with
    as many threads, since only one of them runs at a time. ``refit`` brings images to the smaller
    sizes. Raises as ``open_runner``.

    See ``open_members`` for what is opened."""
    return open_instances(runtime, folders, num_threads, 1, refit, precision, cache)[0]


def open_instances(
    runtime: str,
    folders: Sequence[Path],
    num_threads: int | None,
    num_instances: int,
    refit: Refit,
    precision: str | None = None,
    cache: CompiledCache | None = None,
    *,
    only_paying: bool = False,
) -> list[SegmentRunner]:
    """So many runners as ``open_family`` returns one, which may run at the same time, each on
    ``num_threads`` threads of its own. ``only_paying``: as of ``open_members``. Raises as
    ``open_runner``."""
    opened = open_members(
        runtime, folders, num_threads, num_instances, precision, cache, only_paying=only_paying
    )
    if len(opened) == 1:
        return opened[0]
    family = read_family(folders)
    return [FamilyRunner(family, runners, refit) for runners in zip(*opened, strict=True)]


def open_members(
    runtime: str,
    folders: Sequence[Path],
    num_threads: int | None,
    num_instances: int,
    precision: str | None = None,
    cache: CompiledCache | None = None,
    *,
    only_paying: bool = False,
) -> list[list[SegmentRunner]]:
    """``num_instances`` runners of each size of the models in ``folders``, by their numbers in a
    family. With ``only_paying``, whole models are compiled for the batch sizes alone that paid when
    they were profiled. Raises as ``open_runner``.

    Where no size has more than one exit, there is no place to stop at on the way to it: the fused
    segments alone are opened, which take half of the memory."""
    family = read_family(folders)
    wanted = frozenset(segments.fused_segments(1)) if family.num_exits == 1 else None
    opened: list[list[SegmentRunner]] = []
    try:
        for folder, entry in zip(folders, family.entries, strict=True):
            _check(runtime, folder, entry.sizes, precision)
            for size in entry.sizes:
                opened.append(
                    _open_replicas(
                        num_instances,
                        runtime,
                        folder,
                        num_threads,
                        wanted,
                        precision,
                        size,
                        cache,
                        only_paying=only_paying,
                    )
                )
    except BaseException:
        for runners in opened:
            for runner in runners:
                runner.close()
        raise
    return opened
