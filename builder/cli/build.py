"""``punctual build``. Light to import: torch is loaded by what needs it."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.model import add_assignments, add_neck, changed, configured
from builder.cli.options import (
    RUNTIMES,
    add_command,
    add_repository,
    add_threads,
    files_of_glob,
    input_sizes,
)
from builder.cli.smoke_run import run_every_segment
from builder.config.detector import MODEL_NAME
from builder.config.named import CONFIGS
from serving.core.command_errors import (
    CommandError,
    files_of_the_user,
    invalid_arguments,
    stoppable,
)
from serving.core.command_numbers import at_least

if TYPE_CHECKING:
    from builder.modeling.architectures import AnyDetector
    from serving.artifacts.serving_tools import ServingTools
    from serving.core.letterbox import ModelInput
    from serving.core.model_entry import ModelEntry
    from serving.core.ports import Image

CPU_RUNTIMES = ("openvino", "onnxruntime")
"""What Triton's CPU variants can be configured for; the first is the default."""
PRECISIONS = ("fp16", "int8")
MAX_LEVEL = 5
OF_EXPORT = {
    "sizes": "--sizes",
    "exits": "--exits",
    "assignments": "--set",
    "recalibrate_images": "--recalibrate-images",
}
"""Options about how a detector is exported, by where they are kept."""


