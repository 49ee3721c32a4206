"""The command ``punctual``.

``serve`` is here; other packages add commands through the entry points ``punctual.commands``. Each
is a function ``register(subparsers, tools)``, light to import, that adds its parsers with
``set_defaults(run=function)``: called with the parsed arguments, it returns the exit code, or None
for 0. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.core.letterbox import Letterbox
    from serving.core.ports import CreatePolicy, Image, SegmentRunner
    from serving.core.segment import Segment
    from serving.settings import Settings

COMMANDS_GROUP = "punctual.commands"

# Module -> the extra that installs it.
EXTRAS = {
    "torch": "builder",
    "pycocotools": "loadtest",
    "tqdm": "loadtest",
    "matplotlib": "loadtest",
    "mlperf_loadgen": "loadgen",
    "onnx": "builder",
    "onnxruntime": "onnxruntime",
    "tensorrt": "tensorrt",
    "cuda": "tensorrt",
    "grpc": "triton",
    "tritonclient": "triton",
    "opentelemetry": "otel",
}

_DESCRIPTION = """\
Punctual is an object detection server that answers on time: a request brings an image and a
latency budget, and gets the deepest answer that its budget and the other requests' allow.
"""

_SERVE_EPILOG = """\
Every setting is also an environment variable: --max-waiting is PUNCTUAL_MAX_WAITING. An option
wins over the environment. An unknown PUNCTUAL_ variable is an error.

try it:
  punctual serve --port 8000
  curl -H 'Content-Type: image/jpeg' -H 'X-Deadline-Ms: 40' --data-binary @photo.jpg \\
       http://127.0.0.1:8000/v1/detect

stop it:
  SIGTERM or Ctrl-C: requests in flight are answered first. Again: at once.
