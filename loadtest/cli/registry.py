"""The load tests' commands of ``punctual``."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.cli import autoscaling as autoscaling_cli
from loadtest.cli import drills as drill_cli
from loadtest.cli import live as live_cli
from loadtest.cli import load as load_cli
from loadtest.cli import simulate as simulate_cli
from loadtest.cli.numbers import count
from loadtest.servers import tritonserver

if TYPE_CHECKING:
    from serving.artifacts.serving_tools import ServingTools

STUDY_PARTS = ("perf", "overhead", "memory")
"""Names of ``triton_study.PARTS``, repeated so that --help need not import it."""
IMAGE = Path("tests/data/bccd/JPEGImages/BloodImage_00031.jpg")


def register(commands: Any, tools: ServingTools) -> None:
    """Add loadtest, loadgen, simulate, sweep, study and triton to the subparsers ``commands``."""
    load_cli.add_parser(commands)
    simulate_cli.add_parser(commands)
    _add_sweep(commands)
    _add_study(commands, tools)
    tritonserver.add_parser(commands)


# -- sweep ---------------------------------------------------------------------------------------


def _add_sweep(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "sweep",
        help="Try an idle server with every budget.",
        description=(
            "Try an idle server with every budget, from infeasible to twice what full depth "
            "takes: share answered in time, depth reached, and where the gateway's time goes."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--image", type=Path, required=True, nargs="+", help="JPEG files")
    parser.add_argument("--requests", type=int, default=200, help="of each budget")
    parser.add_argument("--budgets", type=int, default=20, help="how many, evenly spaced")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=load_cli.in_one_sentence(_sweep))


def _sweep(options: argparse.Namespace) -> int:
    from loadtest.load import sweep
    from loadtest.load.target import wait_ready
    from loadtest.servers.processes import StudyError
    from loadtest.workload.images import read_images

    client = sweep.SweepClient(options.url)
    images = [image.data for image in read_images(options.image)]
    wait_ready(options.url)
    try:
        model = client.models()
    except OSError as error:
        raise StudyError(f"{options.url} cannot be reached: {error}") from error
    for _ in range(20):
        client.detect(images[0], 10_000)  # let connections, caches and clocks settle
    low_ms = sweep.min_budget_ms(client, images[0])
    high_ms = 2 * model["exits"][-1]["min_budget_ms"]
    step_ms = (high_ms - low_ms / 2) / (options.budgets - 1)
    budgets = [low_ms / 2 + step_ms * i for i in range(options.budgets)]
    rows = sweep.sweep(client, images, sorted([*budgets, low_ms]), options.requests, options.seed)
    client.close()
    print(f"{model['name']}, {options.requests} requests of each budget, seed {options.seed}")
    print(f"the server's own min_budget_ms is {low_ms:.1f}")
    print(sweep.swept_table(rows))
    print(sweep.overhead(rows))
    accepted = [row for row in rows if len(row.accepted) > len(row.answers) / 2]
    worst = min(accepted, key=lambda row: len(row.in_time) / len(row.accepted))
    share = len(worst.in_time) / len(worst.accepted)
    print(f"fewest in time: {share:.1%}, at {worst.budget_ms:.1f} ms")
    falls = sweep.falls(rows)
    for small, large in falls:
        print(f"median depth falls between {small:.1f} and {large:.1f} ms")
    if not falls:
        print("median depth never falls as the budget grows")
    return 0


# -- study ---------------------------------------------------------------------------------------


def _add_study(commands: Any, tools: ServingTools) -> None:
    summary = "Measure by servers that the study starts itself, or simulates."
    parser = commands.add_parser("study", help=summary, description=summary)
    studies = parser.add_subparsers(title="studies", metavar="STUDY", required=True)
    live_cli.add_parser(studies, tools)
    drill_cli.add_parser(studies)
    autoscaling_cli.add_parser(studies)
    _add_triton_study(studies)
    _add_hold(studies, tools)


def _add_triton_study(studies: Any) -> None:
    summary = "What Triton costs, and what it serves."
    parser: argparse.ArgumentParser = studies.add_parser(
        "triton",
        help=summary,
        description=f"{summary} Throughput and latency by NVIDIA's perf_analyzer, the time that "
        "Triton adds to a request, and the memory that segments take. The machine should have "
        "nothing else to do. Writes OUT/triton-DATE.json and .md.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model-repository", type=Path, default=Path("model_repo"))
    parser.add_argument("--model", help="the model's name [the only one there]")
    parser.add_argument("--parts", nargs="+", choices=STUDY_PARTS, default=list(STUDY_PARTS))
    parser.add_argument("--rounds", type=count, default=3, help="of perf and memory")
    parser.add_argument(
        "--callers", type=count, nargs="+", default=[1, 2], help="at once, of perf_analyzer"
    )
    parser.add_argument("--turns", type=count, default=300, help="of overhead")
    parser.add_argument(
        "--window-ms", type=count, default=2000, help="of perf_analyzer, three to a figure"
    )
    parser.add_argument(
        "--image", type=Path, default=IMAGE, help="JPEG, PNG or WebP that the gateways are sent"
    )
    parser.add_argument("--config-name", default="cpu", help="which configuration Triton takes")
    parser.add_argument("--seed", type=int, default=0, help="of the order within a turn")
    parser.add_argument("--out", type=Path, default=Path("loadtest/results"))
    parser.add_argument(
        "--server-folder",
        type=Path,
        default=tritonserver.default_folder(),
        help="where Triton is unpacked",
    )
    parser.set_defaults(run=_study_triton)


def _study_triton(options: argparse.Namespace) -> int:
    from loadtest.servers.processes import StudyError
    from loadtest.studies.triton import study as triton_study
    from loadtest.studies.triton.report import markdown

    settings = triton_study.Settings(
        model_repository=options.model_repository,
        config_name=options.config_name,
        server_folder=options.server_folder,
        image=options.image,
        rounds=options.rounds,
        callers=tuple(options.callers),
        turns=options.turns,
        window_ms=options.window_ms,
        seed=options.seed,
    )
    # As an exception, so that what the study has started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        report = triton_study.study(settings, options.model, options.parts, options.out, _say)
    except (StudyError, tritonserver.AssemblyError) as error:
        print(f"punctual: {error}", file=sys.stderr)
        return 2
    print(markdown(report), end="")
    return 0


def _say(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


def _add_hold(studies: Any, tools: ServingTools) -> None:
    summary = "Hold segments in memory, warm, until standard input ends."
    parser: argparse.ArgumentParser = studies.add_parser(
        "hold",
        help=summary,
        description=f"{summary} Says so in one line, once every segment has run. A process for "
        "other programs to look at: the memory part of the study of Triton starts several.",
    )
    parser.add_argument("folder", type=Path, help="a model's folder with its catalogue")
    parser.add_argument("--runtime", required=True, help="openvino or onnxruntime")
    parser.add_argument(
        "--runner",
        nargs="*",
        action="append",
        default=[],
        metavar="SEGMENT",
        dest="runners",
        help="a runner with these segments (stem, stack_K, head_K, exit_K); may be repeated",
    )
    parser.set_defaults(run=lambda options: _hold(options, tools))


def _hold(options: argparse.Namespace, tools: ServingTools) -> int:
    from loadtest.servers.processes import StudyError
    from loadtest.studies.triton import memory
    from loadtest.studies.triton.study import read_catalog
    from serving.core.segment import parse

    try:
        catalog = read_catalog(options.folder)
        runners = [list(map(parse, names)) for names in options.runners]
    except (StudyError, ValueError) as error:
        print(f"punctual: {error}", file=sys.stderr)
        return 2
    memory.hold(tools, options.folder, catalog, options.runtime, runners, sys.stdin)
    return 0
