"""Numbers on the command line: types of options, which argparse asks for a value or why not."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def positive(text: str) -> float:
    """Return a finite number above 0. Raises argparse.ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def between(least: float, most: float = math.inf) -> Callable[[str], float]:
    """Return the type of an option that is a finite number from ``least`` to ``most``."""
    span = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is no number {span}")
        return value

    return number


not_negative = between(0.0)
"""Type of an option that is a number from 0 on."""
share = between(0.0, 1.0)
"""Type of an option that is a number from 0 to 1."""


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return the type of an option that is a whole number from ``least`` on, or to ``most``."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"{value} is more than {most}")
        return value

    return number


natural = at_least(0)
"""Type of an option that is a whole number from 0 on, such as a seed."""
count = at_least(1)
"""Type of an option that is a whole number from 1 on."""
