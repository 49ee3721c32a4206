"""``punctual study autoscaling``."""

from __future__ import annotations

import argparse
import sys
from datetime import date
from typing import Any

from loadtest.cli.options import add_results
from loadtest.cli.progress import say
from serving.core.command_errors import files_of_the_user
from serving.core.command_numbers import count, positive

DEFAULT_DEMANDS = (0.2, 0.4, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0)


def add_parser(studies: Any) -> None:
    """Add autoscaling to the subparsers ``studies``."""
    summary = "Which signal tells that a fleet is too small, in virtual time."
    parser: argparse.ArgumentParser = studies.add_parser(
        "autoscaling",
        help=summary,
        description=f"{summary} Signals of a fleet of fixed size by load, and a flood on fleets "
        "that are scaled by one signal or another. Writes OUT/autoscaling-DATE.json, .md and .png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--profile",
        nargs="+",
        default=["cpu-lite", "gpu-like"],
        help="of loadtest/profiles, or files; the flood is on the first",
    )
    parser.add_argument(
        "--budget", type=positive, default=3.0, help="of every request, in full-depth times"
    )
    parser.add_argument(
        "--target", type=positive, default=0.7, help="full-depth demand that a server is to have"
    )
    parser.add_argument("--demand", type=positive, nargs="+", default=list(DEFAULT_DEMANDS))
    parser.add_argument("--servers", type=count, default=2, help="that the flood meets")
    parser.add_argument(
        "--flood",
        type=positive,
        nargs=3,
        default=[180.0, 300.0, 3.0],
        metavar=("START_S", "LENGTH_S", "FACTOR"),
    )
    parser.add_argument("--duration", type=positive, default=720.0, help="of a run, in seconds")
    parser.add_argument("--seeds", type=count, default=3)
    add_results(parser)
    parser.set_defaults(run=_study)


BASE_DEMAND = 0.5
"""Of each server before the flood: what a fleet is sized for, with room."""


@files_of_the_user()
def _study(options: argparse.Namespace) -> None:
    import matplotlib  # noqa: F401  so that it is missed before the study, not after

    from loadtest.simulation.autoscaling import Flood
    from loadtest.studies.autoscaling import study as autoscaling_study
    from reporting.machine import machine

    start_s, length_s, factor = options.flood
    settings = autoscaling_study.AutoscalingStudySettings(
        profiles=tuple(options.profile),
        budget=options.budget,
        target=options.target,
        demands=tuple(options.demand),
        servers=options.servers,
        flood=Flood(BASE_DEMAND * options.servers, options.duration, start_s, length_s, factor),
        seeds=options.seeds,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    today = date.today().isoformat()
    report = autoscaling_study.study(settings, today, machine(), say)
    paths = autoscaling_study.write(report, options.out)
    print(autoscaling_study.markdown(report), end="")
    print("wrote " + ", ".join(map(str, paths)), file=sys.stderr)
