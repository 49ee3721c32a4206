"""The builder's commands of ``punctual``. Light to import: torch is loaded by the command that
needs it."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from builder import gpu
from builder.config import CONFIGS

if TYPE_CHECKING:
    from serving.core.catalog import Catalog
    from serving.core.ports import SegmentRunner, ServingTools

RUNTIMES = ("openvino", "onnxruntime", "torch", "tensorrt")
CPU_RUNTIMES = ("openvino", "onnxruntime")
"""What Triton's CPU variants can be configured for; the first is the default."""
PRECISIONS = ("fp16", "int8")
MAX_LEVEL = 5


def register(commands: Any, tools: ServingTools) -> None:
    """Add train, build, evaluate, profile and gpu to the subparsers ``commands``."""
    _add_train(commands)
    _add_build(commands, tools)
    _add_evaluate(commands, tools)
    _add_profile(commands, tools)
    gpu.add_parser(commands, tools)


def _add(commands: Any, name: str, summary: str, details: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary} {details}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    return parser


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


# -- train ---------------------------------------------------------------------------------------


def _add_train(commands: Any) -> None:
    parser = _add(
        commands,
        "train",
        "Train a detector.",
        "Writes OUT/checkpoint.pt after every epoch and OUT/log.jsonl; a stopped run goes on with "
        "--resume as if it had not been stopped.",
    )
    parser.add_argument("--config", choices=sorted(CONFIGS), required=True, help="what to train")
    parser.add_argument("--data", type=Path, help="folder of the data set [data/DATASET]")
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes")
    parser.add_argument("--seed", type=int, help="overrides the recipe's")
    parser.add_argument("--epochs", type=int, help="overrides the recipe's")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--resume", action="store_true", help="continue the run in OUT")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PART.FIELD=JSON",
        dest="assignments",
        help="override one field of the detector or train record; may be repeated",
    )
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    from builder.train import override, run_until_signal

    config = override(CONFIGS[options.config], options.assignments)
    given = {"seed": options.seed, "epochs": options.epochs}
    changes = {name: value for name, value in given.items() if value is not None}
    config = replace(config, train=replace(config.train, **changes))
    data = options.data or Path("data") / config.train.dataset
    command = "punctual " + shlex.join(sys.argv[1:])
    return run_until_signal(
        config, data, options.out, device=options.device, resume=options.resume, command=command
    )


# -- build ---------------------------------------------------------------------------------------


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, help="CPU threads of the runner [all cores]")


