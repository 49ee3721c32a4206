"""``punctual admin``: changes of a running server's model, by its HTTP side for admins."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from serving.core.command_errors import (
    CommandFailed,
    InvalidArgument,
    error_text,
    files_of_the_user,
)
from serving.core.server_options import (
    MAX_KEY_FILE_BYTES,
    key_hint,
    no_key,
    other_server,
    server_url_parts,
)

T = TypeVar("T")

URL = "http://127.0.0.1:8000"
ANSWER_WITHIN_S = 10.0
"""Seconds that a server may take to say what is there."""
CHANGE_WITHIN_S = 1200.0
"""Seconds that a change may take: more than the server gives a trial."""

MAX_REPLY_BYTES = 2**20
"""More than the versions of a model take, or a problem."""

_VERSIONS = "/v1/admin/models"
_SHOWN = 80
_OF_ANOTHER_SHAPE = (ValueError, LookupError, TypeError, RecursionError)
"""What comes of JSON that is none, or is about something else."""
_DENIED = (401, 403)

_MODEL = "the model's name, as list has it; by default the one that is there"


def add_parser(commands: Any) -> None:
    """Add admin to the subparsers ``commands``."""
    summary = "Change the model of a running server."
    admin = commands.add_parser(
        "admin",
        help=summary,
        description="List, load and unload versions of the model of a running server, while it "
        "serves. It asks the server's side for admins, with an admin's key where keys are asked "
        "for.",
    )
    actions = admin.add_subparsers(title="actions", metavar="ACTION", required=True)
    _action(actions, "list", "the versions that are there", _list)
    for name, text in (
        ("load", "serve what lies in the repository now"),
        ("reload", "do as load does, also where it is what serves already"),
    ):
        parser = _action(actions, name, text, _load)
        parser.add_argument("model", nargs="?", metavar="NAME", help=_MODEL)
        roles = parser.add_mutually_exclusive_group()
        roles.add_argument(
            "--canary",
            type=_share,
            metavar="SHARE",
            help="only beside what serves, for this share of the requests, such as .05",
        )
        roles.add_argument(
            "--shadow",
            action="store_true",
            help="only beside what serves, to answer again what that has answered, for comparison",
        )
        parser.set_defaults(again=name == "reload")
    unload = _action(actions, "unload", "let the model go: the server is not ready then", _unload)
    unload.add_argument("model", nargs="?", metavar="NAME", help=_MODEL)
    unload.add_argument(
        "--candidate", action="store_true", help="let go only what is beside the one that serves"
    )


def _action(actions: Any, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=f"{text}.")
    parser.add_argument("--url", default=URL, help=f"of the server's side for admins ({URL})")
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="file that holds an admin's key, alone"
    )
    parser.set_defaults(run=run)
    return parser


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0.0 < share < 1.0:
        raise argparse.ArgumentTypeError(f"a share of the requests is between 0 and 1, not {text}")
    return share


def _list(options: argparse.Namespace) -> None:
    print("\n".join(_ask(options, _VERSIONS, ANSWER_WITHIN_S, _lines)))


def _lines(there: Any) -> list[str]:
    """Return what there is, in lines, by the JSON of a reply."""
    lines = [
        f"{each['name']}  {each['release']}  {each['role']} {each['share']:g}  {_state(each)}"
        for each in there["versions"]
    ]
    if not lines:
        lines = [f"{_model_in(there)}  {_state(there)}"]
    return [*lines, *(["a change is under way"] if there["changing"] else [])]


def _state(each: Any) -> str:
    return "ready" if each["ready"] is True else "not ready"


def _model_in(there: Any) -> str:
    return _text(there["model"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _load(options: argparse.Namespace) -> None:
    parameters = {
        "canary": options.canary,
        "shadow": options.shadow or None,
        "again": options.again or None,
    }
    _change(options, "load", parameters)


def _unload(options: argparse.Namespace) -> None:
    _change(options, "unload", {"candidate": options.candidate or None})


def _change(options: argparse.Namespace, what: str, parameters: Mapping[str, Any]) -> None:
    from urllib.parse import quote  # noqa: PLC0415  not for --help

    name = options.model or _ask(options, _VERSIONS, ANSWER_WITHIN_S, _model_in)
    given = {key: value for key, value in parameters.items() if value is not None}
    path = f"/v2/repository/models/{quote(name, safe='')}/{what}"
    said = _ask(
        options, path, CHANGE_WITHIN_S, lambda told: _text(told["message"]), {"parameters": given}
    )
    print(said)


@files_of_the_user()
def _ask(
    options: argparse.Namespace,
    path: str,
    within_s: float,
    read: Callable[[Any], T],
    message: Any = None,
) -> T:
    """Return what ``read`` finds in the JSON that the server answers.

    Raises CommandFailed with what it says against it, or when it is not there or another server.
    """
    import http.client  # noqa: PLC0415  not for --help
    import urllib.error  # noqa: PLC0415
    import urllib.request  # noqa: PLC0415

    class NoRedirects(urllib.request.HTTPRedirectHandler):
        """What follows none: the key is for the server that was named, and for no other."""

        def redirect_request(self, *_: object) -> None:
            return None

    if server_url_parts(options.url) is None:
        raise InvalidArgument(f"--url={options.url} is no address of a server: it is as {URL}")
    headers = {"Content-Type": "application/json", "Accept": "application/problem+json"}
    if options.key_file is not None:
        try:
            with options.key_file.open("rb") as file:
                key = file.read(MAX_KEY_FILE_BYTES).decode("ascii").strip()
        except OSError as error:
            raise InvalidArgument(f"--key-file: {error_text(error)}") from error
        except UnicodeDecodeError as error:
            raise InvalidArgument(no_key(options.key_file)) from error
        if not key or not key.isprintable():
            raise InvalidArgument(no_key(options.key_file))
        headers["Authorization"] = f"Bearer {key}"
    body = None if message is None else json.dumps(message).encode()
    request = urllib.request.Request(options.url.rstrip("/") + path, body, headers)
    try:
        with _reply(urllib.request.build_opener(NoRedirects), request, within_s) as reply:
            status, reason, body = reply.status, reply.reason, reply.read(MAX_REPLY_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)
        raise CommandFailed(f"no answer from {options.url}: {why}") from error
    if status == http.client.OK:
        try:
            return read(json.loads(body[:MAX_REPLY_BYTES]))
        except _OF_ANOTHER_SHAPE as error:
            raise CommandFailed(other_server(options.url, path, _start(body))) from error
    said = _said(body, f"{options.url} answered {status} {reason}")
    if status == http.client.NOT_FOUND and path == _VERSIONS:
        said = f"{options.url} is not a server's side for admins (--admin-port): {said}"
    if status in _DENIED:
        said = said.rstrip(".") + key_hint(options.key_file)
    raise CommandFailed(said)


def _reply(opener: Any, request: Any, within_s: float) -> Any:
    """Return a reply, whatever its status is. Raises OSError and HTTPException."""
    import urllib.error  # noqa: PLC0415

    try:
        return opener.open(request, timeout=within_s)
    except urllib.error.HTTPError as error:
        return error


def _said(body: bytes, otherwise: str) -> str:
    """Return what a problem says to people."""
    try:
        return str(json.loads(body)["detail"])
    except _OF_ANOTHER_SHAPE:
        return otherwise


def _start(body: bytes) -> str:
    return repr(body[:_SHOWN].decode("utf-8", "replace")) if body else "nothing"
