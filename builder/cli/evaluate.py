"""The commands that try a model on a data set: ``punctual evaluate`` and ``punctual report``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.options import (
    add_command,
    add_data,
    add_model,
    add_precision,
    add_split,
    add_write,
    data_of,
    today,
)
from serving.core.command_errors import files_of_the_user
from serving.core.command_numbers import at_least, share

if TYPE_CHECKING:
    from builder.data import Dataset
    from serving.artifacts.serving_tools import ServingTools


def add_parsers(commands: Any, tools: ServingTools) -> None:
    """Add evaluate and report to the subparsers ``commands``."""
    _add_evaluate(commands, tools)
    _add_report(commands, tools)


def _read(options: argparse.Namespace) -> Dataset:
    """Return the split to try a model on; what is left out is printed.

    Raises DatasetError, also where there is nothing to find.
    """
    from builder.data import DatasetError, read_dataset

    data, _ = data_of(options)
    dataset = read_dataset(options.dataset, data, options.split, options.bad_annotations)
    for line in dataset.bad:
        print(f"skipped: {line}", file=sys.stderr)
    if not dataset.has_objects:
        raise DatasetError(f"the split {options.split!r} of {data} has no object: nothing to find")
    return dataset


# -- evaluate ------------------------------------------------------------------------------------


def _add_evaluate(commands: Any, tools: ServingTools) -> None:
    parser = add_command(
        commands,
        "evaluate",
        "Measure the accuracy of every operating point.",
        "COCO AP and AP50, overall and by class, of every exit at every input size, on the runtime "
        "that serves: from encoded image to boxes, as a request goes. Where the model says how "
        "answers of two sizes are merged, of every such pair too. A data set may have fewer "
        "classes than the model; names of Pascal VOC and COCO for the same class count as one.",
    )
    add_model(parser)
    add_precision(parser)
    add_write(parser)
    add_data(parser)
    add_split(parser)
    parser.add_argument(
        "--seed", type=at_least(0), default=0, help="of the training run, for the record"
    )
    parser.add_argument(
        "--merge-depths",
        type=at_least(1),
        nargs="+",
        help="exits whose answers are merged [all]",
    )
    parser.add_argument(
        "--bootstrap",
        type=at_least(0),
        default=0,
        metavar="RESAMPLES",
        help="of the images, for 95 %% intervals; 0: none",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there too")
    parser.add_argument(
        "--tiles",
        type=_grid,
        metavar="ROWSxCOLUMNS",
        help="look at each image in tiles as well, and print AP by size of objects; nothing else "
        "is measured, or written",
    )
    parser.add_argument(
        "--overlap", type=float, default=0.2, help="of neighbouring tiles, as a share of their side"
    )
    parser.set_defaults(run=lambda options: _evaluate(options, tools))


def _grid(text: str) -> tuple[int, int]:
    """Return rows and columns, for argparse."""
    rows, _, columns = text.partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
        raise argparse.ArgumentTypeError(f"rows x columns, such as 3x3, not {text!r}")
    return int(rows), int(columns)


def _evaluate_tiles(options: argparse.Namespace, tools: ServingTools) -> None:
    from builder.measuring.models import open_model, open_runner
    from builder.measuring.tiles import TileGrid, table, tile_accuracies
    from serving.core.command_errors import InvalidArgument
    from serving.core.family import Family

    if not 0.0 <= options.overlap < 1.0:
        raise InvalidArgument("--overlap is a share from 0 up to 1")
    folder, entry = open_model(options.model_repository, options.model)
    family = Family((entry.at(options.precision),))
    dataset = _read(options)
    runner = open_runner(tools, options.runtime, [folder], options.threads, options.precision)
    rows, columns = options.tiles
    tiles = TileGrid(rows, columns, options.overlap)
    accuracies = tile_accuracies(runner, family, dataset, tools.load_image, tiles)
    runner.close()
    _, data_name = data_of(options)
    print(
        f"{data_name} {options.split}, {len(dataset.samples)} images, {runner.runtime}, "
        f"{rows} x {columns} tiles that share {options.overlap:g}"
    )
    for line in table(family, accuracies):
        print(line)


@files_of_the_user()
def _evaluate(options: argparse.Namespace, tools: ServingTools) -> None:
    if options.tiles is not None:
        _evaluate_tiles(options, tools)
        return
    from builder.exporting.repository import update_entry
    from builder.measuring.accuracy import detect_all
    from builder.measuring.evaluation import evaluate
    from builder.measuring.fronts import answers_of, table
    from builder.measuring.models import open_model, open_runner
    from reporting.files import write_whole
    from serving.core.catalog import Evaluation
    from serving.core.family import Family

    folder, entry = open_model(options.model_repository, options.model)
    family = Family((entry.at(options.precision),))
    dataset = _read(options)
    runner = open_runner(tools, options.runtime, [folder], options.threads, options.precision)
    answers = detect_all(runner, family, dataset, tools.load_image)
    runner.close()
    _, data_name = data_of(options)
    about = Evaluation(
        data_name, options.split, len(dataset.samples), options.seed, runner.runtime, today()
    )
    found = evaluate(answers, options.merge_depths, options.bootstrap)
    asked = f" in {options.precision}" if options.precision else ""
    print(f"{data_name} {options.split}, {about.num_images} images, {runner.runtime}{asked}")
    for line in found.table():
        print(line)
    entry = found.into(entry, about)
    measured = Family((entry.at(options.precision),))
    front = answers_of(measured, options.runtime)
    if front is None:
        print("which answers are worth their time: punctual profile --write first")
    else:
        for line in table(measured, front):
            print(line)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        figures = found.to_json(about, front)
        write_whole(options.json, json.dumps(figures, indent=2, allow_nan=False) + "\n")
    if options.write:
        update_entry(folder, entry, lambda now: found.into(now, about))


# -- report --------------------------------------------------------------------------------------


def _add_report(commands: Any, tools: ServingTools) -> None:
    parser = add_command(
        commands,
        "report",
        "Show what every exit finds, as one HTML page.",
        "AP by depth, cost and latency, by class and by size, and detections drawn on images, exit "
        "by exit. Accuracy is measured now, as 'punctual evaluate' does; latency is what 'punctual "
        "profile --write' recorded for the runtime. Several models share the charts.",
    )
    add_model(parser, several=True)
    add_data(parser)
    add_split(parser)
    parser.add_argument("--images", type=at_least(0), default=3, help="to draw on, evenly spaced")
    parser.add_argument("--score", type=share, default=0.4, help="of detections that are drawn")
    parser.add_argument("--out", type=Path, default=Path("report.html"))
    parser.set_defaults(run=lambda options: _report(options, tools))


@files_of_the_user()
def _report(options: argparse.Namespace, tools: ServingTools) -> None:
    from builder.measuring.models import open_model, open_runner
    from builder.measuring.report import gather
    from builder.measuring.report_page import page
    from reporting.files import write_whole

    models = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    dataset = _read(options)
    names = dict.fromkeys(options.model)
    for folder, entry in [open_model(options.model_repository, name) for name in names]:
        runner = open_runner(tools, options.runtime, [folder], options.threads)
        models += gather(
            runner, options.runtime, folder, entry, dataset, tools.load_image, options.images
        )
        runner.close()
    where = f"{data_of(options)[1]} {options.split}"
    write_whole(options.out, page(models, where, len(dataset.samples), options.score))
    print(f"wrote {options.out}")
