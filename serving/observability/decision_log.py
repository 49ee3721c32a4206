"""The decision log: what the policy saw, what it did and why, a line each, in a file of bounded
size."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from serving.core.decision_text import describe
from serving.core.policy import Decision, Snapshot

MAX_BYTES = 32 * 2**20
"""Of the file; the one before it is kept beside it. A busy engine writes about 100 kB a second."""


class DecisionLog:
    """Writes to ``path``, after what is there. For the executor's thread; a write takes some tens
    of microseconds, which the latency model counts as part of each run."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if the file cannot be written."""
        self._handler = RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=1)
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def __call__(self, snapshot: Snapshot, decision: Decision) -> None:
        line = describe(snapshot, decision)
        self._handler.handle(logging.LogRecord("decisions", logging.INFO, "", 0, line, (), None))

    def close(self) -> None:
        """End the file."""
        self._handler.close()
