"""``punctual detect``: the boxes of image files, as text, as JSON or as drawings."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from punctual.cli.options import (
    access_denied,
    add_options,
    detect_options,
    nobody_there,
    read_server,
)
from punctual.cli.pictures import drawing_paths, find_pictures
from punctual.problems import AccessDenied, Problem, PunctualError, Unreachable
from serving.core.command_errors import (
    CommandError,
    CommandFailed,
    InvalidArgument,
    files_of_the_user,
    invalid_arguments,
)
from serving.core.command_numbers import positive

if TYPE_CHECKING:
    from punctual.reply import Reply

_EPILOG = """\
try it:
  punctual serve
  punctual detect docs/images/coffee.jpg --score-threshold 0.4 --draw drawn.jpg
"""

_OF_ALL_IMAGES = ("invalid-parameter", "not-found", "method-not-allowed", "misdirected-request")
"""Problems that every other image would have, too."""


def add_parser(commands: Any) -> None:
    """Add detect to the subparsers ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "detect",
        help="Find objects in image files.",
        description="Send image files to a server, one after the other, and print the boxes that "
        "it finds. An image that fails is reported on the standard error; the others are done "
        "all the same, and the exit code is then 1.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="JPEG, PNG or WebP files, folders of them, or patterns such as 'in/**/*.jpg'",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each image")
    parser.add_argument(
        "--draw",
        type=Path,
        metavar="OUT",
        help="write pictures with the boxes there: a folder, or a file for one image",
    )
    parser.add_argument(
        "--patience",
        type=positive,
        default=10.0,
        metavar="SECONDS",
        help="how long to ask again for an image if the server says when to (10)",
    )
    add_options(parser, deadline_ms=None)
    parser.set_defaults(run=_detect)


@files_of_the_user()
def _detect(arguments: argparse.Namespace) -> None:
    url, key = read_server(arguments)
    options = detect_options(arguments)
    pictures = find_pictures(arguments.images)
    drawings = {} if arguments.draw is None else drawing_paths(pictures, arguments.draw)

    from tqdm import tqdm

    from punctual.client import Client

    describe = _as_json if arguments.json else _as_text
    num_refused = 0
    with invalid_arguments():
        made = Client(url, key=key, patience_s=arguments.patience)
    with (
        made as client,
        # Nobody watches what is no terminal, and one image is soon done.
        tqdm(pictures, unit="image", disable=True if len(pictures) == 1 else None) as bar,
    ):
        for picture in bar:
            try:
                reply = client.detect(picture.path, **options)
            except AccessDenied as problem:
                raise access_denied(problem, arguments) from problem
            except Problem as problem:
                if problem.slug in _OF_ALL_IMAGES:
                    raise InvalidArgument(str(problem)) from problem
                num_refused += 1
                bar.write(f"{picture.path}: {problem}", file=sys.stderr)
            except OSError as error:
                num_refused += 1
                bar.write(f"{picture.path}: {error.strerror}", file=sys.stderr)
            except Unreachable as error:
                raise nobody_there(error) from error
            except PunctualError as error:
                raise CommandFailed(str(error)) from error
            else:
                bar.write("\n".join(describe(picture.path, reply)))
                if picture.path in drawings:
                    _draw(picture.path, reply, drawings[picture.path])
    if num_refused:
        raise CommandFailed(f"{num_refused} of {len(pictures)} images were not answered")


def _as_json(path: Path, reply: Reply) -> Iterator[str]:
    yield json.dumps({"file": str(path), **reply.raw})


def _as_text(path: Path, reply: Reply) -> Iterator[str]:
    """Yield a line about the answer, and one for each box."""
    timings = reply.timings
    yield (
        f"{path}  {reply.width}x{reply.height}  {reply.operating_point}, "
        f"{timings.elapsed_ms:.0f} of {timings.budget_ms:g} ms"
        + (", degraded to be on time" if reply.degraded else "")
    )
    widest = max((len(label) for label in reply.labels), default=0)
    for found in reply.detections:
        corners = "".join(f"{value:7.0f}" for value in found.box)
        yield f"  {found.label:<{widest}}  {found.score:.2f} {corners}"


def _draw(path: Path, reply: Reply, out: Path) -> None:
    from PIL import Image, UnidentifiedImageError

    from punctual.cli.drawing import as_seen, draw_detections

    try:
        with Image.open(path) as opened:
            picture = as_seen(opened)
    except UnidentifiedImageError as error:
        raise CommandError(f"--draw: {path} can be read by the server alone") from error
    draw_detections(picture, reply.detections)
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out)
