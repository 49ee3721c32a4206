"""``punctual study restart``, ``punctual study alerts`` and ``punctual study idle``."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from loadtest.cli.options import add_repository, add_results, add_runtime
from loadtest.cli.progress import say_with_time
from serving.core.command_errors import files_of_the_user
from serving.core.command_numbers import count, natural, not_negative, positive

if TYPE_CHECKING:
    from loadtest.studies.drills.report import Circumstances

IMAGES = Path("tests/data/bccd/JPEGImages")
MODES = ("http", "tcp")
"""Those of ``restart_drill``, repeated so that --help need not import it."""
PARTS = ("provoked", "healthy")


def add_parser(studies: Any) -> None:
    """Add restart, alerts and idle to the subparsers ``studies``."""
    _add_restart(studies)
    _add_alerts(studies)
    _add_idle(studies)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add what all drills are asked for: model repository, runtime, images, seed, results."""
    add_repository(parser)
    add_runtime(parser)
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        help=f"JPEG, PNG or WebP files [those in {IMAGES}]",
    )
    parser.add_argument("--seed", type=natural, default=0, help="of the requests")
    add_results(parser)


def drilling(
    drill: Callable[[argparse.Namespace, Path], int],
) -> Callable[[argparse.Namespace], int]:
    """Return ``drill`` with a folder for its servers' files."""

    def run(options: argparse.Namespace) -> int:
        options.images = options.images or sorted(IMAGES.glob("*.jpg"))
        with TemporaryDirectory(prefix="punctual-drill-") as scratch:
            return drill(options, Path(scratch))

    return run


def circumstances_now(runtime: str, program: str | None, **settings: object) -> Circumstances:
    """Return the circumstances of a drill that begins now; of ``program`` the version is told."""
    from loadtest.servers.prometheus import version_of
    from loadtest.studies.drills.report import Circumstances
    from reporting.machine import machine

    return Circumstances(
        machine=machine(),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        load_average=os.getloadavg()[0],
        versions={
            "punctual": version("punctual"),
            "Python": platform.python_version(),
            runtime: version(runtime),
            **({program: version_of(program)} if program else {}),
        },
        settings={name.replace("_", " "): value for name, value in settings.items()},
    )


# -- restart -------------------------------------------------------------------------------------


def _add_restart(studies: Any) -> None:
    summary = "Restart two gateways in turn behind a real proxy, under load."
    parser: argparse.ArgumentParser = studies.add_parser(
        "restart",
        help=summary,
        description=f"{summary} No request may fail. Needs haproxy (Debian's package). Writes "
        "OUT/restart-DATE.json and .md.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_common(parser)
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, default=list(MODES), help="what the proxy is one of"
    )
    parser.add_argument("--rate", type=positive, default=20.0, help="requests a second")
    parser.add_argument("--seconds", type=positive, default=60.0, help="of load, in each mode")
    parser.add_argument("--budgets", default="2000", help="in milliseconds")
    parser.add_argument(
        "--drain-delays",
        type=not_negative,
        nargs="+",
        default=[5.0],
        help="seconds for which a gateway that was told to end goes on serving",
    )
    parser.set_defaults(run=drilling(_restart))


@files_of_the_user()
def _restart(options: argparse.Namespace, scratch: Path) -> int:
    from loadtest.studies.drills import restart as restart_drill
    from loadtest.studies.drills.report import RestartReport, write
    from loadtest.workload.images import read_images

    images = read_images(options.images)
    report = RestartReport(
        circumstances_now(
            options.runtime,
            "haproxy",
            requests_a_second=options.rate,
            seconds=options.seconds,
            budgets=f"{options.budgets} ms",
            seed=options.seed,
        )
    )
    for delay_s in options.drain_delays:
        settings = restart_drill.RestartDrillSettings(
            model_repository=options.model_repository,
            runtime=options.runtime,
            images=images,
            rate_hz=options.rate,
            seconds=options.seconds,
            budgets=options.budgets,
            drain_delay_s=delay_s,
            seed=options.seed,
        )
        for mode in options.modes:
            folder = scratch / f"{mode}-{delay_s:g}"
            report.runs.append(restart_drill.run(mode, settings, folder, say_with_time))
    write(report, options.out / f"restart-{report.circumstances.date}")
    print(report.markdown(), end="")
    return 0 if all(run.num_failed == 0 for run in report.runs) else 1


# -- alerts --------------------------------------------------------------------------------------


