"""What the builder's commands have in common on the command line."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import time
from glob import glob
from pathlib import Path
from typing import Any

from builder.config.detector import MAX_INPUT_SIDE
from serving.core.command_numbers import at_least

RUNTIMES = ("openvino", "onnxruntime", "torch", "tensorrt")

PRECISIONS = ("f32", "bf16", "int8")
"""As in ``serving.models.repository``: where a runtime can be asked for one."""

LAYOUTS = ("coco", "voc", "yolo")
"""Of data sets of any name."""
DATASETS = ("bccd", "coco", "deeppcb", "mix", "voc", "yolo")
BAD_ANNOTATIONS = ("skip", "refuse")
"""As in ``builder.data``, which --help need not import."""


def add_command(commands: Any, name: str, summary: str, details: str) -> argparse.ArgumentParser:
    """Add a command to the subparsers ``commands``, and return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary} {details}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    return parser


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add where a data set is, and what to do about what is wrong in it."""
    parser.add_argument("--data", type=Path, help="folder of the data set [data/DATASET]")
    parser.add_argument(
        "--bad-annotations",
        choices=BAD_ANNOTATIONS,
        default=BAD_ANNOTATIONS[0],
        help="what to do about those that cannot be used",
    )


def data_of(options: argparse.Namespace) -> tuple[Path, str]:
    """Return where the data set is, and its name.

    That is the name of its folder, where ``--dataset`` says only how it is laid out.
    """
    data = options.data or Path("data") / options.dataset
    return data, data.resolve().name if options.dataset in LAYOUTS else options.dataset


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add which images a model is tried on."""
    parser.add_argument("--dataset", choices=DATASETS, default="bccd", help="how it is laid out")
    parser.add_argument("--split", default="test")


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add how many threads a runner on a CPU has."""
    parser.add_argument("--threads", type=at_least(1), help="CPU threads of the runner [all cores]")


def add_repository(parser: argparse.ArgumentParser) -> None:
    """Add which model repository is read or written."""
    parser.add_argument("--model-repository", type=Path, default=Path("model_repo"))


def add_cpu_runtime(parser: argparse.ArgumentParser) -> None:
    """Add which runtime of a CPU runs segments that are not in a repository, and its threads."""
    parser.add_argument("--runtime", choices=RUNTIMES[:2], default=RUNTIMES[0])
    add_threads(parser)


def add_model(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add which model of which repository, and what runs it."""
    add_repository(parser)
    text = "name of the model, without _anytime"
    parser.add_argument("--model", required=True, nargs="+" if several else None, help=text)
    parser.add_argument("--runtime", choices=RUNTIMES, default="openvino")
    add_threads(parser)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add what to measure it in; figures are kept apart from those of other precisions."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of convolutions, on openvino; int8 takes segments that build quantised [what is fast "
        "here of f32 and bf16]",
    )


def add_write(parser: argparse.ArgumentParser) -> None:
    """Add whether what was measured is kept."""
    parser.add_argument("--write", action="store_true", help="record the figures in the catalogue")


def command_line() -> str:
    """Return the command that this process was started with, for the record."""
    return "punctual " + shlex.join(sys.argv[1:])


def stem_path(text: str) -> Path:
    """Return the path of an option that suffixes are put behind. Raises ArgumentTypeError."""
    path = Path(text)
    if path.name in ("", "..") or path.parent.is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a file in a folder")
    return path


def today() -> str:
    """Return the date in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def input_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Return the input sizes, (height, width) in pixels, that an option lists."""
    sizes = []
    for part in text.split(","):
        matched = re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", part.strip())
        if matched is None:
            raise argparse.ArgumentTypeError(f"{part!r} is no size, such as 300 or 640x512")
        width, height = int(matched[1]), int(matched[2] or matched[1])
        if max(width, height) > MAX_INPUT_SIDE:
            raise argparse.ArgumentTypeError(f"{part!r} is larger than {MAX_INPUT_SIDE} pixels")
        sizes.append((height, width))
    return tuple(sizes)


def files_of_glob(pattern: str) -> list[Path]:
    """Return the files that ``pattern`` is a glob of, in the order of their names.

    A file that is called so is meant itself: names may have brackets.
    """
    if os.path.isfile(pattern):
        return [Path(pattern)]
    return sorted(path for path in map(Path, glob(pattern)) if path.is_file())
