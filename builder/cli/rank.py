"""``punctual rank``: which of several models is better, without annotations."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from builder.cli.options import (
    add_command,
    add_model,
    add_write,
    files_of_glob,
    today,
)
from serving.core.command_errors import CommandError, files_of_the_user
from serving.core.command_numbers import share

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.measuring.accuracy import Answers
    from serving.artifacts.serving_tools import ServingTools
    from serving.core.model_entry import ModelEntry

Found = tuple["Path", "ModelEntry"]


def add_parser(commands: Any, tools: ServingTools) -> None:
    """Add ``rank`` to the subparsers ``commands``."""
    parser = add_command(
        commands,
        "rank",
        "Say which of several models is better, where there are no annotations.",
        "By agreement with the last of them, the largest, on images: the AP that a model would "
        "have if what that one finds were all there is. Or, without images, as they are named: "
        "each model is taken to be better than those before it. Neither is an accuracy, and "
        "whatever shows them says so.",
    )
    add_model(parser, several=True)
    parser.add_argument("--images", metavar="GLOB", help="image files [the order is stated]")
    parser.add_argument(
        "--threshold",
        type=share,
        default=0.3,
        help="score from which the last one is believed",
    )
    add_write(parser)
    parser.set_defaults(run=lambda options: _rank(options, tools))


@files_of_the_user()
def _rank(options: argparse.Namespace, tools: ServingTools) -> None:
    from builder.exporting.repository import update_entry
    from builder.measuring.agreement import in_order
    from builder.measuring.models import open_model
    from serving.core.family import Family

    names = list(dict.fromkeys(options.model))
    found = [open_model(options.model_repository, name) for name in names]
    paths = files_of_glob(options.images) if options.images else []
    if options.images and not paths:
        raise CommandError(f"no file is called {options.images}")
    entries = [entry for _, entry in found]
    if any(entry.catalogs[0].classes != entries[0].catalogs[0].classes for entry in entries):
        raise CommandError(f"the models {', '.join(names)} are not for the same classes")
    ranked = _by_agreement(options, tools, found, paths) if paths else in_order(entries, today())
    family = Family(tuple(ranked))
    width = max(map(len, map(family.ladder.label, family.ladder.points)))
    print(f"{'answer':{width}} {family.measure}")
    for point in family.ladder.points:
        print(f"{family.ladder.label(point):{width}} {family.ladder.ap(point):.4f}")
    if options.write:
        for (folder, _), entry in zip(found, ranked, strict=True):
            update_entry(folder, entry, partial(_with_figures_of, ranked=entry))


def _with_figures_of(entry: ModelEntry, ranked: ModelEntry) -> ModelEntry:
    """Return ``entry`` with what stands in the place of accuracies in ``ranked``."""
    for catalog in ranked.catalogs:
        own = replace(entry.size(catalog.size), exits=catalog.exits, evaluation=catalog.evaluation)
        entry = entry.with_figures(own)
    return replace(entry, merged=ranked.merged)


def _by_agreement(
    options: argparse.Namespace,
    tools: ServingTools,
    found: Sequence[Found],
    paths: Sequence[Path],
) -> list[ModelEntry]:
    """Return the entries with their agreement with the last one."""
    from builder.measuring.accuracy import Answers, detect_all
    from builder.measuring.agreement import about_agreement, annotated_by, without_annotations
    from builder.measuring.evaluation import evaluate
    from builder.measuring.models import open_runner
    from serving.core.family import Family

    name = paths[0].resolve().parent.name
    largest = found[-1][1]
    dataset = without_annotations(paths, largest.catalogs[0].classes)
    answers: list[Answers] = []
    for folder, entry in found:
        runner = open_runner(tools, options.runtime, [folder], options.threads)
        answers.append(detect_all(runner, Family((entry,)), dataset, tools.load_image))
        runtime = runner.runtime
        runner.close()
    annotated = annotated_by(answers[-1], options.threshold)
    if not any(len(sample.labels) for sample in annotated.samples):
        raise CommandError(
            f"{largest.name} finds nothing in these {len(paths)} images that scores "
            f"{options.threshold} or more"
        )
    last = largest.catalogs[-1]
    reference = f"{largest.name}@{last.size}/{last.num_exits}"
    about = about_agreement(name, len(paths), reference, runtime, today())
    print(f"agreement with {reference} on {len(paths)} images, {runtime}")
    return [
        evaluate(Answers(each.family, annotated, each.placements, each.found)).into(
            replace(entry, merged=()), about
        )
        for each, (_, entry) in zip(answers, found, strict=True)
    ]
