"""``punctual simulate``: policies compared in virtual time."""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.core.command_errors import InvalidArgument, files_of_the_user
from serving.core.command_numbers import count, not_negative

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.simulation.report import SimulationReport
    from loadtest.simulation.simulator import Outliers, Slowdown, SlowPeriods, Stalls
    from loadtest.simulation.study import Conditions, Point

DEFAULT_PROFILES = ("cpu-lite",)
DEFAULT_ARRIVALS = ("poisson",)
DEFAULT_LOADS = (0.3, 0.6, 0.9, 1.2)
BALANCERS = ("round-robin", "least-request", "power-of-two")
"""Names of ``fleet.BALANCERS``, repeated so that --help need not import it."""


def add_parser(commands: Any) -> None:
    """Add the command ``simulate`` to the subparsers ``commands``."""
    summary = "Compare policies in virtual time, under any load."
    parser: argparse.ArgumentParser = commands.add_parser(
        "simulate",
        help=summary,
        description=f"{summary} Drives the policies and the latency model that serve by discrete "
        "events; every policy sees the same arrivals, budgets and run times. Prints tables, and "
        "with --out writes simulation.json, simulation.md and plots.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    several: dict[str, Any] = {"action": "append", "metavar": "NAME"}
    parser.add_argument(
        "--policy",
        dest="policies",
        **several,
        help="may be repeated; 'list' says which, and fixed:POINT is one at an operating point "
        "such as 300x300/1 [all]",
    )
    parser.add_argument(
        "--arrivals",
        action="append",
        metavar="PROCESS",
        help="poisson, constant, gamma:CV2, ramp:FROM:TO, onoff:ON_S:OFF_S[:LOW], "
        "burst:START_S:LENGTH_S:FACTOR or trace:FILE; may be repeated [poisson]",
    )
    parser.add_argument(
        "--load",
        type=float,
        nargs="+",
        dest="loads",
        help="shares of the capacity at the quickest operating point [0.3 0.6 0.9 1.2]",
    )
    parser.add_argument(
        "--rate", type=float, metavar="HZ", help="requests per second of all executors, for --load"
    )
    parser.add_argument("--requests", type=count, default=5000, help="of a run, on average")
    parser.add_argument(
        "--duration", type=float, metavar="S", help="of a run's arrivals, in place of --requests"
    )
    parser.add_argument(
        "--budgets",
        default="1.2x,2x,4x",
        help="multiples of the time of the most accurate point or milliseconds, with @WEIGHT if "
        "not equally often; uniform:LOW:HIGH; lognormal:MEDIAN:SIGMA",
    )
    parser.add_argument("--seeds", type=count, default=5, help="how many runs of each")
    parser.add_argument(
        "--profile",
        dest="profiles",
        **several,
        help="of loadtest/profiles, or such a file, or a catalog.json; may be repeated [cpu-lite]",
    )
    parser.add_argument(
        "--jitter", type=not_negative, default=0.03, help="of run times, as a share"
    )
    parser.add_argument(
        "--slowdown",
        dest="slowdowns",
        action="append",
        type=_slowdown,
        default=[],
        metavar="START:LENGTH:FACTOR",
        help="a period, in seconds, in which runs take FACTOR times as long; may be repeated",
    )
    parser.add_argument(
        "--stall",
        type=_stalls,
        metavar="EVERY:LENGTH",
        help="the machine stands still for LENGTH seconds, every EVERY seconds on average",
    )
    parser.add_argument(
        "--slow-periods",
        type=_slow_periods,
        metavar="EVERY:LENGTH:FACTOR",
        help="runs take FACTOR times as long for LENGTH seconds, every EVERY seconds, on average",
    )
    parser.add_argument(
        "--outliers",
        type=_outliers,
        metavar="PROBABILITY:FACTOR",
        help="of all runs this share, at random, takes FACTOR times as long",
    )
    parser.add_argument("--executors", type=count, default=1, help="up to 1000")
    parser.add_argument("--balancer", choices=BALANCERS, default=BALANCERS[0])
    parser.add_argument(
        "--no-oracle", action="store_true", help="without the bound on what any schedule can do"
    )
    parser.add_argument(
        "--jobs", type=count, default=len(os.sched_getaffinity(0)), help="processes"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for results and plots")
    parser.add_argument(
        "--decision-log",
        type=Path,
        metavar="FILE",
        help="why each decision was taken; of one policy at one point, with seed 0",
    )
    parser.set_defaults(run=_simulate)


def _numbers(text: str, form: str) -> list[float]:
    """Return as many numbers as ``form`` has names, finite and not negative."""
    try:
        numbers = [not_negative(part) for part in text.split(":")]
    except argparse.ArgumentTypeError:
        numbers = []
    if len(numbers) != len(form.split(":")):
        raise argparse.ArgumentTypeError(f"{text!r} is not {form} in numbers")
    return numbers


def _slowdown(text: str) -> Slowdown:
    from loadtest.simulation.simulator import Slowdown

    start_s, length_s, factor = _numbers(text, "START:LENGTH:FACTOR")
    if factor < 1:
        raise argparse.ArgumentTypeError("a slowdown's factor must not be below 1")
    return Slowdown(start_s, length_s, factor)


def _slow_periods(text: str) -> SlowPeriods:
    from loadtest.simulation.simulator import SlowPeriods

    every_s, length_s, factor = _numbers(text, "EVERY:LENGTH:FACTOR")
    if not (every_s > 0 and length_s > 0 and factor >= 1):
        raise argparse.ArgumentTypeError(
            "slow periods need times above 0, and a factor that is not below 1"
        )
    return SlowPeriods(every_s, length_s, factor)


def _outliers(text: str) -> Outliers:
    from loadtest.simulation.simulator import Outliers

    probability, factor = _numbers(text, "PROBABILITY:FACTOR")
    if probability > 1 or factor < 1:
        raise argparse.ArgumentTypeError("a probability is at most 1, and a factor at least 1")
    return Outliers(probability, factor)


def _stalls(text: str) -> Stalls:
    from loadtest.simulation.simulator import Stalls

    every_s, length_s = _numbers(text, "EVERY:LENGTH")
    if every_s <= length_s:
        raise argparse.ArgumentTypeError("stalls must be further apart than they are long")
    return Stalls(every_s, length_s)


@files_of_the_user()
def _simulate(options: argparse.Namespace) -> None:
    from loadtest.policies.named import POLICIES, parse_policy
    from loadtest.simulation.study import HINDSIGHT
    from loadtest.simulation.tables import markdown

    known = (*POLICIES, HINDSIGHT)
    if options.policies == ["list"]:
        print("\n".join(known))
        return
    policies = list(dict.fromkeys(options.policies or known))
    for policy in policies:
        if policy != HINDSIGHT:
            parse_policy(policy)
    conditions = _conditions(options)
    points = _points(options, conditions)
    if options.decision_log is not None:
        _log_decisions(options.decision_log, points, policies, conditions)
        return
    if options.out is not None:
        import matplotlib  # noqa: F401  so that it is missed before the study, not after

        options.out.mkdir(parents=True, exist_ok=True)
    report = _study(options, points, policies, conditions)
    text = _head(report) + markdown(report)
    print(text, end="")
    if options.out is not None:
        _write(report, text, options.out)


def _conditions(options: argparse.Namespace) -> Conditions:
    from loadtest.simulation.fleet import MAX_SERVERS
    from loadtest.simulation.study import Conditions
    from loadtest.workload.budgets import parse_budgets

    parse_budgets(options.budgets)
    if options.executors > MAX_SERVERS:
        raise InvalidArgument(f"--executors: at most {MAX_SERVERS:,}, not {options.executors:,}")
    if options.duration is not None and not 0 < options.duration < float("inf"):
        raise InvalidArgument(f"--duration must be positive and finite, not {options.duration}")
    return Conditions(
        budgets=options.budgets,
        num_requests=options.requests,
        duration_s=options.duration,
        executors=options.executors,
        balancer=options.balancer,
        jitter=options.jitter,
        slowdowns=tuple(options.slowdowns),
        stalls=options.stall,
        slow_periods=options.slow_periods,
        outliers=options.outliers,
        with_oracle=not options.no_oracle,
    )


def _points(options: argparse.Namespace, conditions: Conditions) -> list[Point]:
    from loadtest.simulation.profiles import load_profile
    from loadtest.simulation.study import Point
    from loadtest.workload.arrivals import parse_arrivals

    if options.rate is not None and options.loads:
        raise InvalidArgument("either --rate or --load, not both")
    points = []
    for name in dict.fromkeys(options.profiles or DEFAULT_PROFILES):
        capacity_hz = load_profile(name).capacity_hz * conditions.executors
        rates_only = None if options.rate is None else [options.rate / capacity_hz]
        loads = list(dict.fromkeys(rates_only or options.loads or DEFAULT_LOADS))
        if not all(0 < load < float("inf") for load in loads):
            raise InvalidArgument("loads and rates must be positive and finite")
        for arrivals in dict.fromkeys(options.arrivals or DEFAULT_ARRIVALS):
            parse_arrivals(arrivals)
            points += [Point(name, arrivals, load) for load in loads]
    return points


def _study(
    options: argparse.Namespace,
    points: Sequence[Point],
    policies: Sequence[str],
    conditions: Conditions,
) -> SimulationReport:
    from tqdm import tqdm

    from loadtest.simulation.report import SimulationReport
    from loadtest.simulation.study import policies_at, study

    total = options.seeds * sum(len(policies_at(point, policies)) for point in points)
    runs = study(points, policies, conditions, options.seeds, options.jobs)
    progress = tqdm(runs, total=total, unit="run", disable=not sys.stderr.isatty())
    return SimulationReport(conditions, points, policies, progress)


def _head(report: SimulationReport) -> str:
    from reporting.machine import machine

    conditions, num_seeds = report.conditions, len({run.seed for run in report.runs})
    return (
        f"# Policies in simulation, {date.today().isoformat()}\n\n"
        f"On {machine()}. Budgets {conditions.budgets}, jitter {conditions.jitter:g}, "
        f"{num_seeds} seeds, executors: {conditions.executors}.\n\n"
    )


def _write(report: SimulationReport, tables: str, folder: Path) -> None:
    """Figures as JSON, ``tables``, each whole or not at all, and the plots."""
    from loadtest.simulation import plots
    from reporting.files import write_whole
    from reporting.machine import machine

    content = {"date": date.today().isoformat(), "machine": machine(), **report.to_json()}
    texts = {
        "simulation.json": json.dumps(content, indent=1) + "\n",
        "simulation.md": tables,
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    paths = [folder / name for name in texts] + plots.plot(report, folder)
    print("wrote " + ", ".join(str(path) for path in paths), file=sys.stderr)


def _log_decisions(
    path: Path, points: Sequence[Point], policies: Sequence[str], conditions: Conditions
) -> None:
    """Seed 0 of the only policy at the only point."""
    from loadtest.simulation.profiles import load_profile
    from loadtest.simulation.study import HINDSIGHT, run_policy
    from serving.core.decision_text import describe

    if len(points) != 1 or len(policies) != 1 or HINDSIGHT in policies:
        raise InvalidArgument(
            "--decision-log needs one --policy, --profile, --arrivals and --load, not "
            f"{len(policies)} policies at {len(points)} points"
        )
    sizes = load_profile(points[0].profile).ladder.sizes
    with path.open("w") as file:
        run = run_policy(
            points[0],
            policies[0],
            conditions,
            seed=0,
            decided=lambda snapshot, decision: print(
                describe(snapshot, decision, sizes), file=file
            ),
        )
    print(
        f"{run.num_requests} requests, {run.num_in_time} in time, {run.num_late} late, "
        f"{sum(run.shed.values())} shed; {run.num_decisions} decisions in {path}"
    )
