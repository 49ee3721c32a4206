"""``punctual search latency`` and ``times``: what the stacks of graphs take."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.model import add_assignments
from builder.cli.options import (
    add_command,
    add_cpu_runtime,
    command_line,
    today,
)
from builder.cli.search.kinds import SPACE_NAMES, proxy_of, read_journals
from builder.config.named import CONFIGS
from serving.core.command_errors import CommandError, files_of_the_user
from serving.core.command_numbers import at_least

if TYPE_CHECKING:
    from builder.config.pyramid_graphs import Graph
    from builder.search.stack_rounds import StackRounds
    from serving.artifacts.serving_tools import ServingTools

ROUNDS_SUFFIX = ".rounds.json"
"""Suffix of the file, beside a latency table, of what it was fitted to."""


MAX_MEASURED, MAX_ROUNDS, MAX_INSTANCES = 1000, 100_000, 100
"""Bounds on graphs, on rounds (of which two tell how well they agree), and on compilations."""


def add_parsers(actions: Any, tools: ServingTools) -> None:
    """Add latency and times to the subparsers ``actions``."""
    parser = add_command(
        actions,
        "latency",
        "Measure what the stacks of some graphs take, and fit a latency table.",
        "Random graphs and the controls, on the runner that serves, in interleaved rounds. What "
        f"was measured is kept beside OUT, with the suffix {ROUNDS_SUFFIX}; OUT is written if the "
        "table foretells each graph from the others well enough.",
    )
    parser.add_argument("--graphs", type=at_least(4, MAX_MEASURED), default=24, help="random ones")
    _add_measuring(parser)
    parser.add_argument("--out", type=Path, required=True, help="the table, for --latency")
    parser.set_defaults(run=lambda options: _latency(options, tools))

    parser = add_command(
        actions,
        "times",
        "Measure what the stacks of the graphs in journals take.",
        "On the runner that serves, in interleaved rounds, each graph beside all others; also the "
        "published graph, by which deadlines go.",
    )
    parser.add_argument("journals", type=Path, nargs="+", metavar="JOURNAL")
    _add_measuring(parser)
    parser.add_argument("--out", type=Path, required=True, help="what was measured, for --times")
    parser.set_defaults(run=lambda options: _times(options, tools))


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--space", choices=SPACE_NAMES, default=SPACE_NAMES[0])
    parser.add_argument(
        "--config", choices=sorted(CONFIGS), help="the detector [a proxy for the space]"
    )
    add_assignments(parser)
    parser.add_argument("--rounds", type=at_least(2, MAX_ROUNDS), default=200)
    parser.add_argument(
        "--instances",
        type=at_least(1, MAX_INSTANCES),
        default=2,
        help="times that each graph is compiled: what they differ by, nothing can foretell",
    )
    add_cpu_runtime(parser)


@files_of_the_user()
def _latency(options: argparse.Namespace, tools: ServingTools) -> None:
    import numpy as np

    from builder.search.controls import controls
    from builder.search.latency_table import PoorFit, fit, quality
    from builder.search.space import SPACES
    from reporting.files import write_whole

    space = SPACES[options.space]
    random = np.random.default_rng(0)
    graphs = [space.decode(space.sample(random)) for _ in range(options.graphs)]
    graphs += controls(space.levels).values()
    rounds = _measured(options, tools, graphs)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.out.with_suffix(ROUNDS_SUFFIX), rounds.to_json())
    stacks = rounds.stacks()
    found = quality(stacks)
    says = f"{found}; measured twice, graphs agree with one of {rounds.repeats_with():.2f}"
    print(f"{options.runtime}, {rounds.made_of['machine']}, {today()}: {says}")
    if not found.is_good:
        raise PoorFit(f"{found}: not well enough. Is the machine quiet? More --rounds may help")
    made_of = {
        **rounds.made_of,
        "graphs": found.num_graphs,
        "error": round(found.error, 4),
        "kendall": round(found.kendall, 4),
        "kendall_of_repeats": round(rounds.repeats_with(), 4),
    }
    write_whole(options.out, json.dumps(fit(stacks, "ms", made_of).to_dict(), indent=1) + "\n")


@files_of_the_user()
def _times(options: argparse.Namespace, tools: ServingTools) -> None:
    from builder.search.canonical import canonical_key
    from builder.search.controls import reference
    from builder.search.report import groups
    from builder.search.space import SPACES
    from reporting.files import write_whole

    space = SPACES[options.space]
    found = groups(read_journals(options.journals, space).children)
    if not found:
        raise CommandError("there is no child in the journals that was evaluated")
    graphs = {group.key: group.graph for group in found}
    published = reference(space.levels)
    graphs.setdefault(canonical_key(published), published)
    rounds = _measured(options, tools, list(graphs.values()))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.out, rounds.to_json())
    print("| graph | stack, ms |")
    print("|---|---|")
    for key, stack in zip(graphs, rounds.stacks(), strict=True):
        print(f"| `{key}` | {stack.stack:.3f} |")
    print(f"\nmeasured twice, graphs agree with a Kendall's tau of {rounds.repeats_with():.2f}")


def _measured(
    options: argparse.Namespace, tools: ServingTools, graphs: Sequence[Graph]
) -> StackRounds:
    import time
    from tempfile import TemporaryDirectory

    from builder.search.space import SPACES
    from builder.search.stack_latency import measure_stacks
    from reporting.machine import machine

    config = proxy_of(options, SPACES[options.space]).detector
    made_of = {
        "command": command_line(),
        "config": config.name,
        "runtime": options.runtime,
        "machine": machine(),
        "date": today(),
    }
    with TemporaryDirectory() as folder:
        return measure_stacks(
            config,
            graphs,
            tools,
            Path(folder),
            runtime=options.runtime,
            threads=options.threads,
            instances=options.instances,
            rounds=options.rounds,
            clock=time.perf_counter,
            made_of=made_of,
        )
