"""``punctual search``: look for a better pyramid.

    run        search, or evaluate a list of graphs      kinds   options that several actions have
    findings   report, benchmark, agreement, contest     times   latency, times      space   space
    share      weights that all graphs share

Depends on ``builder.config``, ``builder.search``, ``reporting``, ``serving.artifacts`` and
``serving.core``. Begin with ``run``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.cli.search import findings, run, share, space, times

if TYPE_CHECKING:
    from serving.artifacts.serving_tools import ServingTools


def add_parser(commands: Any, tools: ServingTools) -> None:
    """Add search to the subparsers ``commands``."""
    parser = commands.add_parser(
        "search",
        help="Look for a better pyramid.",
        description="Look for a pyramid of the neck that is worth more than those that are known: "
        "propose graphs, train a small detector with each, and learn from what comes of it.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    run.add_parser(actions)
    share.add_parser(actions)
    findings.add_parsers(actions)
    times.add_parsers(actions, tools)
    space.add_parser(actions)
