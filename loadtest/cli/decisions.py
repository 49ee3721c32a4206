"""``punctual study decisions``."""

from __future__ import annotations

import argparse
import time
from typing import Any

from serving.core.command_errors import files_of_the_user
from serving.core.command_numbers import count

DEFAULT_PROFILES = ("three-by-three", "sizes", "wide")


def add_parser(studies: Any) -> None:
    """Add decisions to the subparsers ``studies``."""
    summary = "The processor time that the policy takes to decide, with many waiting."
    parser: argparse.ArgumentParser = studies.add_parser(
        "decisions",
        help=summary,
        description=f"{summary} Prints a table in Markdown.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--profile", nargs="+", default=list(DEFAULT_PROFILES), help="of loadtest/profiles"
    )
    parser.add_argument("--waiting", type=count, default=64, help="how many requests wait")
    parser.add_argument("--rounds", type=count, default=15, help="of 100 decisions about each")
    parser.set_defaults(run=_study)


@files_of_the_user()
def _study(options: argparse.Namespace) -> None:
    from loadtest.simulation.profiles import load_profile
    from loadtest.studies.decisions.study import markdown, study

    profiles = [load_profile(name) for name in dict.fromkeys(options.profile)]
    print(markdown(study(profiles, options.waiting, options.rounds, time.process_time)), end="")
