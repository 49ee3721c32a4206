"""``punctual triton``, ``punctual study triton``, and what the study starts: ``study hold``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.cli.options import add_repository, add_results
from loadtest.cli.progress import say
from loadtest.servers import tritonserver
from serving.core.command_errors import files_of_the_user, invalid_arguments
from serving.core.command_numbers import count, natural

if TYPE_CHECKING:
    from serving.artifacts.serving_tools import ServingTools

STUDY_PARTS = ("perf", "overhead", "memory")
"""Names of ``triton_study.PARTS``, repeated so that --help need not import it."""
IMAGE = Path("tests/data/bccd/JPEGImages/BloodImage_00031.jpg")


# -- punctual triton -----------------------------------------------------------------------------


def add_parser(commands: Any) -> None:
    """Add the command ``triton`` to the subparsers ``commands``."""
    summary = "Start a real Triton on this machine, on loopback, over the model repository."
    parser = commands.add_parser(
        "triton",
        help=summary,
        description=f"{summary} The first time, it fetches {tritonserver.PYTRITON} (55 MB) from "
        "the package index into a cache folder. Then: punctual serve --backend triton.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_repository(parser)
    parser.add_argument(
        "--config-name", default="cpu", help="which configuration of each model: <name>.pbtxt"
    )
    parser.add_argument(
        "--load-model", action="append", metavar="NAME", help="only these; may be repeated [all]"
    )
    parser.add_argument("--http-port", type=int, default=8010)
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--metrics-port", type=int, default=8002)
    parser.add_argument("--log-level", choices=("error", "warning", "info"), default="warning")
    parser.add_argument(
        "--server-folder",
        type=Path,
        default=tritonserver.default_folder(),
        help="where the server is unpacked",
    )
    parser.set_defaults(run=_run)


@files_of_the_user()
def _run(options: argparse.Namespace) -> None:
    tritonserver.remove_leftovers()
    folder = tritonserver.assemble(options.server_folder)
    command = tritonserver.server_command(
        folder,
        options.model_repository,
        tritonserver.Ports(options.http_port, options.grpc_port, options.metrics_port),
        config_name=options.config_name,
        models=options.load_model or ("*",),
        log_level=options.log_level,
        shared_memory_prefix=f"{tritonserver.LEFTOVERS}{os.getpid()}-",
    )
    print(
        f"Triton: HTTP 127.0.0.1:{options.http_port}, gRPC 127.0.0.1:{options.grpc_port}, metrics "
        f"127.0.0.1:{options.metrics_port}; it is ready when /v2/health/ready says so",
        flush=True,
    )
    # It takes this process's place, so that signals reach it.
    os.execve(command[0], command, tritonserver.server_environment(folder))


# -- the studies ---------------------------------------------------------------------------------


def add_studies(studies: Any, tools: ServingTools) -> None:
    """Add triton and hold to the subparsers ``studies``."""
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
    add_repository(parser)
    parser.add_argument("--model", help="the model's name [the default one]")
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
    parser.add_argument("--seed", type=natural, default=0, help="of the order within a turn")
    add_results(parser)
    parser.add_argument(
        "--server-folder",
        type=Path,
        default=tritonserver.default_folder(),
        help="where Triton is unpacked",
    )
    parser.set_defaults(run=_study_triton)


@files_of_the_user()
def _study_triton(options: argparse.Namespace) -> None:
    from loadtest.studies.triton import study as triton_study
    from loadtest.studies.triton.report import markdown

    settings = triton_study.TritonStudySettings(
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
    report = triton_study.study(settings, options.model, options.parts, options.out, say)
    print(markdown(report), end="")


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


def _hold(options: argparse.Namespace, tools: ServingTools) -> None:
    from loadtest.studies.triton import memory
    from serving.artifacts.model_folders import read_catalog
    from serving.core.segment import parse

    catalog = read_catalog(options.folder)
    with invalid_arguments():
        runners = [list(map(parse, names)) for names in options.runners]
    memory.hold(tools, options.folder, catalog, options.runtime, runners, sys.stdin)
