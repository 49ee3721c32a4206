"""``punctual study clients``."""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loadtest.cli.options import add_repository, add_results, add_runtime
from loadtest.cli.progress import say_with_time
from serving.core.command_errors import files_of_the_user
from serving.core.command_numbers import count, positive

PARTS = ("tiles", "frigate", "protocols")


def add_parser(studies: Any) -> None:
    """Add clients to the subparsers ``studies``."""
    summary = "Tiles of large pictures, clients as Frigate is, and gRPC beside HTTP."
    parser: argparse.ArgumentParser = studies.add_parser(
        "clients",
        help=summary,
        description=f"{summary} Each part asks a gateway that the study starts. Writes "
        "OUT/clients-MODEL-DATE.md and .json. The machine should have nothing else to do. The last "
        "part fetches NVIDIA's perf_analyzer the first time.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_repository(parser)
    parser.add_argument("--model", default="everyday", help="the model's name")
    add_runtime(parser)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--images", type=Path, nargs="+", default=[Path("docs/images/coffee.jpg")])
    parser.add_argument(
        "--budgets-ms",
        type=positive,
        nargs="+",
        default=[100.0, 150.0, 250.0, 500.0, 1000.0],
        help="of the picture in tiles",
    )
    parser.add_argument("--requests", type=count, default=40, help="with each of these budgets")
    parser.add_argument(
        "--loads",
        type=positive,
        nargs="+",
        default=[0.5, 1.0, 2.0],
        help="of clients as Frigate is: frames a second, in multiples of what a server answers at "
        "most that knows the most accurate operating point alone, and of what its engine could",
    )
    parser.add_argument("--seconds", type=positive, default=20.0, help="of each load")
    parser.add_argument(
        "--concurrencies", type=count, nargs="+", default=[1, 4], help="of the protocols"
    )
    parser.add_argument("--rounds", type=count, default=5, help="of the protocols")
    parser.add_argument("--seed", type=count, default=1, help="of the random numbers")
    add_results(parser)
    parser.set_defaults(run=_study)


@files_of_the_user()
def _study(options: argparse.Namespace) -> None:
    from loadtest.servers import tritonserver
    from loadtest.servers.free_ports import free_port
    from loadtest.servers.processes import gateway
    from loadtest.simulation.profiles import load_profile
    from loadtest.studies.clients import frigate, protocols, tiles
    from loadtest.studies.clients.report import Report, markdown, write
    from loadtest.studies.triton.perf import PerfAnalyzer
    from loadtest.workload.images import read_images
    from reporting.machine import machine
    from serving.artifacts.model_folders import find_model

    images = read_images(options.images)
    folder = find_model(options.model_repository, options.model)
    profile = load_profile(str(folder / "catalog.json"))
    grpc_port = free_port()
    settings: dict[str, object] = {
        "model_repository": options.model_repository,
        "model": options.model,
        "runtime": options.runtime,
    }
    if "protocols" in options.parts:
        settings["grpc_port"] = grpc_port
    tiled, asked, compared = [], [], []
    capacity = None
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="punctual-clients-")))
        if "frigate" in options.parts:
            point = profile.ladder.label(profile.best_point)
            say_with_time(f"full depth: a server that knows {point} alone")
            capacity = frigate.measure_capacity(point, settings, images, scratch / "full.log")
            say_with_time(
                f"it answers {capacity.server_hz:.1f} frames a second, its engine alone "
                f"{capacity.engine_hz:.1f}"
            )
        url = stack.enter_context(gateway(options.model, settings, scratch / "gateway.log"))
        if "tiles" in options.parts:
            say_with_time("tiles")
            budgets_ms = sorted(options.budgets_ms)
            picture = tiles.picture(images)
            tiled = tiles.measure(url, picture, budgets_ms, options.requests)
        if capacity is not None:
            for load in options.loads:
                for of in (frigate.SERVER, frigate.ENGINE):
                    say_with_time(f"clients as Frigate is, at {load:g} times what the {of} can")
                    asked.append(
                        frigate.run(url, images, load, of, capacity, options.seconds, options.seed)
                    )
        if "protocols" in options.parts:
            triton = tritonserver.default_folder()
            binary = tritonserver.assemble_perf_analyzer(triton)
            analyzer = PerfAnalyzer(binary, tritonserver.server_environment(triton), 1000)
            compared = protocols.measure(
                analyzer,
                (url.removeprefix("http://"), f"127.0.0.1:{grpc_port}"),
                options.model,
                frigate.SIDE,
                options.concurrencies,
                options.rounds,
                say_with_time,
            )
    date = time.strftime("%Y-%m-%d", time.gmtime())
    report = Report(machine(), date, options.model, tiled, capacity, asked, compared)
    path = write(report, options.out)
    print("\n".join(markdown(report)))
    say_with_time(f"wrote {path}")
