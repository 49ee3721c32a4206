"""What a training run says about itself: a log of JSON lines, and curves for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.processes import Processes

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"


class Journal:
    """Written by the first process; the others say nothing."""

    def __init__(self, out: Path, processes: Processes, epoch: int, step: int, board: bool) -> None:
        """Lines and events after ``epoch`` and ``step`` are of a run that ended before its
        checkpoint was written: they are taken back."""
        self._path = out / LOG
        self._is_first = processes.is_first
        self._writer: Any = None
        if not self._is_first:
            return
        kept = self._path.read_text().splitlines(True) if epoch and self._path.exists() else []
        lines = (line for line in kept if json.loads(line)["epoch"] <= epoch)
        self._path.write_text("".join(lines))
        if board:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  an optional log

            self._writer = SummaryWriter(str(out / TENSORBOARD), purge_step=step)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line of the log."""
        if self._is_first:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def plot(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve."""
        if self._writer is not None:
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is not yet on disk."""
        if self._writer is not None:
            self._writer.close()
