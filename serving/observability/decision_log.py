"""Decision log: what the policy saw, did and why, a line each, in a file of bounded size."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path

from serving.core.decision_text import describe
from serving.core.policy import Decision, Snapshot

MAX_BYTES = 32 * 2**20
"""Most bytes of the file; the one before it is kept beside it.

A busy engine writes about 100 kB a second.
"""


class DecisionLog:
    """One log of decisions, written to ``path`` after what is there.

    It is for the executor's thread; a write takes some tens of microseconds, which the latency
    model counts as part of each run.
    """

    def __init__(self, path: Path, sizes: Sequence[str]) -> None:
        """Open the file; ``sizes`` are the names of the input sizes, by their numbers.

        Raises OSError if it cannot be written.
        """
        self._sizes = sizes
        self._handler = RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=1)
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def __call__(self, snapshot: Snapshot, decision: Decision) -> None:
        line = describe(snapshot, decision, self._sizes)
        self._handler.handle(logging.LogRecord("decisions", logging.INFO, "", 0, line, (), None))

    def close(self) -> None:
        """Close the file."""
        self._handler.close()
