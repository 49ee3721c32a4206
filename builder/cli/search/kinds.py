"""What is searched, and what a child is worth: options that several actions have."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from builder.cli.model import add_assignments, configured
from builder.config.configuration import Config
from builder.config.detector import DetectorConfig
from builder.config.named import CONFIGS
from serving.core.command_errors import CommandError, InvalidArgument
from serving.core.command_numbers import between

if TYPE_CHECKING:
    from builder.config.pyramid_graphs import Graph
    from builder.search.evaluators.base import Evaluator
    from builder.search.journal import JournalSet
    from builder.search.latency_table import LatencyTable
    from builder.search.space import SearchSpace

SPACE_NAMES = ("nas-fpn", "lite", "lite-15", "micro")
REWARD_NAMES = ("ap", "anytime", "in-time")
"""Names of what ``builder.search`` has, which --help need not import."""
KNOWN = ("analytic", "table")
EVALUATOR_NAMES = ("train", *KNOWN, "surrogate", "shared")

MAX_WORKERS = 1024
MAX_CHILDREN = 1_000_000
MAX_GRAPHS = 10_000
MAX_SEED = 2**31 - 1
"""Bounds on what may be asked for; seeds count up from the first."""

PROXIES = {
    "nas-fpn": "bccd_proxy",
    "lite": "bccd_proxy_lite",
    "lite-15": "bccd_proxy_lite",
    "micro": "bccd_proxy_p5",
}
"""Space -> configuration that its children train."""

FROZEN_PROXIES = {
    "nas-fpn": "bccd_frozen",
    "lite": "bccd_frozen_lite",
    "lite-15": "bccd_frozen_lite",
    "micro": "bccd_frozen_p5",
}
"""Space -> the same where there is a backbone to begin with."""

TIMES_OF = {"bccd_frozen": "bccd", "bccd_frozen_lite": "bccd_lite", "bccd_frozen_p5": "bccd"}
"""Proxy -> the detector that it stands for, where its own times would mislead.

Beside a backbone that is large for its neck, what graphs cost would not show.
"""


def add_kind(parser: argparse.ArgumentParser, evaluators: tuple[str, ...]) -> None:
    """Add the options that say what is searched, and what a child is worth."""
    parser.add_argument("--space", choices=SPACE_NAMES, default=SPACE_NAMES[0])
    parser.add_argument("--evaluator", choices=evaluators, default=evaluators[0])
    parser.add_argument("--reward", choices=REWARD_NAMES, default="anytime")
    parser.add_argument(
        "--journal",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="journals with the results that the evaluators table and surrogate go by",
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="graphs that the table lacks are children that failed, rather than an error",
    )
    parser.add_argument(
        "--latency",
        type=Path,
        metavar="FILE",
        help="the latency table to go by [multiply-accumulates of --config; of journals, theirs]",
    )


def add_children(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what children are, and what they are trained and measured on."""
    parser.add_argument(
        "--config", choices=sorted(CONFIGS), help="what children train [a proxy for the space]"
    )
    add_assignments(parser, "{detector,train}.FIELD=JSON")
    parser.add_argument(
        "--backbone",
        type=Path,
        metavar="CHECKPOINT",
        help="whose backbone every child begins with [random weights]",
    )
    parser.add_argument(
        "--features",
        type=Path,
        metavar="FOLDER",
        help="where to keep what a frozen backbone makes of the images [OUT/features]",
    )
    parser.add_argument("--data", type=Path, help="folder of the data set [data/DATASET]")


def add_min_kendall(parser: argparse.ArgumentParser) -> None:
    """Add the option that bounds what may stand for trainings."""
    parser.add_argument(
        "--min-kendall",
        type=between(-1.0, 1.0),
        default=0.5,
        help="how well a surrogate has to foretell the order of graphs that it has not seen, or "
        "shared weights to order graphs as trainings do: a Kendall's tau",
    )


def reference_of(space: SearchSpace) -> Graph:
    from builder.search.controls import reference

    return reference(space.levels)


def read_journals(paths: Sequence[Path], space: SearchSpace) -> JournalSet:
    """Return journals of ``space``.

    Raises CommandError for the first whose graphs have other levels, and what
    ``builder.search.journal.JournalSet.read`` raises.
    """
    from builder.search.journal import JournalSet

    journals = JournalSet.read(paths)
    for path, contents in zip(paths, journals.contents, strict=True):
        if any(child.graph.levels != space.levels for child in contents.children):
            raise CommandError(
                f"{path} is of the space {contents.search['space']}: its graphs have not the "
                f"levels of {space.name} (--space)"
            )
    return journals


