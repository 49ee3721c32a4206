"""``punctual loadtest`` and ``punctual loadgen``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.core.command_errors import InvalidArgument, files_of_the_user
from serving.core.command_numbers import natural, positive

if TYPE_CHECKING:
    from loadtest.load.target import Target
    from loadtest.workload.images import AnnotatedImage


def add_parser(commands: Any) -> None:
    """Add loadtest and loadgen to the subparsers ``commands``."""
    _add_loadtest(commands)
    _add_loadgen(commands)


def _add_server(parser: argparse.ArgumentParser) -> None:
    """Add which server, and what it is sent."""
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server")
    parser.add_argument("--target", default="punctual", help="what the report calls the server")
    parser.add_argument("--path", default="/v1/detect", help="that is posted to")
    parser.add_argument(
        "--header", action="append", default=[], metavar="NAME:VALUE", help="sent as well"
    )
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument(
        "--image", "--images", type=Path, nargs="+", metavar="FILE", help="JPEG, PNG or WebP files"
    )
    images.add_argument(
        "--data",
        type=Path,
        help="annotated images: a folder in the layout of Pascal VOC, or a COCO file",
    )
    parser.add_argument("--split", default="test", help="of a VOC folder")


def _pictures(options: argparse.Namespace) -> tuple[AnnotatedImage, ...]:
    from loadtest.workload.images import read_data, read_images

    if options.data is not None:
        return read_data(options.data, options.split)
    return read_images(options.image)


def _target(options: argparse.Namespace) -> Target:
    from loadtest.load.target import Target

    if not re.fullmatch(r"/[!-~]*", options.path):
        raise InvalidArgument(f"--path {options.path!r} is not a path such as /v1/detect")
    headers = []
    for line in options.header:
        name, colon, value = line.partition(":")
        if not (colon and name.strip() and line.isprintable()):
            raise InvalidArgument(f"--header {line!r} is not NAME:VALUE")
        headers.append((name.strip(), value.strip()))
    return Target(options.target, options.path, tuple(headers))


# -- loadtest ------------------------------------------------------------------------------------


def _add_loadtest(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "loadtest",
        help="Send requests to a server at a given rate, and report what came in time.",
        description=(
            "Send requests on a schedule that the seed fixes, whatever the server makes of them, "
            "and report what was answered in time. With annotated images, average precision is "
            "computed from the boxes that came back. Writes OUT/load.json and OUT/load.html."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_server(parser)
    parser.add_argument(
        "--arrivals",
        default="poisson",
        help="poisson, constant, gamma:CV2, ramp:FROM:TO, onoff:ON_S:OFF_S[:LOW], "
        "burst:START_S:LENGTH_S:FACTOR or trace:FILE",
    )
    parser.add_argument("--rate", type=positive, default=20.0, help="requests a second, the mean")
    parser.add_argument("--duration", type=positive, default=30.0, help="seconds")
    parser.add_argument(
        "--budgets",
        default="1.2x,2x,4x",
        help="multiples of the full-depth time or milliseconds, with weights as in 1.2x@2,80@1; "
        "uniform:LOW_MS:HIGH_MS or lognormal:MEDIAN_MS:SIGMA",
    )
    parser.add_argument(
        "--full-depth-ms",
        type=positive,
        help="what the multiples are of [by /v1/models, the most accurate exit's "
        "predicted_ms and the reserve_ms]",
    )
    parser.add_argument(
        "--catalog",
        type=Path,
        help="folder of a catalog.json with classes and APs, for servers without /v1/models",
    )
    parser.add_argument("--grace", type=positive, default=2.0, help="seconds to wait for the late")
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/load"))
    parser.set_defaults(run=_loadtest)


@files_of_the_user()
def _loadtest(options: argparse.Namespace) -> int:
    from loadtest.load import report as load_report
    from loadtest.load.open_loop import LoadSettings, run_load
    from loadtest.load.summary import summarise
    from loadtest.load.target import describe_server, wait_ready
    from loadtest.workload.arrivals import parse_arrivals
    from loadtest.workload.budgets import parse_budgets

    arrivals, budgets = parse_arrivals(options.arrivals), parse_budgets(options.budgets)
    wait_ready(options.url)
    images, target = _pictures(options), _target(options)
    server = describe_server(options.url)
    classes, ap_by_depth = _model(options.catalog, server)
    if options.data is not None and not classes:
        raise _unsaid(options.url, server, "which classes it finds", "--catalog FOLDER")
    result = run_load(
        LoadSettings(
            url=options.url,
            images=images,
            arrivals=arrivals,
            rate_hz=options.rate,
            duration_s=options.duration,
            budgets=budgets,
            full_depth_s=_full_depth_ms(options, server) / 1e3,
            seed=options.seed,
            target=target,
            classes=classes,
            ap_by_depth=ap_by_depth,
            grace_s=options.grace,
        )
    )
    summary = summarise(result)
    print(load_report.text(summary))
    for path in load_report.write(result, summary, options.out):
        print(path)
    return 0 if summary.is_valid else 1


def _model(
    folder: Path | None, server: Mapping[str, Any] | None
) -> tuple[tuple[str, ...], dict[int, float]]:
    """Return the model's classes and the AP of each exit, by its catalogue or the server."""
    from serving.artifacts.model_folders import read_entry

    if folder is not None:
        catalogs = read_entry(folder).catalogs
        exits = catalogs[0].exits if len(catalogs) == 1 else ()  # a depth means nothing of several
        return catalogs[0].classes, {entry.depth: entry.ap for entry in exits}
    return tuple(map(str, (server or {}).get("classes", ()))), {}


