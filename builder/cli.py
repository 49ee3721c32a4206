"""The builder's commands of ``punctual``. Light to import: torch is loaded by the command that
needs it."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import build_cli, gpu
from builder.build_cli import RUNTIMES
from builder.config import CONFIGS

if TYPE_CHECKING:
    from serving.core.ports import ServingTools


def register(commands: Any, tools: ServingTools) -> None:
    """Add train, build, evaluate, profile and gpu to the subparsers ``commands``."""
    _add_train(commands)
    build_cli.add_parser(commands, tools)
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


# -- evaluate ------------------------------------------------------------------------------------


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, help="CPU threads of the runner [all cores]")


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
