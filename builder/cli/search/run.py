"""``punctual search run``: search, or evaluate a list of graphs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.options import add_command
from builder.cli.search.kinds import (
    EVALUATOR_NAMES,
    MAX_CHILDREN,
    MAX_GRAPHS,
    MAX_SEED,
    MAX_WORKERS,
    add_children,
    add_kind,
    add_min_kendall,
    open_evaluator,
    read_journals,
    reference_of,
)
from builder.config.named import CONFIGS
from serving.core.command_errors import (
    CommandError,
    InvalidArgument,
    files_of_the_user,
    stoppable,
)
from serving.core.command_numbers import at_least

if TYPE_CHECKING:
    from builder.config.pyramid_graphs import Graph
    from builder.search.pool import OpenPool
    from builder.search.space import SearchSpace

SEARCHER_NAMES = (
    "random",
    "evolution",
    "screened-evolution",
    "controller-paper",
    "controller-small",
    "exhaustive",
)
POOL_NAMES = ("processes", "ray")
"""Names of what ``builder.search`` has, which --help need not import."""

MAX_LIST_SEEDS = 1000
"""Bounds on lists of graphs, and on the seeds that each is evaluated with."""

NUM_SEEDS = 3
"""Number of seeds that the graphs of a list are evaluated with."""
FINALISTS, SPREAD, NECKS = "finalists", "spread", "necks"
OF_JOURNALS = (FINALISTS, SPREAD)
"""Lists of graphs that are in journals."""
FINALISTS_SEED = 100
"""First seed of finalists: those that made them finalists were their luck."""


def add_parser(actions: Any) -> None:
    parser = add_command(
        actions,
        "run",
        "Search.",
        "Writes a line to OUT/journal.jsonl for each child. The same command goes on with what is "
        "there: after it was stopped, or with more --children. The same seed gives the same "
        "journal, whatever the workers.",
    )
    add_kind(parser, EVALUATOR_NAMES)
    parser.add_argument(
        "--searcher",
        choices=(*SEARCHER_NAMES, *LISTS),
        default="evolution",
        help="or a list of graphs, each with --seeds seeds: controls are hand-made and published "
        "ones, necks those in --necks, signal is --graphs random ones, finalists are the best of "
        "the journals in --of, and spread is --graphs of those, half of them the best and half "
        "evenly from the others",
    )
    add_children(parser)
    parser.add_argument(
        "--times-of",
        choices=sorted(CONFIGS),
        metavar="CONFIG",
        help="the detector that graphs are searched for, whose multiply-accumulates are the times "
        "[of bccd_frozen, bccd, and of others in kind; else what children train]",
    )
    parser.add_argument(
        "--shared",
        type=Path,
        metavar="FOLDER",
        help="of the weights that the evaluator shared goes by, of punctual search share",
    )
    parser.add_argument(
        "--children",
        type=at_least(1, MAX_CHILDREN),
        help="to search for in all [100; of lists, all]",
    )
    parser.add_argument(
        "--workers",
        type=at_least(1, MAX_WORKERS),
        default=1,
        help="children that are evaluated at a time",
    )
    parser.add_argument(
        "--pool",
        choices=POOL_NAMES,
        default=POOL_NAMES[0],
        help="what evaluates them: processes of this machine, or workers of Ray",
    )
    parser.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="the Ray cluster to use, auto for the one that this machine is in [one of this "
        "machine alone, for as long as it takes]; --data and --out are the same folders everywhere",
    )
    parser.add_argument("--seed", type=at_least(0, MAX_SEED), default=0, help="of the searcher")
    parser.add_argument(
        "--training-seed",
        type=at_least(0, MAX_SEED),
        help="the first that a graph is trained with; its repeats have the next "
        f"[0; of finalists {FINALISTS_SEED}]",
    )
    parser.add_argument(
        "--of",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="journals of finalists and spread",
    )
    parser.add_argument(
        "--necks", nargs="+", default=[], metavar="NECK", help="controls by name, or GRAPH.json"
    )
    parser.add_argument(
        "--reuse",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="journals of the same evaluator, whose children are not evaluated again where the "
        "search asks for them",
    )
    parser.add_argument("--top", type=at_least(1), default=10, help="finalists")
    parser.add_argument(
        "--graphs",
        type=at_least(2, MAX_GRAPHS),
        default=24,
        help="of the lists signal and spread",
    )
    parser.add_argument(
        "--seeds",
        type=at_least(1, MAX_LIST_SEEDS),
        default=NUM_SEEDS,
        help="with which a list is evaluated",
    )
    add_min_kendall(parser)
    parser.add_argument("--out", type=Path, required=True, help="where the journal goes")
    parser.set_defaults(run=_run)


@files_of_the_user()
def _run(options: argparse.Namespace) -> None:
    from builder.search.journal import JOURNAL
    from builder.search.reuse import read_known, reusing
    from builder.search.rewards import REWARDS
    from builder.search.run import MAX_SEEDS, Search, run
    from builder.search.space import SPACES

    if options.ray_address and options.pool != "ray":
        raise CommandError("--ray-address needs --pool ray")
    pool = POOLS[options.pool](options)
    if (options.searcher in OF_JOURNALS) != bool(options.of):
        raise CommandError(f"--searcher {' and '.join(OF_JOURNALS)} need --of, and no other does")
    if (options.searcher == NECKS) != bool(options.necks):
        raise CommandError(f"--searcher {NECKS} needs --necks, and no other does")
    space = SPACES[options.space]
    of_list = LISTS.get(options.searcher)
    listed = of_list(options, space) if of_list else []
    if of_list and not listed:
        raise CommandError("there is no graph to be evaluated in what --of names")
    evaluator, table = open_evaluator(options, space)
    pool = reusing(read_known(options.reuse, evaluator), pool)
    first_seed = FINALISTS_SEED if options.searcher == FINALISTS else 0
    search = Search(
        space=options.space,
        searcher=options.searcher,
        seed=options.seed,
        create=_creator(options, space, listed),
        evaluator=evaluator,
        reward=REWARDS[options.reward](table, reference_of(space), evaluator.num_exits),
        table=table,
        first_training_seed=first_seed if options.training_seed is None else options.training_seed,
        max_seeds=options.seeds if listed else MAX_SEEDS,
    )
    num_children = options.children or (options.seeds * len(listed) or 100)
    with stoppable():
        children = run(search, options.out, num_children, options.workers, pool)
    best = max(children, key=lambda child: child.reward)
    print(
        f"{len(children)} children in {options.out / JOURNAL}; the best as observed is child "
        f"{best.index} with a reward of {best.reward:.4f}"
    )


def _processes(_: argparse.Namespace) -> OpenPool:
    from builder.search.pool import open_pool

    return open_pool


def _ray(options: argparse.Namespace) -> OpenPool:
    from builder.search.journal import JOURNAL
    from builder.search.ray_pool import RayPool

    return partial(RayPool, journal=options.out / JOURNAL, address=options.ray_address)


POOLS = {"processes": _processes, "ray": _ray}
"""Name -> function that returns what opens the pool that the options are for."""


def _controls(_: argparse.Namespace, space: SearchSpace) -> list[Graph]:
    from builder.search.controls import controls

    return list(controls(space.levels).values())


def _finalists(options: argparse.Namespace, space: SearchSpace) -> list[Graph]:
    return _ranked(options, space)[: options.top]


def _spread(options: argparse.Namespace, space: SearchSpace) -> list[Graph]:
    from builder.search.searchers.listed import spread

    return spread(_ranked(options, space), options.graphs)


def _ranked(options: argparse.Namespace, space: SearchSpace) -> list[Graph]:
    """Return the graphs of the journals in --of, the best first."""
    from builder.search.report import ranked

    return [group.graph for group in ranked(read_journals(options.of, space).children)]


def _signal(options: argparse.Namespace, space: SearchSpace) -> list[Graph]:
    from builder.search.searchers.listed import random_graphs

    return random_graphs(space, options.seed, options.graphs)


def _necks(options: argparse.Namespace, space: SearchSpace) -> list[Graph]:
    from builder.config.pyramid_graphs import InvalidGraph, read_graph
    from builder.search.canonical import canonical_key
    from builder.search.controls import controls

    known = controls(space.levels)
    found: dict[str, Graph] = {}
    for name in options.necks:
        try:
            graph = known.get(name) or read_graph(Path(name))
        except InvalidGraph as error:
            raise InvalidArgument(f"--necks: {error}") from error
        except OSError as error:
            names = ", ".join(known)
            raise InvalidArgument(f"--necks {name}: neither of {names}, nor a file") from error
        if graph.levels != space.levels:
            raise InvalidArgument(f"--necks {name}: it has not the levels of {space.name}")
        if (key := canonical_key(graph)) in found:
            raise InvalidArgument(f"--necks {name}: one before it is the same network")
        found[key] = graph
    return list(found.values())


LISTS: dict[str, Callable[[argparse.Namespace, SearchSpace], list[Graph]]] = {
    "controls": _controls,
    FINALISTS: _finalists,
    SPREAD: _spread,
    "signal": _signal,
    NECKS: _necks,
}
"""Name of a searcher that is a list -> function that returns its graphs."""


def _creator(
    options: argparse.Namespace, space: SearchSpace, listed: Sequence[Graph]
) -> Callable[[], Any]:
    from builder.search.searchers import SEARCHERS
    from builder.search.searchers.listed import Listed

    if listed:
        return lambda: Listed(listed)
    return lambda: SEARCHERS[options.searcher](space, options.seed)
