"""The models that a process serves, as they lie in their folders: read, and checked.

A *runtime* is the name of a library that runs segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from serving.artifacts.int8_segments import CPU_FOLDER, read_quantized
from serving.artifacts.model_folders import ModelError, check_files, read_catalog, read_entry
from serving.core.family import Family
from serving.core.latency import LatencyModel
from serving.core.pareto_front import Front, short_ap
from serving.core.scheduling.path_costs import Costs
from serving.core.scheduling.paths import paths_of
from serving.models.runtime_options import RuntimeOptions

RUNNERS = {
    "openvino": "serving.runners.openvino.runner:OpenVinoRunner",
    "onnxruntime": "serving.runners.onnxruntime:OnnxRuntimeRunner",
    "torch": "serving.runners.torch.runner:TorchRunner",
    "tensorrt": "serving.runners.tensorrt.runner:TensorRtRunner",
}
"""Runtime -> its runner, imported when chosen: each drags in a library of its own."""

READ_SEGMENTS = ("openvino", "onnxruntime")
"""Runtimes that read the files which the catalogue describes. The others have files of their own,
and check those."""

PRECISIONS = {"openvino": ("f32", "bf16", "int8")}
"""Runtime -> what convolutions can be computed in, where that can be chosen; a runtime's own choice
is one of the first two. ONNX Runtime stays with float32: int8 segments take longer there."""


def read_family(
    folders: Sequence[Path], precision: str | None = None, reason: str | None = None
) -> Family:
    """Return the models in ``folders`` as one that is served.

    It has the figures of ``precision``, which was chosen for this ``reason``. Raises ModelError.
    """
    try:
        return Family(tuple(read_entry(folder).at(precision) for folder in folders), reason)
    except ValueError as error:
        raise ModelError(str(error)) from error


def check_entries(folders: Sequence[Path], options: RuntimeOptions) -> None:
    """Raise ModelError unless the models in ``folders`` can be run with these options.

    That is, on that runtime, in a precision that is asked for, and from the files that were built.
    """
    for folder in folders:
        check_model(folder, read_entry(folder).sizes, options)


def check_model(folder: Path, sizes: Iterable[str | None], options: RuntimeOptions) -> None:
    """Raise ModelError as ``check_entries`` does, for these sizes of the model in ``folder``.

    A file that sizes share is read once.
    """
    if options.runtime not in RUNNERS:
        known = ", ".join(RUNNERS)
        raise ModelError(f"there is no runtime {options.runtime!r}; there are {known}")
    check_precision(folder, options)
    if options.runtime not in READ_SEGMENTS:
        return
    catalogs = [read_catalog(folder, size) for size in sizes]
    files = tuple(dict.fromkeys(file for catalog in catalogs for file in catalog.files))
    if options.precision != "int8":
        check_files(folder, files)
        return
    try:
        record = read_quantized(folder / CPU_FOLDER, read_entry(folder).digest)
        files = record.described(files)
    except ValueError as error:
        raise ModelError(str(error)) from error
    check_files(folder / CPU_FOLDER, files)


def check_precision(folder: Path, options: RuntimeOptions) -> None:
    """Raise ModelError unless every size of the model in ``folder`` is there in the precision."""
    runtime, precision = options.runtime, options.precision
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


def measured_front(family: Family, runtime: str) -> Front:
    """Return the exits of ``family`` that are worth the time they took, half of the time.

    That is, when they were profiled on ``runtime``. Raises ModelError where they were not.
    """
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


def merged_table(family: Family, front: Front) -> list[str]:
    """Return a line of text for each two input sizes whose answers are more accurate as one than
    either alone, with the time of both; none where there are no such."""
    times_s = {
        (point.model, point.depth): point.latency_s
        for point in (*front.points, *(each.point for each in front.dropped))
    }
    gains = [
        (family.answer_label((first, then)), ap, times_s[first] + times_s[then])
        for first, then, ap in family.ladder.gains()
    ]
    if not gains:
        return []
    title = "two as one answer"
    width = max(len(title), *(len(label) for label, _, _ in gains))
    return [
        f"{title:{width}}  {family.measure}        ms",
        *(f"{label:{width}}  {short_ap(ap)}  {time_s * 1e3:6.1f}" for label, ap, time_s in gains),
    ]
