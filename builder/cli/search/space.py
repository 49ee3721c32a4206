"""``punctual search space``: the spaces, and where a graph is in them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from builder.cli.options import add_command
from serving.core.command_errors import InvalidArgument, error_text, files_of_the_user


def add_parser(actions: Any) -> None:
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

    graph = None
    if options.neck:
        try:
            graph = read_graph(options.neck)
        except (InvalidGraph, OSError) as error:
            raise InvalidArgument(f"--neck: {error_text(error)}") from error
    print("| space | levels | cells | decisions | encodings |")
    print("|---|---|---|---|---|")
    for space in SPACES.values():
        levels = f"P{space.levels[0]} to P{space.levels[-1]}"
        print(
            f"| {space.name} | {levels} | {space.num_cells} | {len(space.decisions)} | "
            f"{space.size:,} |"
        )
    if graph:
        print(f"\nkey {canonical_key(graph)}")
        for space in SPACES.values():
            try:
                print(f"in {space.name}: {space.to_text(space.encode(graph))}")
            except NotInSpace as error:
                print(f"not in {space.name}: {error}")
