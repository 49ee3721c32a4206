"""Options that the client's commands have in common: which server, with which key, and what is
asked of an image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

from punctual.exchange import DEFAULT_URL, DetectOptions, base_url, key_headers
from punctual.problems import AccessDenied, Unreachable
from serving.core.command_errors import (
    CommandError,
    CommandFailed,
    InvalidArgument,
    error_text,
    invalid_arguments,
)
from serving.core.command_numbers import positive
from serving.core.server_options import MAX_KEY_FILE_BYTES, key_hint, no_key

_ASKED = ("deadline_ms", "min_depth", "max_depth", "score_threshold", "classes")


def add_options(parser: argparse.ArgumentParser, deadline_ms: float | None) -> None:
    """Add the options to a command's parser.

    ``deadline_ms`` is the budget without the option; None: the server's.
    """
    server = parser.add_argument_group("server")
    server.add_argument(
        "--url", default=DEFAULT_URL, metavar="URL", help=f"address of the server ({DEFAULT_URL})"
    )
    server.add_argument(
        "--key-file", type=Path, metavar="FILE", help="file that holds nothing but a key"
    )
    asked = parser.add_argument_group("what is asked")
    default = "the server's default" if deadline_ms is None else f"{deadline_ms:g}"
    asked.add_argument(
        "--deadline-ms",
        type=positive,
        default=deadline_ms,
        metavar="MS",
        help=f"budget of an image ({default})",
    )
    asked.add_argument("--min-depth", type=int, metavar="N", help="shallowest exit of use (1)")
    asked.add_argument(
        "--max-depth", type=int, metavar="N", help="deepest exit wanted (the model's deepest)"
    )
    asked.add_argument(
        "--score-threshold",
        type=float,
        metavar="SCORE",
        help="leave out boxes below it (the model's lowest)",
    )
    asked.add_argument(
        "--classes", metavar="NAME,NAME", help="only boxes of these classes (all classes)"
    )


def detect_options(arguments: argparse.Namespace) -> DetectOptions:
    """Return what the options ask of each image."""
    given: dict[str, object] = {
        name: value for name in _ASKED if (value := getattr(arguments, name)) is not None
    }
    if arguments.classes is not None:
        given["classes"] = [name.strip() for name in arguments.classes.split(",")]
    return cast(DetectOptions, given)


def read_server(arguments: argparse.Namespace) -> tuple[str, str | None]:
    """Return the server's URL, and the key to show it, if any. Raises CommandError."""
    with invalid_arguments():
        url = base_url(arguments.url)
    return url, None if arguments.key_file is None else _read_key(arguments.key_file)


def nobody_there(error: Unreachable) -> CommandFailed:
    """Return what to say where no server answers at all."""
    return CommandFailed(f"{error}; `punctual serve` starts a server, --url names another")


def access_denied(problem: AccessDenied, arguments: argparse.Namespace) -> InvalidArgument:
    """Return what to say where the server asks for a key, or for another one."""
    return InvalidArgument(str(problem).rstrip(".") + key_hint(arguments.key_file))


def _read_key(path: Path) -> str:
    try:
        with path.open("rb") as file:
            key = file.read(MAX_KEY_FILE_BYTES).decode("ascii").strip()
        key_headers(key)
    except OSError as error:
        raise CommandError(f"--key-file: {error_text(error)}") from error
    except ValueError as error:
        raise InvalidArgument(no_key(path)) from error
    return key