def add_parser(commands: Any, tools: ServingTools) -> None:
    """Add ``build`` to the subparsers ``commands``."""
    parser = add_command(
        commands,
        "build",
        "Write a model repository that the server and Triton read.",
        "A checkpoint is cut into ONNX segments; every one is run once more by ONNX Runtime and "
        "must agree with torch. With --config instead the weights are random: enough to measure "
        "latency. With neither, the segments that are in the repository already are used. Then "
        "they are compiled for each target, and every one is run once by the runner that serves. "
        "A model may have several input sizes, whose segments share their weights: each exit of "
        "each size is an operating point.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, help="what train wrote")
    source.add_argument("--config", choices=sorted(CONFIGS), help="an untrained detector")
    add_neck(parser)
    add_assignments(parser)
    parser.add_argument(
        "--sizes",
        type=input_sizes,
        metavar="SIZE,...",
        help="input sizes, as 300 or 640x512, width first [those that the configuration states]",
    )
    parser.add_argument(
        "--exits", type=at_least(1), help="how many of the exits, shallowest first [all]"
    )
    parser.add_argument(
        "--recalibrate-images",
        metavar="GLOB",
        help="image files: measure the statistics of batch normalisation on these anew, at each "
        "input size; images that it was trained on will do",
    )
    parser.add_argument(
        "--target",
        action="append",
        choices=RUNTIMES,
        dest="targets",
        help=f"what will run it; may be repeated [{CPU_RUNTIMES[0]}]",
    )
    add_repository(parser)
    parser.add_argument("--model", help="the model's name [the configuration's]")
    parser.add_argument(
        "--store",
        type=Path,
        metavar="FOLDER",
        help="leave the repository as it is, and put a copy with the plans into FOLDER/KEY, KEY "
        "being this GPU, TensorRT and the model's digest, unless it is there; of the target "
        "tensorrt",
    )
    add_threads(parser)
    parser.add_argument(
        "--calibration-images",
        metavar="GLOB",
        help="image files: quantise the segments with ranges seen on these, for CPUs (punctual "
        "serve --precision int8) and TensorRT",
    )
    tensorrt = parser.add_argument_group("of the target tensorrt")
    tensorrt.add_argument(
        "--precision",
        choices=PRECISIONS,
        help=f"int8 takes segments that were quantised, now or before [{PRECISIONS[0]}]",
    )
    tensorrt.add_argument("--level", type=int, help=f"builder optimisation level, 0 to {MAX_LEVEL}")
    tensorrt.add_argument("--timing-cache", type=Path, help="file [MODEL/tensorrt/timing.cache]")
    parser.set_defaults(run=lambda options: _build(options, tools))


def _refusal(options: argparse.Namespace, targets: Sequence[str]) -> str | None:
    """Why this cannot be built, as far as it is known before any work."""
    source = options.checkpoint or options.config
    in_the_way = _in_the_way(options.model_repository)
    tensorrt_only = _tensorrt_only(options)
    images = options.calibration_images
    rules = (
        (
            options.checkpoint and not options.checkpoint.is_file(),
            f"there is no checkpoint {options.checkpoint}",
        ),
        (
            not source and not options.model,
            "say which model with --model, or give a --checkpoint or a --config",
        ),
        (options.neck and not options.config, "--neck is for --config"),
        (
            not source and any(getattr(options, name) for name in OF_EXPORT),
            f"{', '.join(OF_EXPORT.values())}: only of what is exported, which --checkpoint or "
            "--config says",
        ),
        (in_the_way, f"--model-repository: {in_the_way} is a file, not a folder"),
        (
            options.model is not None and not MODEL_NAME.holds(options.model),
            f"a model's name has {MODEL_NAME.what}: it is not {options.model!r}",
        ),
        (
            "torch" in targets and not source,
            "--target torch is made of the detector itself: give its --checkpoint or --config",
        ),
        (
            tensorrt_only and "tensorrt" not in targets,
            f"{', '.join(map(_flag, tensorrt_only))}: only for --target tensorrt",
        ),
        (
            options.precision == "int8" and source and not images,
            "--precision int8 of other weights needs --calibration-images",
        ),
        *(
            (pattern and not files_of_glob(pattern), f"no file is called {pattern}")
            for pattern in (images, options.recalibrate_images)
        ),
        (
            options.store and (source or images or tuple(targets) != ("tensorrt",)),
            "--store: only with --target tensorrt, of segments that are in the repository already",
        ),
        (
            options.level is not None and not 0 <= options.level <= MAX_LEVEL,
            f"--level is 0 to {MAX_LEVEL}, not {options.level}",
        ),
    )
    return next((sentence for wrong, sentence in rules if wrong), None)


def _in_the_way(folder: Path) -> Path | None:
    """Return what is a file where ``folder``, or a folder that it is to be in, is to be."""
    return next((path for path in (folder, *folder.parents) if path.is_file()), None)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _tensorrt_only(options: argparse.Namespace) -> list[str]:
    """Return those options of the target tensorrt that were given."""
    names = ("precision", "level", "timing_cache")
    return [name for name in names if getattr(options, name) is not None]


@files_of_the_user()
def _build(options: argparse.Namespace, tools: ServingTools) -> None:
    targets = tuple(dict.fromkeys(options.targets or CPU_RUNTIMES[:1]))
    problem = _refusal(options, targets)
    if problem:
        raise CommandError(problem)
    with stoppable("the same command builds it from the start"):
        _build_or_store(targets, options, tools)


def _build_or_store(
    targets: Sequence[str], options: argparse.Namespace, tools: ServingTools
) -> None:
    if options.store is None:
        _build_in(options.model_repository, targets, options, tools)
        return
    from builder.exporting.plan_store import build_once

    build_once(
        options.store,
        options.model_repository,
        _entry_there(options.model_repository, options.model),
        options.precision or PRECISIONS[0],
        lambda copy: _build_in(copy, targets, options, tools),
    )


def _build_in(
    repository: Path, targets: Sequence[str], options: argparse.Namespace, tools: ServingTools
) -> None:
    from builder.exporting.repository import depth_folder, write_texts
    from serving.artifacts.model_folders import version_folder

    # What is not installed is to be missed before the work, not after it.
    if "torch" in targets:
        from builder.exporting.torch_programs import export_programs
    if "tensorrt" in targets:
        from builder.exporting.tensorrt_plans import build_plans

    if options.checkpoint or options.config:
        from builder.exporting.build import at_sizes, write_model
        from serving.core.letterbox import ModelInput

        detector, command = _detector(options)
        detectors = at_sizes(detector, options.sizes or (), options.exits)
        inputs = [
            ModelInput(*each.config.input_size[::-1], each.config.resize) for each in detectors
        ]
        images = _read_images(options.calibration_images, inputs, tools)
        if options.recalibrate_images:
            of_sizes = _read_images(options.recalibrate_images, inputs, tools).values()
            detectors = _recalibrated(detectors, of_sizes)
        entry = write_model(detectors, options.model, command, repository, time.perf_counter)
    else:
        entry = _entry_there(repository, options.model)
        inputs = [catalog.input for catalog in entry.catalogs]
        images = _read_images(options.calibration_images, inputs, tools)
    folder = version_folder(repository, entry.name)
    cpu_runtimes = [target for target in targets if target in CPU_RUNTIMES]
    num_texts = write_texts(repository, entry, (cpu_runtimes or CPU_RUNTIMES)[0])
    print(f"wrote {num_texts} configurations and adapters for Triton")
    if images:
        entry = _quantize(folder, entry, images)
    for target in targets:
        if target == "torch":
            for each in detectors:
                export_programs(each, folder)
        if target == "tensorrt":
            given = {name: getattr(options, name) for name in _tensorrt_only(options)}
            for catalog in entry.catalogs:
                depth_folders = partial(depth_folder, repository, catalog)
                build_plans(folder, catalog, depth_folders, digest=entry.digest, **given)
        for catalog in entry.catalogs:
            runner = tools.open_runner(target, folder, options.threads, size=catalog.size)
            where = f" at {catalog.size}" if catalog.one_of_several else ""
            print(run_every_segment(runner, catalog, where))
        _print_front(entry, target)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"wrote {folder} ({size / 1e6:.1f} MB); next: punctual evaluate, punctual profile")


