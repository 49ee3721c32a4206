"""How a command ends otherwise than it was meant to: with a sentence, or stopped."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

STOPPED = 130
"""Exit status of a command that was stopped."""


class CommandError(Exception):
    """A command cannot do what it was asked for; the message is one sentence for who asked."""


def failed(error: Exception) -> int:
    """Say what ``error`` says; the exit status."""
    print(f"punctual: {error}", file=sys.stderr)
    return 1


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM is a KeyboardInterrupt, as Ctrl-C is."""
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
