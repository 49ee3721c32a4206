"""``punctual study ladders``."""

from __future__ import annotations

import argparse
import os
from datetime import date
from typing import Any

from loadtest.cli.options import add_results
from loadtest.cli.progress import say
from serving.core.command_errors import files_of_the_user
from serving.core.command_numbers import count, positive

DEFAULT_PROFILES = (
    *("wide", "gpu-like", "sizes", "sizes-batching", "three-by-three"),
    *("steep", "flat", "few", "many"),
)
DEFAULT_ARRIVALS = ("poisson", "gamma:4")
DEFAULT_LOADS = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 1.2)


def add_parser(studies: Any) -> None:
    """Add ladders to the subparsers ``studies``."""
    summary = "The policy on many ladders of operating points, in virtual time."
    parser: argparse.ArgumentParser = studies.add_parser(
        "ladders",
        help=summary,
        description=f"{summary} Beside it are the best fixed operating point in hindsight and what "
        "no schedule can exceed. Writes OUT/ladders-DATE.json, .md and .html.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--profile",
        nargs="+",
        default=list(DEFAULT_PROFILES),
        help="of loadtest/profiles",
    )
    parser.add_argument(
        "--arrivals", nargs="+", default=list(DEFAULT_ARRIVALS), help="as of punctual simulate"
    )
    parser.add_argument(
        "--load",
        type=positive,
        nargs="+",
        default=list(DEFAULT_LOADS),
        help="shares of the capacity at the quickest operating point",
    )
    parser.add_argument(
        "--budgets",
        default="1.2x,2x,4x",
        help="multiples of the time of the most accurate point, or milliseconds",
    )
    parser.add_argument("--jitter", type=positive, default=0.03, help="of run times, as a share")
    parser.add_argument("--requests", type=count, default=2000, help="of a run, on average")
    parser.add_argument("--seeds", type=count, default=5, help="how many runs of each")
    parser.add_argument(
        "--jobs", type=count, default=len(os.sched_getaffinity(0)), help="processes"
    )
    add_results(parser)
    parser.set_defaults(run=_study)


@files_of_the_user()
def _study(options: argparse.Namespace) -> None:
    from loadtest.simulation.study import Conditions
    from loadtest.studies.ladders import study as ladder_study
    from reporting.machine import machine

    settings = ladder_study.LadderStudySettings(
        profiles=tuple(dict.fromkeys(options.profile)),
        arrivals=tuple(dict.fromkeys(options.arrivals)),
        loads=tuple(dict.fromkeys(options.load)),
        conditions=Conditions(options.budgets, options.requests, jitter=options.jitter),
        seeds=options.seeds,
        jobs=options.jobs,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    report = ladder_study.study(settings, date.today().isoformat(), machine(), say)
    paths = ladder_study.write(report, options.out)
    print(ladder_study.markdown(report), end="")
    say("wrote " + ", ".join(map(str, paths)))
