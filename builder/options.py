"""What the builder's commands have in common on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

DATASETS = ("bccd", "coco", "deeppcb", "voc", "yolo")
BAD_ANNOTATIONS = ("skip", "refuse")
"""As in ``builder.data``, which --help need not import."""


def add_command(commands: Any, name: str, summary: str, details: str) -> argparse.ArgumentParser:
    """A command among the subparsers ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary} {details}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    return parser


def add_data(parser: argparse.ArgumentParser) -> None:
    """Where a data set is, and what to do about what is wrong in it."""
    parser.add_argument("--data", type=Path, help="folder of the data set [data/DATASET]")
    parser.add_argument(
        "--bad-annotations",
        choices=BAD_ANNOTATIONS,
        default=BAD_ANNOTATIONS[0],
        help="what to do about those that cannot be used",
    )


def add_split(parser: argparse.ArgumentParser) -> None:
    """Which images a model is tried on."""
    parser.add_argument("--dataset", choices=DATASETS, default="bccd", help="how it is laid out")
    parser.add_argument("--split", default="test")
