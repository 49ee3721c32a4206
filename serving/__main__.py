"""The command ``punctual``.

``serve`` is here; other packages add commands through the entry points ``punctual.commands``. Each
is a function ``register(subparsers, tools)``, light to import, that adds its parsers with
``set_defaults(run=function)``, which is called with the parsed arguments and returns nothing or,
where it measured something, its verdict as an exit code. Nothing heavy is imported before a command
runs.

A command that cannot do what it was asked for raises a ``CommandError``; ``run`` alone makes a
sentence on stderr and an exit code of it, of a missing extra and of a signal.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving import admin
from serving.core.command_errors import (
    EXIT_CODES,
    TERMINATED,
    CommandError,
    CommandFailed,
    CommandStopped,
    InvalidArgument,
    MissingExtra,
    OutputUnread,
    Terminated,
    error_text,
    files_of_the_user,
)

if TYPE_CHECKING:
    from serving.core.letterbox import Letterbox, ModelInput
    from serving.core.ports import CreatePolicy, Image, SegmentRunner
    from serving.core.segment import Segment
    from serving.settings import Settings

COMMANDS_GROUP = "punctual.commands"
EXAMPLE_IMAGE = Path("docs/images/coffee.jpg")
"""What the command that a server prints sends, if it is started where the repository is."""

# Module -> an extra that installs it.
EXTRAS = {
    "torch": "builder",
    "onnx": "onnxruntime",
    "tensorboard": "builder",
    "pycocotools": "loadtest",
    "av": "watch",
    "rich": "watch",
    "tqdm": "client",
    "httpx": "client",
    "yaml": "loadtest",
    "matplotlib": "loadtest",
    "mlperf_loadgen": "loadgen",
    "onnxruntime": "onnxruntime",
    "tensorrt": "tensorrt",
    "cuda": "tensorrt",
    "grpc": "triton",
    "tritonclient": "triton",
    "opentelemetry": "otel",
    "ray": "ray",
    "scipy": "builder",
}

_DESCRIPTION = """\
Punctual is an object detection server that answers on time: a request brings an image and a
latency budget, and gets the deepest answer that its budget and the other requests' allow.
"""

_EPILOG = "exit codes:\n" + "".join(
    f"  {code:<5}{meaning}\n" for code, meaning in EXIT_CODES.items()
)

_SERVE_EPILOG = """\
Every setting is also an environment variable: --max-waiting is PUNCTUAL_MAX_WAITING. An option
wins over the environment. An unknown PUNCTUAL_ variable is an error.

try it:
  punctual serve --port 8000
  then the curl command that it prints, with a budget that is ample on this machine

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
    _Option("model", "NAME", "model to serve, or several, as NAME,NAME, as one (the default one)"),
    _Option("backend", "NAME", "embedded, triton or triton-depth (embedded)"),
    _Option("triton_url", "HOST:PORT", "gRPC address of that Triton (127.0.0.1:8001)"),
    _Option("runtime", "NAME", "openvino or onnxruntime (openvino)"),
    _Option("precision", "NAME", "f32, bf16 or int8 (what is fast here and costs no accuracy)"),
    _Option("num_threads", "N", "threads of the runtime, in all (one per core)"),
    _Option("num_instances", "N", "runs under way at a time, which share the threads (1)"),
    _Option("default_budget_ms", "MS", "budget of a request that states none (1000)"),
    _Option("max_budget_ms", "MS", "larger budgets are cut to this (10000)"),
    _Option("keys_file", "FILE", "principals and the digests of their keys (none: anybody may)"),
    _Option("admin_port", "N", "port for metrics, documentation and admins alone (the same port)"),
    _Option("max_waiting", "N", "decoded images waiting for the engine (64)"),
    _Option("num_decode_workers", "N", "threads that decode images (2)"),
    _Option("drain_delay_ms", "MS", "after SIGTERM, keep serving this long, not ready (0)"),
    _Option("decision_log", "FILE", "write each scheduling decision and why there (nowhere)"),
    _Option("log_level", "LEVEL", "debug, info, warning or error (info)"),
)


MODELS_OPTIONS = (
    _Option("model_repository", "FOLDER", "folder that holds <model>_anytime folders (model_repo)"),
    _Option("model", "NAME", "model, or several, as NAME,NAME, as one (the default one)"),
    _Option("runtime", "NAME", "whose profile is meant: openvino or onnxruntime (openvino)"),
    _Option("precision", "NAME", "in which: f32, bf16 or int8 (the runtime's choice)"),
)


