"""``punctual study soak``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from loadtest.cli.drills import add_common, circumstances_now, drilling
from loadtest.cli.progress import say_with_time
from serving.core.command_errors import files_of_the_user
from serving.core.command_numbers import not_negative, positive


def add_parser(studies: Any) -> None:
    """Add soak to the subparsers ``studies``."""
    summary = "Serve for hours what clients send, good or not, and see that nothing grows."
    parser: argparse.ArgumentParser = studies.add_parser(
        "soak",
        help=summary,
        description=f"{summary} Requests of many kinds, some of whose clients leave, come at a "
        "share of what the gateway can do. Its memory, file descriptors, threads and tasks are "
        "sampled. Writes OUT/soak-DATE.json and .md, and with --control soak-control-DATE.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_common(parser)
    parser.add_argument("--model", help="its name [the default one]")
    parser.add_argument(
        "--share", type=positive, default=0.5, help="of the capacity, as a closed loop finds it"
    )
    parser.add_argument("--rate", type=positive, help="requests a second, instead of a share")
    parser.add_argument("--seconds", type=positive, default=7200.0, help="of load")
    parser.add_argument(
        "--warm-up", type=not_negative, default=600.0, help="seconds that trends leave out"
    )
    parser.add_argument("--every", type=positive, default=5.0, help="seconds between samples")
    parser.add_argument(
        "--control",
        action="store_true",
        help="let the gateway leak memory, descriptors and threads, which must be found",
    )
    parser.set_defaults(run=drilling(_soak))


@files_of_the_user()
def _soak(options: argparse.Namespace, scratch: Path) -> int:
    from loadtest.studies.soak.report import write
    from loadtest.studies.soak.study import SoakSettings, run
    from loadtest.workload.images import read_images

    settings = SoakSettings(
        model_repository=options.model_repository,
        model=options.model,
        runtime=options.runtime,
        images=read_images(options.images),
        share=options.share,
        rate_hz=options.rate,
        seconds=options.seconds,
        warm_up_s=options.warm_up,
        every_s=options.every,
        is_control=options.control,
        seed=options.seed,
    )
    known = circumstances_now(
        options.runtime,
        None,
        model=options.model or "the default one",
        **({"share": options.share} if options.rate is None else {"rate": options.rate}),
        seconds_between_samples=options.every,
        seed=options.seed,
    )
    report = run(settings, known, scratch, say_with_time)
    kind = "soak-control" if options.control else "soak"
    write(report, options.out / f"{kind}-{known.date}")
    print(report.markdown(), end="")
    return 0 if report.is_good else 1