def _full_depth_ms(options: argparse.Namespace, server: Mapping[str, Any] | None) -> float:
    """Return the milliseconds of the deepest exit. Raises ValueError if nobody says them."""
    if options.full_depth_ms is not None:
        return float(options.full_depth_ms)
    try:
        model = server or {}
        return float(model["exits"][-1]["predicted_ms"]) + float(model["reserve_ms"])
    except (LookupError, TypeError, ValueError):
        if "x" not in options.budgets:
            return 1.0  # of nothing
        raise _unsaid(options.url, server, "how long full depth takes", "--full-depth-ms") from None


def _unsaid(url: str, server: Mapping[str, Any] | None, what: str, option: str) -> InvalidArgument:
    """Return what to raise where a server does not say ``what``, which ``option`` can say."""
    if server is None:
        return InvalidArgument(
            f"{url} does not answer GET /v1/models: is a server running there? "
            f"For one without that path, {option} says {what}"
        )
    return InvalidArgument(f"{url} does not say {what}; {option} can say it")


# -- loadgen -------------------------------------------------------------------------------------


def _add_loadgen(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "loadgen",
        help="Measure a server with MLPerf LoadGen's Server scenario.",
        description=(
            "Let MLPerf LoadGen, Server scenario, send Poisson arrivals and give its verdict, "
            "beside our own counts. A request that was refused, or failed, is completed to LoadGen "
            "only after its budget, so that it counts against the latency percentile. LoadGen's "
            "logs and loadgen.json go to OUT."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_server(parser)
    parser.add_argument("--budget-ms", type=positive, required=True, help="of every request")
    parser.add_argument("--rate", type=positive, default=20.0, help="target queries a second")
    parser.add_argument(
        "--percentile", type=positive, default=0.99, help="share that must be within the budget"
    )
    parser.add_argument(
        "--min-duration", type=positive, default=60.0, help="seconds; MLPerf's own rules ask 600"
    )
    parser.add_argument(
        "--max-queries",
        type=natural,
        default=200_000,
        help="more are not sent, however long it lasts",
    )
    parser.add_argument("--grace", type=positive, default=2.0, help="seconds to wait for the late")
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/loadgen"))
    parser.set_defaults(run=_loadgen)


@files_of_the_user()
def _loadgen(options: argparse.Namespace) -> int:
    from loadtest.load.loadgen import LoadgenSettings, report, run_loadgen
    from loadtest.load.target import wait_ready

    wait_ready(options.url)
    result = run_loadgen(
        LoadgenSettings(
            url=options.url,
            images=_pictures(options),
            target=_target(options),
            rate_hz=options.rate,
            budget_s=options.budget_ms / 1e3,
            percentile=options.percentile,
            min_duration_s=options.min_duration,
            max_queries=options.max_queries,
            grace_s=options.grace,
            seed=options.seed,
            folder=options.out,
        )
    )
    print(report(result))
    return 0 if result.is_valid else 1
