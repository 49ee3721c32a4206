"""Commands run in this process as ``punctual`` runs them, with what they borrow from the server
replaced."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from serving.__main__ import run


def run_command(add_parsers: Callable[[Any], object], *arguments: object) -> int:
    """Return the exit code of the command that ``arguments`` ask for, of those whose parsers
    ``add_parsers`` adds."""
    parser = argparse.ArgumentParser(prog="punctual")
    add_parsers(parser.add_subparsers(required=True))
    return run(parser, [str(argument) for argument in arguments])
