"""The builder's commands of ``punctual``. Light to import: torch is loaded by the command that
needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.cli import build as build_cli
from builder.cli import evaluate as evaluate_cli
from builder.cli import figure as figure_cli
from builder.cli import gpu as gpu_cli
from builder.cli import model as model_cli
from builder.cli import onnx_import as onnx_import_cli
from builder.cli import profile as profile_cli
from builder.cli import rank as rank_cli
from builder.cli import search as search_cli
from builder.cli import train as train_cli

if TYPE_CHECKING:
    from serving.artifacts.serving_tools import ServingTools


def register(commands: Any, tools: ServingTools) -> None:
    """Add the builder's commands to the subparsers ``commands``."""
    model_cli.add_parsers(commands)
    onnx_import_cli.add_parser(commands, tools)
    train_cli.add_parsers(commands)
    figure_cli.add_parser(commands, tools)
    build_cli.add_parser(commands, tools)
    evaluate_cli.add_parsers(commands, tools)
    profile_cli.add_parser(commands, tools)
    rank_cli.add_parser(commands, tools)
    gpu_cli.add_parser(commands, tools)
    search_cli.add_parser(commands, tools)