"""


@dataclass(frozen=True)
class _Option:
    setting: str
    metavar: str
    text: str


# Names and meanings of ``serving.settings``, repeated so that --help need not import it.
SERVE_OPTIONS = (
    _Option("host", "ADDRESS", "address to listen on (127.0.0.1; 0.0.0.0 for all)"),
    _Option("port", "N", "port to listen on; 0 picks a free one (8000)"),
    _Option("model_repository", "FOLDER", "folder that holds <model>_anytime folders (model_repo)"),
    _Option(
        "model", "NAME", "model to serve, or several, as NAME,NAME, as one (the only one there)"
    ),
    _Option("backend", "NAME", "embedded, triton or triton-depth (embedded)"),
    _Option("triton_url", "HOST:PORT", "gRPC address of that Triton (127.0.0.1:8001)"),
    _Option("runtime", "NAME", "openvino or onnxruntime (openvino)"),
    _Option("precision", "NAME", "f32, bf16 or int8 (what is fast here of the first two)"),
    _Option("num_threads", "N", "threads of the runtime (one per core)"),
    _Option("default_budget_ms", "MS", "budget of a request that states none (1000)"),
    _Option("max_budget_ms", "MS", "larger budgets are cut to this (10000)"),
    _Option("max_waiting", "N", "decoded images waiting for the engine (64)"),
    _Option("num_decode_workers", "N", "threads that decode images (2)"),
    _Option("drain_delay_ms", "MS", "after SIGTERM, keep serving this long, not ready (0)"),
    _Option("decision_log", "FILE", "write each scheduling decision and why there (nowhere)"),
    _Option("log_level", "LEVEL", "debug, info, warning or error (info)"),
)


MODELS_OPTIONS = (
    _Option("model_repository", "FOLDER", "folder that holds <model>_anytime folders (model_repo)"),
    _Option("model", "NAME", "model, or several, as NAME,NAME (all there)"),
    _Option("runtime", "NAME", "whose profile is meant: openvino or onnxruntime (openvino)"),
    _Option("precision", "NAME", "in which: f32, bf16 or int8 (the runtime's choice)"),
)


PLANS_OPTIONS = (
    _Option("store", "FOLDER", "where punctual build --store puts repositories"),
    _Option("link", "PATH", "what is to point to the one for this GPU, TensorRT and model"),
    _Option("model_repository", "FOLDER", "folder that holds <model>_anytime folders (model_repo)"),
    _Option("model", "NAME", "the model (the only one there)"),
    _Option("wait_s", "SECONDS", "how long to wait for them to be built (0)"),
)


class _Tools:
    """``artifacts.serving_tools.ServingTools``; the server is imported only when it is needed."""

    def open_runner(
        self,
        runtime: str,
        folder: Path,
        num_threads: int | None,
        wanted: Collection[Segment] | None = None,
        precision: str | None = None,
    ) -> SegmentRunner:
        from serving.model_repository import StartError, open_runner

        try:
            return open_runner(runtime, folder, num_threads, wanted, precision)
        except StartError as error:
            raise SystemExit(_refuse(str(error))) from error

    def load_image(self, data: bytes, width: int, height: int) -> tuple[Image, Letterbox]:
        from serving.imaging.decoding import load_image

        return load_image(data, width, height)

    def serve(self, arguments: Sequence[str], create_policy: CreatePolicy) -> int:
        parser = argparse.ArgumentParser(prog="punctual serve", add_help=False)
        _add_options(parser, SERVE_OPTIONS)
        return _serve(parser.parse_args(arguments), create_policy)


def _settings(arguments: argparse.Namespace) -> Settings:
    from serving.settings import load

    given = {
        option.setting: value
        for option in SERVE_OPTIONS
        if (value := getattr(arguments, option.setting, None)) is not None
    }
    return load(given)


def _serve(arguments: argparse.Namespace, create_policy: CreatePolicy | None = None) -> int:
    from serving.settings import SettingsError

    try:
        settings = _settings(arguments)
    except SettingsError as error:
        return _refuse(*error.problems)

    from serving.app import create_backend, serve
    from serving.model_repository import StartError

    try:
        return serve(settings, _announce, partial(create_backend, create_policy=create_policy))
    except StartError as error:
        return _refuse(str(error))


def _models(arguments: argparse.Namespace) -> int:
    from serving.model_repository import (
        StartError,
        every_model,
        find_models,
        measured_front,
        read_family,
    )
    from serving.settings import SettingsError

    try:
        settings = _settings(arguments)
        names = settings.models or tuple(every_model(settings.model_repository))
        family = read_family(find_models(settings.model_repository, names), settings.precision)
        front = measured_front(family, settings.runtime)
    except SettingsError as error:
        return _refuse(*error.problems)
    except StartError as error:
        return _refuse(str(error))
    print(f"{settings.runtime}, {settings.precision or 'in the precision that it chooses'}")
    print("\n".join(front.table(family.names)))
    return 0


def _plans(arguments: argparse.Namespace) -> int:
    import time

    from serving.model_repository import StartError
    from serving.triton_backend.plans import link_plans

    try:
        target = link_plans(
            Path(arguments.store),
            Path(arguments.model_repository or "model_repo"),
            arguments.model,
            Path(arguments.link),
            wait_s=float(arguments.wait_s or 0),
            clock=time.monotonic,
            sleep=time.sleep,
            say=partial(print, flush=True),
        )
    except (StartError, ValueError, OSError) as error:
        return _refuse(str(error))
    print(f"{arguments.link} is {target}")
    return 0


def _announce(url: str) -> None:
    print(
        f"Punctual is ready: {url}\n"
        f"  curl -H 'Content-Type: image/jpeg' -H 'X-Deadline-Ms: 40' "
        f"--data-binary @photo.jpg {url}/v1/detect",
        flush=True,
    )


def _refuse(*problems: str) -> int:
    for problem in problems:
        print(f"punctual: {problem}", file=sys.stderr)
    return 2


def _missing(error: ImportError) -> str:
    """What to install for an import that failed."""
    module = (error.name or "").partition(".")[0]
    if module in EXTRAS:
        return f"this needs {module}; pip install 'punctual[{EXTRAS[module]}]'"
    return f"an import failed: {error}"


def create_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole program, other packages' commands included."""
    parser = argparse.ArgumentParser(
        prog="punctual",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"punctual {version('punctual')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    serve = commands.add_parser(
        "serve",
        help="answer detection requests over HTTP",
        description="Answer detection requests over HTTP.",
        epilog=_SERVE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(serve, SERVE_OPTIONS)
    serve.set_defaults(run=_serve)
    models = commands.add_parser(
        "models",
        help="what the exits of the models here are worth",
        description="Accuracy and measured time of each exit of the models here, were they served "
        "as one, and which exits are worth their time.",
    )
    _add_options(models, MODELS_OPTIONS)
    models.set_defaults(run=_models)
    plans = commands.add_parser(
        "plans",
        help="find the TensorRT plans that were built for this machine's GPU",
        description="Wait for the model repository with TensorRT plans for this machine's GPU and "
        "TensorRT, check every plan in it, and link it to where Triton is told to look.",
    )
    _add_options(plans, PLANS_OPTIONS, required=("store", "link"))
    plans.set_defaults(run=_plans)
    _add_foreign(commands)
    return parser


def _add_options(
    parser: argparse.ArgumentParser, options: Iterable[_Option], required: Collection[str] = ()
) -> None:
    for option in options:
        flag = "--" + option.setting.replace("_", "-")
        parser.add_argument(
            flag, metavar=option.metavar, help=option.text, required=option.setting in required
        )


def _add_foreign(commands: Any) -> None:
    """Commands of other packages. One that cannot be imported is reported and left out: it must
    not take ``serve`` with it."""
    for entry in sorted(entry_points(group=COMMANDS_GROUP), key=lambda entry: entry.name):
        try:
            register = entry.load()
        except ImportError as error:
            print(
                f"punctual: the commands of {entry.name!r} are left out: {_missing(error)}",
                file=sys.stderr,
            )
        else:
            register(commands, _Tools())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = create_parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except ImportError as error:
        return _refuse(_missing(error))


if __name__ == "__main__":
    sys.exit(main())
