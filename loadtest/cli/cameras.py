"""``punctual study cameras``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loadtest.cli.options import add_repository, add_results, add_runtime
from loadtest.cli.progress import say_with_time
from serving.core.command_errors import files_of_the_user
from serving.core.command_numbers import count, positive

PARTS = ("simulated", "live")


def add_parser(studies: Any) -> None:
    """Add cameras to the subparsers ``studies``."""
    summary = "How old what each of many cameras knows is, with streams and without."
    parser: argparse.ArgumentParser = studies.add_parser(
        "cameras",
        help=summary,
        description=f"{summary} Cameras send frames at a fixed rate, in virtual time and to "
        "gateways that the study starts; the same frames go to a server that answers all of them "
        "at its most accurate operating point, in the order in which they come. Writes "
        "OUT/cameras-MODEL-DATE.md and .json. For live figures the machine should have nothing "
        "else to do.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_repository(parser)
    parser.add_argument("--model", default="everyday", help="the model's name")
    add_runtime(parser)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--loads",
        type=positive,
        nargs="+",
        default=[0.3, 1.0, 2.0, 3.0],
        help="frames a second, in multiples of what the most accurate operating point answers",
    )
    parser.add_argument("--rate", type=positive, default=5.0, help="frames a second of a camera")
    parser.add_argument("--budget-ms", type=positive, default=400.0, help="of each frame")
    parser.add_argument("--seconds", type=positive, default=10.0, help="of each run")
    parser.add_argument("--rounds", type=count, default=2, help="of the live runs")
    parser.add_argument("--seed", type=count, default=1, help="of the random numbers")
    parser.add_argument("--images", type=Path, nargs="+", default=[Path("docs/images/coffee.jpg")])
    add_results(parser)
    parser.set_defaults(run=_study)


@files_of_the_user()
def _study(options: argparse.Namespace) -> None:
    from loadtest.simulation.profiles import load_profile
    from loadtest.studies.cameras import live, simulation
    from loadtest.studies.cameras.report import Report, markdown, write
    from loadtest.workload.images import read_images
    from reporting.machine import machine
    from serving.artifacts.model_folders import find_model

    images = read_images(options.images)
    folder = find_model(options.model_repository, options.model)
    profile = load_profile(str(folder / "catalog.json"))
    plan = simulation.Plan(
        tuple(dict.fromkeys(options.loads)),
        options.rate,
        options.budget_ms / 1e3,
        options.seconds,
        options.seed,
    )
    simulated, measured = [], []
    if "simulated" in options.parts:
        say_with_time("simulating")
        simulated = list(simulation.run_all(profile, plan))
    if "live" in options.parts:
        settings = {
            "model_repository": options.model_repository,
            "model": options.model,
            "runtime": options.runtime,
        }
        with TemporaryDirectory(prefix="punctual-cameras-") as scratch:
            measured = list(
                live.run_all(
                    profile.ladder,
                    profile.best_point,
                    settings,
                    images,
                    plan,
                    options.rounds,
                    Path(scratch),
                    say_with_time,
                )
            )
    report = Report(
        machine(),
        time.strftime("%Y-%m-%d", time.gmtime()),
        options.model,
        {
            "frames a second of each camera:": f"{options.rate:g}",
            "budget": f"{options.budget_ms:g} ms",
            "seconds of a run:": f"{options.seconds:g}",
            "seed": options.seed,
        },
        tuple(simulated),
        tuple(measured),
    )
    path = write(report, options.out)
    print("\n".join(markdown(report)))
    say_with_time(f"wrote {path}")
