"""``punctual study shares``."""

from __future__ import annotations

import argparse
from typing import Any

from serving.core.command_errors import files_of_the_user
from serving.core.command_numbers import count, positive

DEFAULT_PROFILES = ("bccd", "cpu-lite", "sizes")


def add_parser(studies: Any) -> None:
    """Add shares to the subparsers ``studies``."""
    summary = "One request a second beside floods of several kinds, in virtual time."
    parser: argparse.ArgumentParser = studies.add_parser(
        "shares",
        help=summary,
        description=f"{summary} Engine time is shared between the two senders, or not. Prints a "
        "table in Markdown.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--profile", nargs="+", default=list(DEFAULT_PROFILES), help="of loadtest/profiles"
    )
    parser.add_argument("--seconds", type=positive, default=120.0, help="of arrivals in each run")
    parser.add_argument("--seed", type=count, default=1, help="of the random numbers")
    parser.set_defaults(run=_study)


@files_of_the_user()
def _study(options: argparse.Namespace) -> None:
    from loadtest.simulation.profiles import load_profile
    from loadtest.simulation.shares import ATTACKS, attack, markdown

    results = [
        attack(profile, how, options.seconds, options.seed)
        for profile in map(load_profile, dict.fromkeys(options.profile))
        for how in ATTACKS
    ]
    print("\n".join(markdown(results)))