PLANS_OPTIONS = (
    _Option("store", "FOLDER", "where punctual build --store puts repositories"),
    _Option("link", "PATH", "what is to point to the one for this GPU, TensorRT and model"),
    _Option("model_repository", "FOLDER", "folder that holds <model>_anytime folders (model_repo)"),
    _Option("model", "NAME", "the model (the default one)"),
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
        size: str | None = None,
    ) -> SegmentRunner:
        from serving.models.opening import open_runner
        from serving.models.runtime_options import RuntimeOptions

        options = RuntimeOptions(runtime, num_threads, precision)
        return open_runner(folder, options, wanted, size)

    def open_family(
        self,
        runtime: str,
        folders: Sequence[Path],
        num_threads: int | None,
        precision: str | None = None,
    ) -> SegmentRunner:
        from serving.imaging.decoding import refit
        from serving.models.opening import open_family
        from serving.models.runtime_options import RuntimeOptions

        return open_family(folders, RuntimeOptions(runtime, num_threads, precision), refit)

    def load_image(
        self, data: bytes, model_input: ModelInput, inputs: Collection[ModelInput] = ()
    ) -> tuple[Image, Letterbox]:
        from serving.imaging.decoding import load_image

        return load_image(data, model_input, inputs)

    def serve(self, arguments: Sequence[str], create_policy: CreatePolicy) -> None:
        parser = argparse.ArgumentParser(prog="punctual serve", add_help=False)
        _add_options(parser, SERVE_OPTIONS)
        _serve(parser.parse_args(arguments), create_policy)


def _settings(arguments: argparse.Namespace) -> Settings:
    from serving.settings import load

    given = {
        option.setting: value
        for option in SERVE_OPTIONS
        if (value := getattr(arguments, option.setting, None)) is not None
    }
    return load(given)


def _serve(arguments: argparse.Namespace, create_policy: CreatePolicy | None = None) -> None:
    settings = _settings(arguments)
    from serving.composition.backend import create_backend
    from serving.composition.process import serve

    serve(settings, _announce, partial(create_backend, create_policy=create_policy))