def _print_front(entry: ModelEntry, runtime: str) -> None:
    """Print which answers are worth their time, where that was measured of these segments."""
    from builder.measuring.fronts import answers_of, table
    from serving.core.family import Family

    family = Family((entry,))
    front = answers_of(family, runtime)
    if front is not None and all(catalog.evaluation for catalog in entry.catalogs):
        print("\n".join(table(family, front)))


def _detector(options: argparse.Namespace) -> tuple[AnyDetector, str]:
    """Return the detector of checkpoint or configuration, and the command that made it."""
    from builder.exporting.build import open_detector

    source, made_by = options.checkpoint, ""
    if options.config:
        source = configured(options.config, options.neck, options.assignments).detector
        changes = [part for text in options.assignments for part in ("--set", text)]
        neck = ["--neck", str(options.neck)] if options.neck else []
        made_by = shlex.join(["punctual", "build", "--config", options.config, *neck, *changes])
    return open_detector(source, made_by, lambda config: changed(config, options.assignments))


def _recalibrated(
    detectors: Sequence[AnyDetector], images: Iterable[Sequence[Image]]
) -> tuple[AnyDetector, ...]:
    """Return the detector at each input size with the statistics of images of that size."""
    from builder.modeling.recalibration import recalibrate

    with invalid_arguments():
        pairs = zip(detectors, images, strict=True)
        return tuple(recalibrate(detector, of_size) for detector, of_size in pairs)


def _read_images(
    pattern: str | None, inputs: Iterable[ModelInput], tools: ServingTools
) -> dict[str, list[Image]]:
    """Return the images that ``pattern`` is a glob of, as inputs of each of these sizes, by name.

    There are none without a pattern. All are decoded before anything is changed. Raises
    UnreadableImage.
    """
    if not pattern:
        return {}
    from builder.exporting.int8_segments import MAX_IMAGES
    from builder.measuring.images import read_image

    paths = files_of_glob(pattern)[:MAX_IMAGES]
    return {
        each.size: [read_image(path, each, tools.load_image)[0] for path in paths]
        for each in inputs
    }


def _quantize(folder: Path, entry: ModelEntry, images: Mapping[str, Sequence[Image]]) -> ModelEntry:
    """Quantise the segments in ``folder``.

    Returns the catalogue without figures of earlier scales, which say nothing of these.
    """
    from builder.exporting.int8_segments import quantize_segments
    from builder.exporting.repository import update_entry
    from serving.artifacts.folder_locks import only_writer
    from serving.artifacts.int8_segments import CPU_FOLDER

    entry = update_entry(folder, entry, _without_int8)
    with only_writer(folder, wait=True):
        written = quantize_segments(folder, entry, images)
    print(f"wrote {written} and, for CPUs, {folder / CPU_FOLDER}")
    return entry


def _without_int8(entry: ModelEntry) -> ModelEntry:
    catalogs = tuple(
        replace(
            catalog,
            precisions={name: each for name, each in catalog.precisions.items() if name != "int8"},
        )
        for catalog in entry.catalogs
    )
    merged = tuple(each for each in entry.merged if each.precision != "int8")
    return replace(entry, catalogs=catalogs, merged=merged)


def _entry_there(repository: Path, name: str) -> ModelEntry:
    """Return the entry of a model whose segments are all there."""
    from builder.exporting.repository import check_segments
    from serving.artifacts.model_folders import (
        CATALOG,
        ModelError,
        ModelNotFound,
        read_entry,
        version_folder,
    )

    folder = version_folder(repository, name)
    make_it = "give --checkpoint or --config to make it"
    try:
        entry = read_entry(folder)
        check_segments(entry, folder)
    except ModelNotFound as error:
        raise ModelNotFound(f"there is no {folder / CATALOG}: {make_it}") from error
    except FileNotFoundError as error:
        raise ModelNotFound(f"there is no {error.filename}: {make_it}") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"the segments in {folder} cannot be used: {error}") from error
    if entry.name != name:
        raise ModelError(f"the catalogue in {folder} is that of a model {entry.name!r}")
    return entry
