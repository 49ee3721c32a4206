"""``punctual gpu``: what an NVIDIA GPU makes of the models, as one JSON file and a table.

    for each model:   ceiling -> each runtime: paths by batch and exit, accuracy -> torch by itself
                         '-------------- written to the file after every step ---------------'

Light to import, as the other commands are: torch comes with ``gpu_measure``, when the command runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli.options import DATASETS, add_repository
from builder.config.named import CONFIGS
from builder.gpu.report import markdown
from reporting.files import write_whole
from serving.core.command_errors import files_of_the_user
from serving.core.command_numbers import at_least

if TYPE_CHECKING:
    from serving.artifacts.serving_tools import ServingTools

RUNTIMES = ("torch", "tensorrt")
BATCHES = (1, 4, 8)


def add_parser(commands: Any, tools: ServingTools) -> None:
    """Add ``gpu`` to the subparsers ``commands``."""
    summary = "Measure models on an NVIDIA GPU."
    parser: argparse.ArgumentParser = commands.add_parser(
        "gpu",
        help=summary,
        description=f"{summary} Milliseconds by exit and batch of unit segments and fused exits, "
        "their ratio, the share of the GPU's matrix ceiling, and accuracy where there is a data "
        "set, through the runners that serve. OUT is written after every step.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_repository(parser)
    parser.add_argument("--model", nargs="*", default=["bccd"], help="models in the repository")
    parser.add_argument(
        "--config", nargs="*", default=[], choices=sorted(CONFIGS), help="with random weights"
    )
    parser.add_argument("--runtime", nargs="*", default=list(RUNTIMES), choices=RUNTIMES)
    parser.add_argument("--batch", type=at_least(1), nargs="+", default=list(BATCHES))
    parser.add_argument("--depth", type=at_least(1), nargs="+", help="exits to leave at [all]")
    parser.add_argument("--rounds", type=at_least(1), default=100, help="of every path")
    parser.add_argument(
        "--framework",
        nargs="*",
        default=["eager"],
        choices=("eager", "compiled"),
        help="torch by itself, for comparison, at the deepest exit; compiled takes minutes",
    )
    parser.add_argument("--data", type=Path, help="folder of the data set [data/DATASET]")
    parser.add_argument(
        "--dataset", choices=DATASETS, default="bccd", help="how the data set is laid out"
    )
    parser.add_argument("--split", default="test")
    parser.add_argument("--device", default="cuda", help="what torch computes on by itself")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="and OUT's .md")
    parser.set_defaults(run=lambda options: _run(options, tools))


@files_of_the_user()
def _run(options: argparse.Namespace, tools: ServingTools) -> None:
    from builder.gpu.measure import measure

    text = markdown(measure(options, tools))
    write_whole(options.out.with_suffix(".md"), text)
    print(text)