def _models(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    from serving.artifacts.model_folders import find_models
    from serving.models.repository import measured_front, merged_table, read_family

    folders = find_models(settings.model_repository, settings.models)
    family = read_family(folders, settings.precision)
    for entry in family.entries:
        print("\n".join(entry.about()))
    front = measured_front(family, settings.runtime)
    print(f"{settings.runtime}, {settings.precision or 'in the precision that it chooses'}")
    print("\n".join((*front.table(family.titles, family.measure), *merged_table(family, front))))


@files_of_the_user()
def _plans(arguments: argparse.Namespace) -> None:
    import time

    try:
        wait_s = float(arguments.wait_s or 0)
    except ValueError as error:
        raise InvalidArgument(f"--wait-s={arguments.wait_s} is no number of seconds") from error

    from serving.triton_backend.plans import link_plans

    target = link_plans(
        Path(arguments.store),
        Path(arguments.model_repository or "model_repo"),
        arguments.model,
        Path(arguments.link),
        wait_s=wait_s,
        clock=time.monotonic,
        sleep=time.sleep,
        say=partial(print, flush=True),
    )
    print(f"{arguments.link} is {target}")


def _new_key(arguments: argparse.Namespace) -> None:
    from serving.access.keys import new_entry

    key, entry = new_entry(arguments.name)
    print(f"\n{entry}")
    print(f"the key of {arguments.name}: {key}", file=sys.stderr)


def _announce(url: str, ample_budget_s: float) -> None:
    image = EXAMPLE_IMAGE if EXAMPLE_IMAGE.is_file() else Path("photo.jpg")
    print(
        f"Punctual is ready: {url}\n"
        f"  curl -s -H 'Content-Type: image/jpeg' -H 'X-Deadline-Ms: {ample_budget_s * 1e3:g}' "
        f"--data-binary @{image} '{url}/v1/detect?score_threshold=0.4'",
        flush=True,
    )


class _Parser(argparse.ArgumentParser):
    """A parser that refuses what it does not know with its own usage.

    argparse leaves that to the program's parser, whose usage says nothing of a command's options.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, but with an error for what is not known."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {shlex.join(unknown)}")
        return namespace, unknown


def create_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole program, other packages' commands included."""
    parser = _Parser(
        prog="punctual",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"punctual {version('punctual')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    serve = commands.add_parser(
        "serve",
        help="Answer detection requests over HTTP.",
        description="Answer detection requests over HTTP.",
        epilog=_SERVE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(serve, SERVE_OPTIONS)
    serve.set_defaults(run=_serve)
    models = commands.add_parser(
        "models",
        help="Show the accuracy and time of each exit of a model.",
        description="Accuracy and measured time of each exit of a model, or of several as one, and "
        "which exits are worth their time.",
    )
    _add_options(models, MODELS_OPTIONS)
    models.set_defaults(run=_models)
    plans = commands.add_parser(
        "plans",
        help="Find the TensorRT plans that were built for this machine's GPU.",
        description="Wait for the model repository with TensorRT plans for this machine's GPU and "
        "TensorRT, check every plan in it, and link it to where Triton is told to look.",
    )
    _add_options(plans, PLANS_OPTIONS, required=("store", "link"))
    plans.set_defaults(run=_plans)
    keys = commands.add_parser(
        "keys",
        help="Make keys for those who may send requests.",
        description="Make keys for those who may send requests (PUNCTUAL_KEYS_FILE).",
    )
    actions = keys.add_subparsers(title="actions", metavar="ACTION", required=True)
    new = actions.add_parser(
        "new",
        help="Make a key.",
        description="Make a key. Its entry for the key file, without the key, goes to the standard "
        "output, and the key, which is kept nowhere, to the standard error.",
        epilog="punctual keys new camera-7 >> keys.toml",
    )
    new.add_argument("name", metavar="NAME", help="name of whoever will hold it")
    new.set_defaults(run=_new_key)
    admin.add_parser(commands)
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
    """Add the commands of other packages.

    One that cannot be imported is reported and left out: it must not take ``serve`` with it.
    """
    for entry in sorted(entry_points(group=COMMANDS_GROUP), key=lambda entry: entry.name):
        try:
            register = entry.load()
        except ImportError as error:
            why = _missing_extra(error) or f"an import failed: {error}"
            _say(f"the commands of {entry.name!r} are left out: {why}")
        else:
            register(commands, _Tools())


# -- how a command ends --------------------------------------------------------------------------


_ENDINGS = (
    CommandError,
    ModuleNotFoundError,
    KeyboardInterrupt,
    OSError,
    MemoryError,
    RuntimeError,
)
"""What may be no defect."""
_NO_MEMORY = re.compile(
    r"allocate memory|out of memory|bad.alloc|Storage size calculation overflowed"
    r"|Failed to allocate",
    re.IGNORECASE,
)
"""How torch, OpenVINO and ONNX Runtime say that there was none, in errors of other kinds."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    return run(create_parser(), argv)


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Run the command that ``argv`` asks ``parser`` for, and say why if it ends early.

    Returns the exit code.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # Names of files may have letters that a terminal has not.
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = parser.parse_args(argv)
    try:
        with _sigterm_interrupts():
            code: int = arguments.run(arguments) or 0
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where it can still be told that it cannot be written
            return code
    except _ENDINGS as error:
        ending = _ending(error)
        if ending is None:
            raise
    for problem in ending.problems:
        _say(problem)
    return ending.exit_code


def _ending(error: BaseException) -> CommandError | None:
    """Return what to say of ``error``; None of one that is a defect."""
    match error:
        case CommandError():
            return error
        case ModuleNotFoundError():
            return _missing_extra(error)
        case OSError():
            return _of_output(error)
        case MemoryError() | RuntimeError():
            return _of_memory(error)
        case Terminated():
            return CommandStopped("stopped", TERMINATED)
        case _:
            return CommandStopped("stopped")


def _of_output(error: OSError) -> CommandError | None:
    """Return what to say where nobody reads the output, or there is no room for it.

    It is None of any other error.
    """
    ending: CommandError
    if isinstance(error, BrokenPipeError):
        ending = OutputUnread()
    elif error.errno == errno.ENOSPC:
        ending = CommandFailed(error_text(error))
    else:
        return None
    # What is left to be written goes nowhere: Python would try again as it ends, and fail again.
    with contextlib.suppress(OSError):  # one that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ending


def _of_memory(error: MemoryError | RuntimeError) -> CommandError | None:
    """Return what to say where there was no memory; None of any other error."""
    said = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or _NO_MEMORY.search(said):
        told = f" ({said})" if said else ""
        return CommandFailed(f"this takes more memory than there is{told}")
    return None


def _missing_extra(error: ImportError) -> MissingExtra | None:
    """Return what installs the module that was not found; None of one that no extra has."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    pip = f"{shlex.quote(sys.executable)} -m pip"  # of this environment, whatever else pip is
    return MissingExtra(f"this needs {module}; {pip} install 'punctual[{EXTRAS[module]}]'")


def _say(sentence: str) -> None:
    print(f"punctual: {sentence}", file=sys.stderr)


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Have SIGTERM raise an exception, as Ctrl-C does.

    So what a command has started ends with it. A server that answers has handlers of its own.
    """
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(*_: object) -> None:
    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
