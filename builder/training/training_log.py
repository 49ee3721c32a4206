"""Log of a training run as JSON lines, and its curves for TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.training.distributed import Processes

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"


class TrainingLog:
    """One training run's log, which the first process writes; the others write nothing."""

    def __init__(self, out: Path, processes: Processes, epoch: int, step: int, board: bool) -> None:
        """Open the log of a run that goes on after ``epoch`` and ``step``.

        Later lines and events are of a run that ended before its checkpoint was written: they are
        taken back.
        """
        self._path = out / LOG
        self._is_first = processes.is_first
        self._writer: Any = None
        if not self._is_first:
            return
        lines = self._path.read_text().splitlines(True) if epoch and self._path.exists() else []
        partial = self._path.with_name(f"{LOG}.partial")
        partial.write_text("".join(line for line in lines if _epoch(line) <= epoch))
        partial.replace(self._path)
        if board:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  an optional log

            self._writer = SummaryWriter(str(out / TENSORBOARD), purge_step=step)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line to the log."""
        if self._is_first:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def plot(self, name: str, value: float, step: int) -> None:
        """Add a point to the curve ``name``."""
        if self._writer is not None:
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is not yet on disk."""
        if self._writer is not None:
            self._writer.close()


def _epoch(line: str) -> float:
    """Return the epoch that a line is of; infinity for one that a killed process did not end."""
    try:
        return float(json.loads(line)["epoch"])
    except ValueError:
        return math.inf