def open_evaluator(
    options: argparse.Namespace, space: SearchSpace
) -> tuple[Evaluator, LatencyTable]:
    """Return what evaluates children, and the table of their times."""
    from builder.search.evaluators.analytic import AnalyticEvaluator
    from builder.search.evaluators.surrogate import SurrogateEvaluator
    from builder.search.evaluators.tabular import TabularEvaluator
    from builder.search.latency_table import LatencyTable, synthetic_table

    if (options.evaluator in ("table", "surrogate")) != bool(options.journal):
        raise CommandError("the evaluators table and surrogate need --journal, and no other does")
    if options.partial and options.evaluator != "table":
        raise CommandError("--partial is for the evaluator table")
    shared = getattr(options, "shared", None)
    if (options.evaluator == "shared") != bool(shared):
        raise CommandError("--evaluator shared needs --shared, and no other does")
    given = LatencyTable.read(options.latency) if options.latency else None
    if options.evaluator == "analytic":
        return AnalyticEvaluator(), given or synthetic_table()
    if options.evaluator == "train":
        return _training(options, space, given)
    if options.evaluator == "shared":
        return _sharing(options, space, given)
    journals = read_journals(options.journal, space)
    table = given or LatencyTable(**journals.contents[0].search["latency"])
    if options.evaluator == "table":
        return TabularEvaluator.of(journals, is_partial=options.partial), table
    return SurrogateEvaluator.of(journals, options.min_kendall), table


def _training(
    options: argparse.Namespace, space: SearchSpace, given: LatencyTable | None
) -> tuple[Evaluator, LatencyTable]:
    from builder.search.evaluators.training import (
        TrainingEvaluator,
        backbone_digest,
        held_out_digest,
    )
    from builder.search.latency_table import counted

    config = children_of(options, space)
    data = data_of(options, config)
    # Workers may have another working directory.
    evaluator = TrainingEvaluator(
        config,
        data.resolve(),
        options.out.resolve(),
        held_out_digest(config, data),
        (options.features or options.out / "features").resolve(),
        options.backbone and options.backbone.resolve(),
        backbone_digest(options.backbone) if options.backbone else "",
    )
    return evaluator, given or counted(_timed(options, config))


def _sharing(
    options: argparse.Namespace, space: SearchSpace, given: LatencyTable | None
) -> tuple[Evaluator, LatencyTable]:
    from builder.search.evaluators.shared import (
        NoSharedWeights,
        PoorSharedWeights,
        SharedEvaluator,
        read_about,
    )
    from builder.search.latency_table import counted

    folder, about = options.shared, read_about(options.shared)
    if about.space != space.name:
        raise NoSharedWeights(f"{folder} is of the space {about.space}, not {space.name} (--space)")
    if about.kendall is None:
        raise NoSharedWeights(
            f"whether the weights in {folder} order graphs as trainings do is not known yet: "
            "punctual search share goes on to find out"
        )
    if about.kendall < options.min_kendall:
        raise PoorSharedWeights.of(about.kendall, options.min_kendall)
    features = options.features or options.out / "features"
    evaluator = SharedEvaluator.of(
        folder.resolve(), data_of(options, about.config).resolve(), features.resolve()
    )
    return evaluator, given or counted(_timed(options, about.config))


def data_of(options: argparse.Namespace, config: Config) -> Path:
    """Return the folder of the images that children are trained and measured on."""
    return options.data or Path("data") / config.train.dataset


def children_of(options: argparse.Namespace, space: SearchSpace) -> Config:
    """Return what children are, of ``proxy_of``. Raises CommandError for what tells no graphs."""
    config = proxy_of(options, space)
    if config.train.validation_split is None:
        raise CommandError(
            f"{config.detector.name} measures on no images: --set 'train.validation_split=\"val\"'"
        )
    if config.train.backbone_learning_rate_ratio == 0 and options.backbone is None:
        raise CommandError(
            f"the backbone of {config.detector.name} learns nothing, so it needs to have learnt "
            "before: --backbone"
        )
    return config


def _timed(options: argparse.Namespace, config: Config) -> DetectorConfig:
    """Return the detector whose multiply-accumulates are the times of the graphs."""
    own = config.detector
    name = options.times_of or TIMES_OF.get(own.name)
    if name is None:
        return own
    try:
        return replace(CONFIGS[name].detector, neck=own.neck, graph=own.graph, conv=own.conv)
    except ValueError as error:  # an input size for other levels
        raise InvalidArgument(f"--times-of {name}: {error}") from error


def proxy_of(options: argparse.Namespace, space: SearchSpace) -> Config:
    """Return what children are, with the pyramid that deadlines go by."""
    from builder.search.evaluators.training import NECK

    proxies = FROZEN_PROXIES if getattr(options, "backbone", None) else PROXIES
    name = options.config or proxies[options.space]
    config = configured(name, None, options.assignments)
    try:
        rows = reference_of(space).rows
        return Config(replace(config.detector, neck=NECK, graph=rows), config.train)
    except ValueError as error:  # an input size for other levels
        raise InvalidArgument(f"{name} cannot have the levels of {space.name}: {error}") from error
