"""``punctual study live``, and what it starts: ``study serve`` and ``study segments``."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.cli.options import add_repository, add_results, add_runtime
from loadtest.cli.progress import say_with_time
from serving.core.command_errors import files_of_the_user
from serving.core.command_numbers import count, natural, positive

if TYPE_CHECKING:
    from serving.artifacts.serving_tools import ServingTools

PARTS = ("loads", "recovery")
"""Names of ``live_study.PARTS``, repeated so that --help need not import it."""


def add_parser(studies: Any, tools: ServingTools) -> None:
    """Add live, serve and segments to the subparsers ``studies``."""
    _add_live(studies)
    _add_serve(studies, tools)
    _add_segments(studies, tools)


# -- live ----------------------------------------------------------------------------------------


def _add_live(studies: Any) -> None:
    summary = "Policies and peers against each other on this machine, under load."
    parser: argparse.ArgumentParser = studies.add_parser(
        "live",
        help=summary,
        description=f"{summary} Starts a gateway for each policy and for some fixed operating "
        "points and, with --peers-python, the peers at these points; all but one are paused at any "
        "time. The machine should have nothing else to do. Writes OUT/live-DATE.json, .md and "
        "plots.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_repository(parser)
    parser.add_argument("--model", default="bccd", help="the model's name")
    add_runtime(parser)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("tests/data/bccd"),
        help="annotated images: a folder in the layout of Pascal VOC, or a COCO file",
    )
    parser.add_argument("--split", default="test", help="of a VOC folder")
    parser.add_argument(
        "--peers-python",
        type=Path,
        metavar="PYTHON",
        help="of an environment with the extra 'peers', such as .venv-peers/bin/python; without "
        "it, no peers",
    )
    parser.add_argument(
        "--loads",
        type=positive,
        nargs="+",
        default=[0.3, 0.6, 0.9, 1.2],
        help="shares of what the server answers at its quickest operating point",
    )
    parser.add_argument(
        "--rates",
        type=positive,
        nargs="+",
        default=[],
        metavar="HZ",
        help="requests per second, in the place of --loads",
    )
    parser.add_argument(
        "--fixed",
        nargs="+",
        default=[],
        metavar="POINT",
        help="operating points at which fixed policies and peers serve, such as 300x300/1",
    )
    parser.add_argument(
        "--num-fixed",
        type=count,
        default=3,
        help="how many such points are chosen in simulation, without --fixed",
    )
    parser.add_argument(
        "--arrivals",
        nargs="+",
        default=["poisson", "trace:azure_conv"],
        help="as of punctual loadtest",
    )
    parser.add_argument(
        "--budgets",
        default="1.2x,2x,4x",
        help="multiples of the most accurate point's time, or ms",
    )
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--seconds", type=positive, default=7.0, help="of each run")
    parser.add_argument(
        "--burst-seconds",
        type=positive,
        nargs=3,
        default=[10.0, 10.0, 20.0],
        metavar=("BEFORE", "IN", "AFTER"),
        help="of the burst",
    )
    parser.add_argument(
        "--segment-rounds", type=count, default=30, help="in which segments are timed"
    )
    parser.add_argument(
        "--reference-seconds",
        type=positive,
        default=3.0,
        help="of each of six windows in which capacity and the most accurate point's time are "
        "measured",
    )
    parser.add_argument("--seed", type=natural, default=0, help="of requests and order")
    add_results(parser)
    parser.set_defaults(run=_live)


@files_of_the_user()
def _live(options: argparse.Namespace) -> None:
    import matplotlib  # noqa: F401  so that it is missed before the study, not after

    from loadtest.studies.live import plots as live_plots
    from loadtest.studies.live import study as live_study
    from loadtest.studies.live.subject import LiveStudySettings
    from loadtest.studies.live.tables import markdown

    settings = LiveStudySettings(
        model_repository=options.model_repository,
        model=options.model,
        runtime=options.runtime,
        data=options.data,
        split=options.split,
        peers_python=options.peers_python,
        loads=tuple(dict.fromkeys(options.loads)),
        rates_hz=tuple(dict.fromkeys(options.rates)),
        fixed=tuple(dict.fromkeys(options.fixed)),
        num_fixed=options.num_fixed,
        arrivals=tuple(dict.fromkeys(options.arrivals)),
        budgets=options.budgets,
        rounds=options.rounds,
        seconds=options.seconds,
        burst_s=tuple(options.burst_seconds),
        segment_rounds=options.segment_rounds,
        reference_s=options.reference_seconds,
        seed=options.seed,
    )
    report, path = live_study.study(settings, options.parts, options.out, say_with_time)
    print(markdown(report), end="")
    for plotted in live_plots.plot(report, path):
        say_with_time(f"wrote {plotted}")


# -- serve ---------------------------------------------------------------------------------------


def _add_serve(studies: Any, tools: ServingTools) -> None:
    summary = "Serve as 'punctual serve' does, with another policy."
    parser: argparse.ArgumentParser = studies.add_parser(
        "serve",
        help=summary,
        description=f"{summary} Options of 'punctual serve' follow after --; PUNCTUAL_ variables "
        "count as well.",
    )
    parser.add_argument(
        "--policy", required=True, help="its name; 'punctual simulate --policy list' has them"
    )
    parser.add_argument(
        "--fault-file",
        type=Path,
        metavar="FILE",
        help="what the engine suffers from while this file says so: stuck, erratic or leak (for "
        "drills)",
    )
    parser.add_argument("options", nargs="*", metavar="OPTION", help="of 'punctual serve'")
    parser.set_defaults(run=lambda options: _serve(options, tools))


def _serve(options: argparse.Namespace, tools: ServingTools) -> None:
    from loadtest.policies.named import parse_policy
    from loadtest.servers.faults import faulty

    factory = parse_policy(options.policy)
    if options.fault_file is not None:
        factory = faulty(factory, options.fault_file)
    tools.serve(options.options, factory)


# -- segments ------------------------------------------------------------------------------------


def _add_segments(studies: Any, tools: ServingTools) -> None:
    summary = "Time every segment, and print a latency profile."
    parser: argparse.ArgumentParser = studies.add_parser(
        "segments",
        help=summary,
        description=f"{summary} It is the last line of standard output, as JSON.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="a model's folder with its catalogue")
    parser.add_argument("--runtime", default="openvino", help="openvino or onnxruntime")
    parser.add_argument("--rounds", type=count, default=30)
    parser.set_defaults(run=lambda options: _segments(options, tools))


def _segments(options: argparse.Namespace, tools: ServingTools) -> None:
    from loadtest.environment.segment_times import measure_segments
    from serving.artifacts.model_folders import read_entry

    entry = read_entry(options.folder)
    profile = measure_segments(
        tools, options.folder, entry, options.runtime, options.rounds, time.perf_counter
    )
    print(json.dumps(profile.to_json()))