def _add_build(commands: Any, tools: ServingTools) -> None:
    parser = _add(
        commands,
        "build",
        "Write a model repository that the server and Triton read.",
        "A checkpoint is cut into ONNX segments; every one is run once more by ONNX Runtime and "
        "must agree with torch. With --config instead the weights are random: enough to measure "
        "latency. With neither, the segments that are in the repository already are used. Then "
        "they are compiled for each target, and every one is run once by the runner that serves.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, help="what train wrote")
    source.add_argument("--config", choices=sorted(CONFIGS), help="an untrained detector")
    parser.add_argument(
        "--target",
        action="append",
        choices=RUNTIMES,
        dest="targets",
        help=f"what will run it; may be repeated [{CPU_RUNTIMES[0]}]",
    )
    parser.add_argument("--model-repository", type=Path, default=Path("model_repo"))
    parser.add_argument("--model", help="the model's name [the configuration's]")
    parser.add_argument(
        "--store",
        type=Path,
        metavar="FOLDER",
        help="leave the repository as it is, and put a copy with the plans into FOLDER/KEY, KEY "
        "being this GPU, TensorRT and the model's digest, unless it is there; of the target "
        "tensorrt",
    )
    _add_threads(parser)
    parser.add_argument(
        "--calibration-images",
        metavar="GLOB",
        help="image files: quantise the segments with ranges seen on these",
    )
    tensorrt = parser.add_argument_group("of the target tensorrt")
    tensorrt.add_argument(
        "--precision",
        choices=PRECISIONS,
        help=f"int8 takes segments that were quantised, now or before [{PRECISIONS[0]}]",
    )
    tensorrt.add_argument("--level", type=int, help=f"builder optimisation level, 0 to {MAX_LEVEL}")
    tensorrt.add_argument("--timing-cache", type=Path, help="file [MODEL/tensorrt/timing.cache]")
    parser.set_defaults(run=lambda options: _build(options, tools, parser.error))


def _refusal(options: argparse.Namespace, targets: Sequence[str]) -> str | None:
    """Why this cannot be built, as far as it is known before any work."""
    source = options.checkpoint or options.config
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
        (
            options.model and not re.fullmatch(r"[\w.-]+", options.model, re.ASCII),
            f"a model's name has letters, digits, '_', '-' and '.' only, not {options.model!r}",
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
        (images and not glob(images), f"no file is called {images}"),
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


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _tensorrt_only(options: argparse.Namespace) -> list[str]:
    """Those options of the target tensorrt that were given."""
    names = ("precision", "level", "timing_cache")
    return [name for name in names if getattr(options, name) is not None]


def _build(
    options: argparse.Namespace, tools: ServingTools, refuse: Callable[[str], NoReturn]
) -> int:
    targets = tuple(dict.fromkeys(options.targets or CPU_RUNTIMES[:1]))
    problem = _refusal(options, targets)
    if problem:
        refuse(problem)
    if options.store is None:
        return _build_in(options.model_repository, targets, options, tools, refuse)
    from builder.plan_store import StoreError, build_once

    catalog = _catalog_there(options.model_repository, options.model, refuse)
    precision = options.precision or PRECISIONS[0]
    try:
        return build_once(
            options.store,
            options.model_repository,
            catalog,
            precision,
            lambda copy: _build_in(copy, targets, options, tools, refuse),
        )
    except (StoreError, OSError) as error:
        print(f"punctual: {error}", file=sys.stderr)
        return 1


def _build_in(
    repository: Path,
    targets: Sequence[str],
    options: argparse.Namespace,
    tools: ServingTools,
    refuse: Callable[[str], NoReturn],
) -> int:
    from builder.repository import depth_folder, version_folder, write_texts

    # What is not installed is to be missed before the work, not after it.
    if options.calibration_images:
        from builder.quantize import quantize_segments
    if "torch" in targets:
        from builder.torch_export import export_programs
    if "tensorrt" in targets:
        from builder.tensorrt import PlanBuildError, build_plans

    if options.checkpoint or options.config:
        from builder.build import open_detector, write_model

        made_by = f"punctual build --config {options.config}"
        detector, command = open_detector(options.checkpoint, options.config, made_by)
        catalog = write_model(detector, options.model, command, repository, time.perf_counter)
    else:
        catalog = _catalog_there(repository, options.model, refuse)
    folder = version_folder(repository, catalog.name)
    cpu_runtimes = [target for target in targets if target in CPU_RUNTIMES]
    num_texts = write_texts(repository, catalog, (cpu_runtimes or CPU_RUNTIMES)[0])
    print(f"wrote {num_texts} configurations and adapters for Triton")
    if options.calibration_images:
        paths = sorted(map(Path, glob(options.calibration_images)))
        input_size = catalog.input_width, catalog.input_height
        images = (tools.load_image(path.read_bytes(), *input_size)[0] for path in paths)
        print(f"wrote {quantize_segments(folder, catalog, images)}")
    for target in targets:
        if target == "torch":
            export_programs(detector, folder)
        if target == "tensorrt":
            given = {name: getattr(options, name) for name in _tensorrt_only(options)}
            depths = partial(depth_folder, repository, catalog.name)
            try:
                build_plans(folder, catalog, depths, **given)
            except PlanBuildError as error:
                print(f"punctual: {error}", file=sys.stderr)
                return 1
        print(_run_all(tools.open_runner(target, folder, options.threads), catalog))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"wrote {folder} ({size / 1e6:.1f} MB); next: punctual evaluate, punctual profile")
    return 0


def _catalog_there(repository: Path, name: str, refuse: Callable[[str], NoReturn]) -> Catalog:
    """The catalogue of a model whose segments are all there."""
    from builder.repository import check_segments, read_catalog, version_folder

    folder = version_folder(repository, name)
    try:
        catalog = read_catalog(folder)
        check_segments(catalog, folder)
    except FileNotFoundError as error:
        refuse(f"there is no {error.filename}: give --checkpoint or --config to make it")
    except (OSError, ValueError) as error:
        refuse(f"the segments in {folder} cannot be used: {error}")
    if catalog.name != name:
        refuse(f"the catalogue in {folder} is that of a model {catalog.name!r}")
    return catalog


def _run_all(runner: SegmentRunner, catalog: Catalog) -> str:
    """Run every segment once at every batch size and close ``runner``; a sentence about it."""
    import numpy as np

    from serving.core.timing import time_every_segment

    image = np.zeros((catalog.input_height, catalog.input_width, 3), np.uint8)
    times = time_every_segment(runner, image, catalog.num_exits, time.perf_counter)
    ran = {segment for segment, _, _ in times}
    runner.close()
    sizes = ", ".join(map(str, runner.batch_sizes))
    return f"{runner.runtime} ran all {len(ran)} segments once at batch {sizes}"


# -- evaluate ------------------------------------------------------------------------------------


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model-repository", type=Path, default=Path("model_repo"))
    parser.add_argument("--model", required=True, help="name of the model, without _anytime")
    parser.add_argument("--runtime", choices=RUNTIMES, default="openvino")
    _add_threads(parser)
    parser.add_argument("--write", action="store_true", help="record the figures in the catalogue")


def _add_evaluate(commands: Any, tools: ServingTools) -> None:
    parser = _add(
        commands,
        "evaluate",
        "Measure the accuracy of every exit.",
        "COCO AP and AP50, overall and by class, of the exported segments on the runtime that "
        "serves: from encoded image to boxes, as a request goes.",
    )
    _add_model(parser)
    parser.add_argument("--data", type=Path, help="folder of the data set [data/DATASET]")
    parser.add_argument("--dataset", default="bccd", help="which reader to use")
    parser.add_argument("--split", default="test")
    parser.add_argument("--seed", type=int, default=0, help="of the training run, for the record")
    parser.add_argument(
        "--resamples", type=int, default=0, help="for intervals of the rise over exits; 0: none"
    )
    parser.set_defaults(run=lambda options: _evaluate(options, tools))


def _evaluate(options: argparse.Namespace, tools: ServingTools) -> int:
    from builder.data import DATASETS, average_precision
    from builder.evaluate import detect_all, rises
    from builder.repository import read_catalog, version_folder, write_catalog
    from serving.core.catalog import Evaluation, Exit

    folder = version_folder(options.model_repository, options.model)
    catalog = read_catalog(folder)
    data = options.data or Path("data") / options.dataset
    dataset = DATASETS[options.dataset](data, options.split)
    runner = tools.open_runner(options.runtime, folder, options.threads)
    found = detect_all(runner, catalog, dataset, tools.load_image)
    runner.close()
    results = {depth: average_precision(dataset, rows) for depth, rows in found.items()}
    print(f"{options.dataset} {options.split}, {len(dataset.samples)} images, {runner.runtime}")
    print("exit      AP    AP50  " + "  ".join(f"{name:>9}" for name in catalog.classes))
    for depth, result in results.items():
        classes = "  ".join(f"{result.ap_by_class[name]:9.4f}" for name in catalog.classes)
        print(f"{depth:4} {result.ap:8.4f} {result.ap50:7.4f}  {classes}")
    if options.resamples:
        print("exit   AP above that of exit 1 (95 % interval over resampled images)")
        for depth, (middle, low, high) in rises(dataset, found, options.resamples).items():
            print(f"{depth:4} {middle:+8.4f}  ({low:+.4f} .. {high:+.4f})")
    if options.write:
        exits = tuple(
            Exit(
                depth,
                round(result.ap, 4),
                round(result.ap50, 4),
                {name: round(ap, 4) for name, ap in result.ap_by_class.items()},
            )
            for depth, result in results.items()
        )
        record = Evaluation(
            options.dataset,
            options.split,
            len(dataset.samples),
            options.seed,
            runner.runtime,
            _today(),
        )
        write_catalog(replace(catalog, exits=exits, evaluation=record), folder)
    return 0


# -- profile -------------------------------------------------------------------------------------


def _add_profile(commands: Any, tools: ServingTools) -> None:
    parser = _add(
        commands,
        "profile",
        "Measure the latency of every segment.",
        "Interleaved rounds over all segments and batch sizes, then unit segments against the "
        "fused one at equal depth, as a ratio within each round.",
    )
    _add_model(parser)
    parser.add_argument("--rounds", type=int, default=200, help="over all segments; 0: none")
    parser.add_argument("--path-rounds", type=int, default=200, help="of unit against fused")
    parser.add_argument("--depths", type=int, nargs="+", help="to compare paths at [all]")
    parser.set_defaults(run=lambda options: _profile(options, tools))


def _profile(options: argparse.Namespace, tools: ServingTools) -> int:
    import os

    from builder.measure import (
        WAITING,
        compare_paths,
        machine,
        measure_decision,
        measure_segments,
    )
    from builder.repository import read_catalog, version_folder, write_catalog
    from serving.core import segment as segments

    folder = version_folder(options.model_repository, options.model)
    catalog = read_catalog(folder)
    runner = tools.open_runner(options.runtime, folder, options.threads)
    threads = options.threads or len(os.sched_getaffinity(0))
    print(f"{runner.runtime}, {machine()}, {threads} threads, {_today()}")
    if options.rounds:
        profile = measure_segments(
            runner, catalog, options.rounds, time.perf_counter, _today(), threads
        )
        decision_s = measure_decision(catalog, profile, options.rounds, time.perf_counter)
        print(f"one decision with {WAITING} waiting takes {1e6 * decision_s:.0f} us")
        print("segment    batch   p50 ms   p90 ms   p99 ms")
        for (segment, batch), q in sorted(profile.table.items()):
            times = "".join(f"{1e3 * seconds:9.2f}" for seconds in (q.p50_s, q.p90_s, q.p99_s))
            print(f"{segment.name:10} {batch:5}{times}")
        catalog = replace(catalog, profiles={**catalog.profiles, options.runtime: profile})
    depths = options.depths or range(1, catalog.num_exits + 1)
    if options.path_rounds and all(segments.fused_exit(d) in runner.segments for d in depths):
        print("exit   unit ms  fused ms   unit/fused p50  (p10 .. p90)")
        for row in compare_paths(runner, catalog, depths, options.path_rounds, time.perf_counter):
            print(
                f"{row.depth:4} {1e3 * row.unit_s:9.2f} {1e3 * row.fused_s:9.2f}"
                f"{row.ratio_p50:17.3f}  ({row.ratio_p10:.3f} .. {row.ratio_p90:.3f})"
            )
    runner.close()
    if options.write:
        write_catalog(catalog, folder)
    return 0
