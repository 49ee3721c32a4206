"""``punctual search share``: weights that all graphs share, and whether they order graphs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.options import add_command, command_line
from builder.cli.search.kinds import (
    MAX_GRAPHS,
    MAX_WORKERS,
    SPACE_NAMES,
    add_children,
    add_min_kendall,
    children_of,
    data_of,
    read_journals,
    reference_of,
)
from serving.core.command_errors import CommandError, files_of_the_user, stoppable
from serving.core.command_numbers import at_least, between

if TYPE_CHECKING:
    from builder.config.pyramid_graphs import Graph
    from builder.search.evaluators.shared import AboutShared, SharedEvaluator
    from builder.search.journal import Contents
    from builder.search.space import SearchSpace

EPOCHS_OF_A_CHILD = 10
"""Number of times that shared weights are trained for as long as a child is."""


def add_parser(actions: Any) -> None:
    parser = add_command(
        actions,
        "share",
        "Train weights that all graphs of a space share.",
        "A child is then measured with its share of them in seconds, by punctual search run "
        "--evaluator shared. Writes OUT/checkpoint.pt, and goes on with it when it is started "
        "again; then graphs of journals whose children were trained are measured, and OUT/"
        "shared.json says how well the two agree: too little is an error.",
    )
    parser.add_argument("--space", choices=SPACE_NAMES, default=SPACE_NAMES[0])
    add_children(parser)
    parser.add_argument(
        "--epochs",
        type=at_least(1),
        help=f"to train for [{EPOCHS_OF_A_CHILD} times those of a child]",
    )
    parser.add_argument(
        "--of",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="journals of children that were trained, such as --searcher signal",
    )
    parser.add_argument(
        "--graphs",
        type=at_least(2, MAX_GRAPHS),
        default=24,
        help="of the journals that are measured: half of them the best, half evenly from the rest",
    )
    parser.add_argument(
        "--workers",
        type=between(1, MAX_WORKERS),
        default=1,
        help="graphs that are measured at a time",
    )
    add_min_kendall(parser)
    parser.add_argument("--out", type=Path, required=True, help="where the weights go")
    parser.set_defaults(run=_share)


@files_of_the_user()
def _share(options: argparse.Namespace) -> None:
    from builder.search.evaluators.shared import (
        ABOUT,
        AboutShared,
        PoorSharedWeights,
        SharedEvaluator,
    )
    from builder.search.evaluators.training import held_out_digest
    from builder.search.proxy_agreement import MIN_IN_COMMON, as_markdown, compare
    from builder.search.report import ranked
    from builder.search.searchers.listed import spread
    from builder.search.shared_weights import train_shared
    from builder.search.space import SPACES
    from reporting.files import write_whole

    space = SPACES[options.space]
    config = children_of(options, space)
    if config.train.validation_sizes:
        raise CommandError("graphs with shared weights are measured at one size: validation_sizes")
    data = data_of(options, config)
    trained = _trained(options.of, space)
    graphs = spread([group.graph for group in ranked(trained.children)], options.graphs)
    if len(graphs) < MIN_IN_COMMON:
        raise CommandError(
            f"there are {len(graphs)} graphs in the journals, and {MIN_IN_COMMON} tell whether "
            "shared weights order graphs"
        )
    epochs = options.epochs or EPOCHS_OF_A_CHILD * config.train.epochs
    about = AboutShared.of(space.name, config, epochs, held_out_digest(config, data))
    _begin(options.out, about)
    features = options.features or options.out / "features"
    with stoppable():
        train_shared(
            space,
            config,
            epochs,
            data,
            options.out,
            command=command_line(),
            backbone=options.backbone,
            features=features,
        )
        evaluator = SharedEvaluator.of(options.out, data.resolve(), features.resolve())
        measured = _measured(options, space, graphs, trained.search, evaluator)
    found = compare(["trained", "shared"], [trained, measured])
    print(as_markdown(found), end="")
    tau = found.figures[0].tau.middle
    write_whole(options.out / ABOUT, replace(about, kendall=tau).to_json())
    if tau < options.min_kendall:
        raise PoorSharedWeights.of(tau, options.min_kendall)


def _trained(paths: Sequence[Path], space: SearchSpace) -> Contents:
    """Return journals of trainings as one. Raises CommandError for those of anything else."""
    from builder.search.journal import Contents
    from builder.search.report import MARKS
    from builder.search.rewards import REWARDS

    journals = read_journals(paths, space)
    first = journals.contents[0].search
    for path, contents in zip(paths, journals.contents, strict=True):
        if contents.search["evaluator"]["name"] in MARKS:
            raise CommandError(f"the children of {path} were not trained, so they tell nothing")
        if contents.search["space"] != space.name:
            raise CommandError(f"{path} is of the space {contents.search['space']} (--space)")
        for name in ("reward", "latency"):
            if contents.search[name] != first[name]:
                raise CommandError(f"{path} has not the {name} that {paths[0]} has")
    if first["reward"]["name"] not in REWARDS:
        raise CommandError(f"{paths[0]} has a reward that there is not")
    return Contents(first, journals.children)


def _measured(
    options: argparse.Namespace,
    space: SearchSpace,
    graphs: Sequence[Graph],
    trained: Mapping[str, Any],
    evaluator: SharedEvaluator,
) -> Contents:
    """Return what graphs are worth with shared weights, by the reward of a search."""
    from builder.search.journal import Contents
    from builder.search.latency_table import LatencyTable
    from builder.search.rewards import REWARDS
    from builder.search.run import Search, run
    from builder.search.searchers.listed import Listed

    table = LatencyTable(**trained["latency"])
    reward = REWARDS[trained["reward"]["name"]](table, reference_of(space), evaluator.num_exits)
    search = Search(
        space=space.name,
        searcher="spread",
        seed=0,
        create=lambda: Listed(graphs),
        evaluator=evaluator,
        reward=reward,
        table=table,
        max_seeds=1,
    )
    children = run(search, options.out, len(graphs), options.workers)
    return Contents(search.describe(), children)


def _begin(out: Path, about: AboutShared) -> None:
    """Record what the weights in OUT are of. Raises CommandError where they are of others."""
    from builder.search.evaluators.shared import ABOUT, read_about
    from reporting.files import write_whole

    path = out / ABOUT
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_whole(path, about.to_json())
    elif replace(read_about(out), kendall=None) != about:
        raise CommandError(f"{path} is of other weights: choose another --out")