def _add_alerts(studies: Any) -> None:
    summary = "Make every alert fire, and see none fire when all is well."
    parser: argparse.ArgumentParser = studies.add_parser(
        "alerts",
        help=summary,
        description=f"{summary} A real Prometheus (Debian's package) evaluates the rules of "
        "k8s/monitoring over a real gateway, with all durations divided by --speed. Writes "
        "OUT/alerts-DATE.json and .md.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_common(parser)
    parser.add_argument("--rules", type=Path, default=Path("k8s/monitoring/rules.yaml"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--speed", type=positive, default=60.0)
    parser.add_argument("--rate", type=positive, default=5.0, help="requests a second")
    parser.add_argument("--flood-rate", type=positive, default=300.0, help="of the flood")
    parser.add_argument("--budgets", default="250", help="in milliseconds")
    parser.add_argument("--baseline", type=positive, default=60.0, help="seconds before the first")
    parser.add_argument(
        "--patience", type=positive, default=120.0, help="seconds for an alert to fire or to end"
    )
    parser.add_argument("--healthy", type=positive, default=600.0, help="seconds of good health")
    parser.set_defaults(run=drilling(_alerts))


@files_of_the_user()
def _alerts(options: argparse.Namespace, scratch: Path) -> int:
    from loadtest.studies.drills import alerts as alert_drill
    from loadtest.studies.drills.report import AlertReport, write

    settings = alert_drill.AlertDrillSettings(
        model_repository=options.model_repository,
        runtime=options.runtime,
        rules=options.rules,
        images=tuple(options.images),
        speed=options.speed,
        rate_hz=options.rate,
        flood_hz=options.flood_rate,
        budgets=options.budgets,
        baseline_s=options.baseline,
        patience_s=options.patience,
        healthy_s=options.healthy,
        seed=options.seed,
    )
    report = AlertReport(
        circumstances_now(
            options.runtime,
            "prometheus",
            requests_a_second=options.rate,
            in_the_flood=options.flood_rate,
            budgets=f"{options.budgets} ms",
            seed=options.seed,
        ),
        options.speed,
    )
    alert_drill.run(settings, options.parts, report, scratch, say_with_time)
    write(report, options.out / f"alerts-{report.circumstances.date}")
    print(report.markdown(), end="")
    return 0 if report.is_good else 1


# -- an idle server ------------------------------------------------------------------------------


def _add_idle(studies: Any) -> None:
    summary = "Ask a server that has just started for what it says an idle one can do."
    parser: argparse.ArgumentParser = studies.add_parser(
        "idle",
        help=summary,
        description=f"{summary} Budgets just above the min_budget_ms of a refusal must be enough, "
        "and nobody may be told that the server has too much to do. On a smaller machine: taskset "
        "-c 0 punctual study idle. Writes OUT/idle-DATE.json and .md.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_common(parser)
    parser.add_argument("--rounds", type=count, default=3, help="each with a suggestion of its own")
    parser.add_argument("--requests", type=count, default=100, help="of each round and each budget")
    parser.add_argument(
        "--budget-ratio", type=positive, default=1.05, help="of budgets to what was suggested"
    )
    parser.add_argument("--budgets", type=count, default=9, help="how many, evenly spaced")
    parser.add_argument(
        "--neighbours", type=natural, default=0, help="processes that keep the machine busy"
    )
    parser.add_argument(
        "--pause", type=not_negative, default=0.02, help="seconds between requests, at most"
    )
    parser.set_defaults(run=drilling(_idle))


@files_of_the_user()
def _idle(options: argparse.Namespace, scratch: Path) -> int:
    from loadtest.studies.drills import idle as idle_drill
    from loadtest.studies.drills.report import IdleReport, write
    from loadtest.workload.images import read_images

    settings = idle_drill.IdleDrillSettings(
        model_repository=options.model_repository,
        runtime=options.runtime,
        images=read_images(options.images),
        num_rounds=options.rounds,
        num_requests=options.requests,
        budget_ratio=options.budget_ratio,
        num_budgets=options.budgets,
        num_neighbours=options.neighbours,
        pause_s=options.pause,
        seed=options.seed,
    )
    circumstances = circumstances_now(
        options.runtime,
        None,
        requests=options.requests,
        budget_ratio=options.budget_ratio,
        neighbours=options.neighbours,
        processors=len(os.sched_getaffinity(0)),
        seed=options.seed,
    )
    report = IdleReport(circumstances, *idle_drill.run(settings, scratch / "log", say_with_time))
    write(report, options.out / f"idle-{circumstances.date}")
    print(report.markdown(), end="")
    return 0 if report.is_good else 1
