"""The load tests' commands of ``punctual``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loadtest.cli import autoscaling as autoscaling_cli
from loadtest.cli import cameras as cameras_cli
from loadtest.cli import clients as clients_cli
from loadtest.cli import decisions as decisions_cli
from loadtest.cli import drills as drill_cli
from loadtest.cli import ladders as ladders_cli
from loadtest.cli import live as live_cli
from loadtest.cli import load as load_cli
from loadtest.cli import shares as shares_cli
from loadtest.cli import simulate as simulate_cli
from loadtest.cli import soak as soak_cli
from loadtest.cli import sweep as sweep_cli
from loadtest.cli import triton as triton_cli
from loadtest.cli import variants as variants_cli

if TYPE_CHECKING:
    from serving.artifacts.serving_tools import ServingTools


def register(commands: Any, tools: ServingTools) -> None:
    """Add loadtest, loadgen, simulate, sweep, study and triton to the subparsers ``commands``."""
    load_cli.add_parser(commands)
    simulate_cli.add_parser(commands)
    sweep_cli.add_parser(commands)
    _add_study(commands, tools)
    triton_cli.add_parser(commands)


def _add_study(commands: Any, tools: ServingTools) -> None:
    summary = "Run a study of servers that it starts itself, or in simulation."
    parser = commands.add_parser("study", help=summary, description=summary)
    studies = parser.add_subparsers(title="studies", metavar="STUDY", required=True)
    live_cli.add_parser(studies, tools)
    drill_cli.add_parser(studies)
    autoscaling_cli.add_parser(studies)
    cameras_cli.add_parser(studies)
    clients_cli.add_parser(studies)
    ladders_cli.add_parser(studies)
    decisions_cli.add_parser(studies)
    shares_cli.add_parser(studies)
    soak_cli.add_parser(studies)
    variants_cli.add_parser(studies)
    triton_cli.add_studies(studies, tools)
