"""The client's commands of ``punctual``. Light to import: what a command needs is loaded by it."""

from __future__ import annotations

from typing import Any

from punctual.cli import detect as detect_cli
from punctual.cli import watch as watch_cli


def register(commands: Any, _tools: object) -> None:
    """Add the client's commands to the subparsers ``commands``."""
    detect_cli.add_parser(commands)
    watch_cli.add_parser(commands)
