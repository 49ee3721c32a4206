"""The commands that try a model on a data set: ``punctual evaluate`` and ``punctual report``."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.options import (
    add_command,
    add_data,
    add_model,
    add_precision,
    add_split,
    add_write,
    at_least,
    data_of,
    today,
)
from serving.core.command_errors import files_of_the_user

if TYPE_CHECKING:
    from builder.data import Dataset
    from serving.artifacts.serving_tools import ServingTools


def add_parsers(commands: Any, tools: ServingTools) -> None:
    """Add evaluate and report to the subparsers ``commands``."""
    _add_evaluate(commands, tools)
    _add_report(commands, tools)


def _read(options: argparse.Namespace) -> Dataset:
    """The split to try a model on; what is left out is printed. Raises DatasetError, also where
    there is nothing to find."""
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
        "Measure the accuracy of every exit.",
        "COCO AP and AP50, overall and by class, of the exported segments on the runtime that "
        "serves: from encoded image to boxes, as a request goes.",
    )
    add_model(parser)
    add_precision(parser)
    add_write(parser)
    add_data(parser)
    add_split(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the training run, for the record")
    parser.add_argument(
        "--resamples",
        type=at_least(0),
        default=0,
        help="for intervals of the rise over exits; 0: none",
    )
    parser.set_defaults(run=lambda options: _evaluate(options, tools))


@files_of_the_user()
def _evaluate(options: argparse.Namespace, tools: ServingTools) -> None:
    from builder.data import average_precision
    from builder.exporting.repository import write_entry
    from builder.measuring.accuracy import detect_all, rises
    from builder.measuring.models import only_size, open_model, open_runner
    from serving.core.catalog import Evaluation, Exit

    folder, entry = open_model(options.model_repository, options.model)
    catalog = only_size(entry).at(options.precision)
    dataset = _read(options)
    runner = open_runner(tools, options.runtime, folder, options.threads, options.precision)
    found = detect_all(runner, catalog, dataset, tools.load_image)
    runner.close()
    results = {depth: average_precision(dataset, rows) for depth, rows in found.items()}
    asked = f" in {options.precision}" if options.precision else ""
    _, data_name = data_of(options)
    where = f"{data_name} {options.split}, {len(dataset.samples)} images"
    print(f"{where}, {runner.runtime}{asked}")
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
                {
                    name: round(ap, 4)
                    for name, ap in result.ap_by_class.items()
                    if not math.isnan(ap)  # there is none of it in the data set
                },
            )
            for depth, result in results.items()
        )
        record = Evaluation(
            data_name,
            options.split,
            len(dataset.samples),
            options.seed,
            runner.runtime,
            today(),
        )
        measured = replace(catalog, exits=exits, evaluation=record)
        write_entry(entry.with_figures(measured), folder)


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
    parser.add_argument("--score", type=float, default=0.4, help="of detections that are drawn")
    parser.add_argument("--out", type=Path, default=Path("report.html"))
    parser.set_defaults(run=lambda options: _report(options, tools))


@files_of_the_user()
def _report(options: argparse.Namespace, tools: ServingTools) -> None:
    from builder.measuring.models import open_model, open_runner
    from builder.measuring.report import gather
    from builder.measuring.report_page import page

    models = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    dataset = _read(options)
    names = dict.fromkeys(options.model)
    for folder, _ in [open_model(options.model_repository, name) for name in names]:
        runner = open_runner(tools, options.runtime, folder, options.threads)
        models.append(
            gather(runner, options.runtime, folder, dataset, tools.load_image, options.images)
        )
        runner.close()
    where = f"{data_of(options)[1]} {options.split}"
    options.out.write_text(page(models, where, len(dataset.samples), options.score))
    print(f"wrote {options.out}")
