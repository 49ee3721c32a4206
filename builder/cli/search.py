"""``punctual search``: look for a better pyramid."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.model import add_assignments, configured
from builder.cli.options import RUNTIMES, add_command, add_threads, today
from builder.config.configuration import Config
from builder.config.detector import DetectorConfig
from builder.config.named import CONFIGS
from serving.core.command_errors import (
    CommandError,
    CommandStopped,
    InvalidArgument,
    files_of_the_user,
)
from serving.core.command_numbers import at_least

if TYPE_CHECKING:
    from builder.config.pyramid_graphs import Graph
    from builder.search.evaluators.base import Evaluator
    from builder.search.latency_table import LatencyTable
    from builder.search.pool import Pool
    from builder.search.space import SearchSpace
    from serving.artifacts.serving_tools import ServingTools

    OpenPool = Callable[[Evaluator, int], Pool]

SPACE_NAMES = ("nas-fpn", "lite", "lite-15", "micro")
SEARCHER_NAMES = (
    "random",
    "evolution",
    "screened-evolution",
    "controller-paper",
    "controller-small",
    "exhaustive",
)
REWARD_NAMES = ("ap", "anytime", "in-time")
POOL_NAMES = ("processes", "ray")
"""Names of what ``builder.search`` has, which --help need not import."""
KNOWN = ("analytic", "table")
EVALUATOR_NAMES = ("train", *KNOWN, "surrogate")
CONTROLS, FINALISTS, SIGNAL = "controls", "finalists", "signal"
LISTS = (CONTROLS, FINALISTS, SIGNAL)

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

NUM_SEEDS = 3
"""Number of seeds that controls and finalists are evaluated with."""
FINALISTS_SEED = 100
"""First seed of finalists: those that made them finalists were their luck."""


def add_parser(commands: Any, tools: ServingTools) -> None:
    """Add search to the subparsers ``commands``."""
    parser = commands.add_parser(
        "search",
        help="Look for a better pyramid.",
        description="Look for a pyramid of the neck that is worth more than those that are known: "
        "propose graphs, train a small detector with each, and learn from what comes of it.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_run(actions)
    _add_report(actions)
    _add_benchmark(actions)
    _add_latency(actions, tools)
    _add_space(actions)


def _add_kind(parser: argparse.ArgumentParser, evaluators: tuple[str, ...]) -> None:
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
        "--latency",
        type=Path,
        metavar="FILE",
        help="the latency table to go by [multiply-accumulates of --config; of journals, theirs]",
    )


# -- run -----------------------------------------------------------------------------------------


def _add_run(actions: Any) -> None:
    parser = add_command(
        actions,
        "run",
        "Search.",
        "Writes a line to OUT/journal.jsonl for each child. The same command goes on with what is "
        "there: after it was stopped, or with more --children. The same seed gives the same "
        "journal, whatever the workers.",
    )
    _add_kind(parser, EVALUATOR_NAMES)
    parser.add_argument(
        "--searcher",
        choices=(*SEARCHER_NAMES, *LISTS),
        default="evolution",
        help="controls are hand-made and published graphs, finalists the best of the journals in "
        f"--of, and signal is --graphs random ones, all with {NUM_SEEDS} seeds",
    )
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
    parser.add_argument(
        "--times-of",
        choices=sorted(CONFIGS),
        metavar="CONFIG",
        help="the detector that graphs are searched for, whose multiply-accumulates are the times "
        "[of bccd_frozen, bccd, and of others in kind; else what children train]",
    )
    parser.add_argument("--data", type=Path, help="folder of the data set [data/DATASET]")
    parser.add_argument(
        "--children", type=at_least(1), help="to search for in all [100; of lists, all]"
    )
    parser.add_argument(
        "--workers", type=at_least(1), default=1, help="children that are evaluated at a time"
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
    parser.add_argument("--seed", type=int, default=0, help="of the searcher")
    parser.add_argument(
        "--training-seed",
        type=at_least(0),
        help="the first that a graph is trained with; its repeats have the next "
        f"[0; of finalists {FINALISTS_SEED}]",
    )
    parser.add_argument(
        "--of", type=Path, nargs="+", default=[], metavar="FILE", help="journals of the finalists"
    )
    parser.add_argument("--top", type=at_least(1), default=10, help="finalists")
    parser.add_argument("--graphs", type=at_least(2), default=24, help="random ones of signal")
    parser.add_argument(
        "--min-kendall",
        type=float,
        default=0.5,
        help="how well a surrogate has to foretell the order of graphs that it has not seen",
    )
    parser.add_argument("--out", type=Path, required=True, help="where the journal goes")
    parser.set_defaults(run=_run)


@files_of_the_user()
def _run(options: argparse.Namespace) -> None:
    from builder.search.journal import JOURNAL
    from builder.search.rewards import REWARDS
    from builder.search.run import MAX_SEEDS, Search, run
    from builder.search.space import SPACES

    if options.ray_address and options.pool != "ray":
        raise CommandError("--ray-address needs --pool ray")
    pool = POOLS[options.pool](options)
    if (options.searcher == FINALISTS) != bool(options.of):
        raise CommandError("--searcher finalists needs --of, and no other does")
    space = SPACES[options.space]
    listed = _listed(options, space)
    evaluator, table = _evaluator(options, space)
    first_seed = FINALISTS_SEED if options.searcher == FINALISTS else 0
    search = Search(
        space=options.space,
        searcher=options.searcher,
        seed=options.seed,
        create=_creator(options, space, listed),
        evaluator=evaluator,
        reward=REWARDS[options.reward](table, _reference(space), evaluator.num_exits),
        table=table,
        first_training_seed=first_seed if options.training_seed is None else options.training_seed,
        max_seeds=NUM_SEEDS if listed else MAX_SEEDS,
    )
    num_children = options.children or (NUM_SEEDS * len(listed) if listed else 100)
    try:
        children = run(search, options.out, num_children, options.workers, pool)
    except KeyboardInterrupt as stopped:
        raise CommandStopped("stopped; the same command goes on") from stopped
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


def _listed(options: argparse.Namespace, space: SearchSpace) -> list[Graph]:
    """Return the graphs of a searcher that is a list, or none."""
    from builder.search.controls import controls
    from builder.search.journal import read_journal
    from builder.search.report import ranked
    from builder.search.searchers.listed import random_graphs

    if options.searcher == CONTROLS:
        return list(controls(space.levels).values())
    if options.searcher == FINALISTS:
        children = [child for path in options.of for child in read_journal(path).children]
        return [group.graph for group in ranked(children)[: options.top]]
    if options.searcher == SIGNAL:
        return random_graphs(space, options.seed, options.graphs)
    return []


def _creator(
    options: argparse.Namespace, space: SearchSpace, listed: list[Graph]
) -> Callable[[], Any]:
    from builder.search.searchers import SEARCHERS
    from builder.search.searchers.listed import Listed

    if listed:
        return lambda: Listed(listed)
    return lambda: SEARCHERS[options.searcher](space, options.seed)


def _reference(space: SearchSpace) -> Graph:
    from builder.search.controls import reference

    return reference(space.levels)


def _evaluator(options: argparse.Namespace, space: SearchSpace) -> tuple[Evaluator, LatencyTable]:
    """Return what evaluates children, and the table of their times."""
    from builder.search.evaluators.analytic import AnalyticEvaluator
    from builder.search.evaluators.surrogate import SurrogateEvaluator
    from builder.search.evaluators.tabular import TabularEvaluator
    from builder.search.journal import read_journal
    from builder.search.latency_table import LatencyTable, made_up

    if (options.evaluator in ("table", "surrogate")) != bool(options.journal):
        raise CommandError("the evaluators table and surrogate need --journal, and no other does")
    given = LatencyTable.read(options.latency) if options.latency else None
    if options.evaluator == "analytic":
        return AnalyticEvaluator(), given or made_up()
    if options.evaluator == "train":
        return _training(options, space, given)
    table = given or LatencyTable(**read_journal(options.journal[0]).search["latency"])
    if options.evaluator == "table":
        return TabularEvaluator.read(options.journal), table
    return SurrogateEvaluator.read(options.journal, options.min_kendall), table


def _training(
    options: argparse.Namespace, space: SearchSpace, given: LatencyTable | None
) -> tuple[Evaluator, LatencyTable]:
    from builder.search.evaluators.training import (
        TrainingEvaluator,
        backbone_digest,
        held_out_digest,
    )
    from builder.search.latency_table import counted

    config = _proxy(options, space)
    if config.train.validation_split is None:
        raise CommandError(
            f"{config.detector.name} measures on no images: --set 'train.validation_split=\"val\"'"
        )
    if config.train.backbone_learning_rate_ratio == 0 and options.backbone is None:
        raise CommandError(
            f"the backbone of {config.detector.name} learns nothing, so it needs to have learnt "
            "before: --backbone"
        )
    data = options.data or Path("data") / config.train.dataset
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


def _proxy(options: argparse.Namespace, space: SearchSpace) -> Config:
    """Return what children are, with the pyramid that deadlines go by."""
    from builder.search.evaluators.training import NECK

    proxies = FROZEN_PROXIES if getattr(options, "backbone", None) else PROXIES
    name = options.config or proxies[options.space]
    config = configured(name, None, options.assignments)
    try:
        rows = _reference(space).rows
        return Config(replace(config.detector, neck=NECK, graph=rows), config.train)
    except ValueError as error:  # an input size for other levels
        raise InvalidArgument(f"{name} cannot have the levels of {space.name}: {error}") from error


# -- report --------------------------------------------------------------------------------------


def _add_report(actions: Any) -> None:
    parser = add_command(
        actions,
        "report",
        "Show what searches found.",
        "Writes OUT/report.html, OUT/report.md and the best graph as OUT/best.json, for --neck.",
    )
    parser.add_argument("journals", type=Path, nargs="+", metavar="JOURNAL")
    parser.add_argument("--controls", type=Path, help="journal of --searcher controls")
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(run=_report)


@files_of_the_user()
def _report(options: argparse.Namespace) -> None:
    from builder.config.pyramid_graphs import graph_json
    from builder.search.journal import read_journal
    from builder.search.report import as_html, as_markdown, best_group, summarise
    from reporting.files import write_whole

    searches = [read_journal(path) for path in options.journals]
    names = [path.parent.name or path.stem for path in options.journals]
    against = read_journal(options.controls) if options.controls else None
    report = summarise(names, searches, against)
    options.out.mkdir(parents=True, exist_ok=True)
    write_whole(options.out / "report.html", as_html(report))
    write_whole(options.out / "report.md", as_markdown(report))
    write_whole(options.out / "best.json", graph_json(best_group(report).graph))
    print(as_markdown(report), end="")


# -- benchmark -----------------------------------------------------------------------------------


def _add_benchmark(actions: Any) -> None:
    parser = add_command(
        actions,
        "benchmark",
        "Compare searchers where the truth is known.",
        "Searches with each searcher and each seed, and prints by how much what it would choose is "
        "worse than the best there is. Writes OUT.json and OUT.md.",
    )
    _add_kind(parser, KNOWN)
    parser.add_argument(
        "--searchers",
        nargs="+",
        choices=SEARCHER_NAMES,
        default=["random", "evolution", "controller-small", "controller-paper"],
        help="the first is what the others are compared with",
    )
    parser.add_argument("--seeds", type=at_least(1), default=100, help="how many")
    parser.add_argument(
        "--budgets", type=at_least(1), nargs="+", default=[50, 100, 200, 400], help="children"
    )
    parser.add_argument("--out", type=Path, help="where figures go, without a suffix")
    parser.set_defaults(run=_benchmark)


@files_of_the_user()
def _benchmark(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from builder.search.benchmark import as_markdown, optimum, summary, try_searcher
    from builder.search.rewards import REWARDS
    from builder.search.space import SPACES
    from reporting.files import write_whole
    from reporting.machine import machine

    space = SPACES[options.space]
    evaluator: Any
    evaluator, table = _evaluator(options, space)
    reward = REWARDS[options.reward](table, _reference(space), evaluator.num_exits)
    budgets = sorted(set(options.budgets))
    plan = [(name, seed) for name in options.searchers for seed in range(options.seeds)]
    trials = [
        try_searcher(space, name, seed, evaluator, reward, table, budgets)
        for name, seed in tqdm(plan, unit="search")
    ]
    best, known = optimum(space, evaluator, reward, table, trials)
    head = {
        "command": "punctual " + shlex.join(sys.argv[1:]),
        "space": options.space,
        "evaluator": options.evaluator,
        "reward": options.reward,
        "machine": machine(),
        "date": today(),
        "optimum_is": known,
    }
    report = summary(trials, budgets, best, head)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(options.out.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
        write_whole(options.out.with_suffix(".md"), as_markdown(report))
    print(as_markdown(report), end="")


# -- latency -------------------------------------------------------------------------------------


def _add_latency(actions: Any, tools: ServingTools) -> None:
    parser = add_command(
        actions,
        "latency",
        "Measure what the stacks of some graphs take, and fit a latency table.",
        "Random graphs and the controls, on the runner that serves, in interleaved rounds. OUT is "
        "written if the table foretells each graph from the others well enough.",
    )
    parser.add_argument("--space", choices=SPACE_NAMES, default=SPACE_NAMES[0])
    parser.add_argument(
        "--config", choices=sorted(CONFIGS), help="the detector [a proxy for the space]"
    )
    add_assignments(parser)
    parser.add_argument("--graphs", type=at_least(4), default=24, help="random ones")
    parser.add_argument("--rounds", type=at_least(1), default=200)
    parser.add_argument("--runtime", choices=RUNTIMES[:2], default=RUNTIMES[0])
    add_threads(parser)
    parser.add_argument("--out", type=Path, required=True, help="the table, for --latency")
    parser.set_defaults(run=lambda options: _latency(options, tools))


@files_of_the_user()
def _latency(options: argparse.Namespace, tools: ServingTools) -> None:
    import time
    from tempfile import TemporaryDirectory

    import numpy as np

    from builder.search.controls import controls
    from builder.search.latency_table import PoorFit, fit, quality
    from builder.search.space import SPACES
    from builder.search.stack_latency import measure_stacks
    from reporting.files import write_whole
    from reporting.machine import machine

    space = SPACES[options.space]
    config = _proxy(options, space).detector
    random = np.random.default_rng(0)
    graphs = [space.decode(space.sample(random)) for _ in range(options.graphs)]
    graphs += controls(space.levels).values()
    with TemporaryDirectory() as folder:
        measured = measure_stacks(
            config,
            graphs,
            tools,
            Path(folder),
            runtime=options.runtime,
            threads=options.threads,
            rounds=options.rounds,
            clock=time.perf_counter,
        )
    found = quality(measured)
    print(f"{options.runtime}, {machine()}, {today()}: {found}")
    if not found.is_good:
        raise PoorFit(f"{found}: not well enough. Is the machine quiet? More --rounds may help")
    made_of = {
        "command": "punctual " + shlex.join(sys.argv[1:]),
        "config": config.name,
        "runtime": options.runtime,
        "machine": machine(),
        "date": today(),
        "graphs": found.num_graphs,
        "error": round(found.error, 4),
        "kendall": round(found.kendall, 4),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    table = fit(measured, "ms", made_of)
    write_whole(options.out, json.dumps(table.to_dict(), indent=1) + "\n")


# -- space ---------------------------------------------------------------------------------------


def _add_space(actions: Any) -> None:
    parser = add_command(
        actions,
        "space",
        "Show the spaces and their sizes.",
        "With --neck, also the encoding and the key of a graph in each that has it.",
    )
    parser.add_argument("--neck", type=Path, metavar="GRAPH.json", help="a pyramid's table")
    parser.set_defaults(run=_space)


@files_of_the_user()
def _space(options: argparse.Namespace) -> None:
    from builder.config.pyramid_graphs import InvalidGraph, read_graph
    from builder.search.canonical import canonical_key
    from builder.search.space import SPACES, NotInSpace

    print("| space | levels | cells | decisions | encodings |")
    print("|---|---|---|---|---|")
    for space in SPACES.values():
        levels = f"P{space.levels[0]} to P{space.levels[-1]}"
        print(
            f"| {space.name} | {levels} | {space.num_cells} | {len(space.decisions)} | "
            f"{space.size:,} |"
        )
    if options.neck:
        try:
            graph = read_graph(options.neck)
        except (InvalidGraph, OSError) as error:
            raise InvalidArgument(f"--neck: {error}") from error
        print(f"\nkey {canonical_key(graph)}")
        for space in SPACES.values():
            try:
                print(f"in {space.name}: {space.to_text(space.encode(graph))}")
            except NotInSpace as error:
                print(f"not in {space.name}: {error}")
