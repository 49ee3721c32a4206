"""What offline commands borrow from the server, handed to them by the ``punctual`` program."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from serving.core.letterbox import Letterbox
from serving.core.ports import CreatePolicy, Image, SegmentRunner
from serving.core.segment import Segment


class ServingTools(Protocol):
    """What offline commands borrow from the server, so that accuracy and latency are measured
    through the very code that serves."""

    def open_runner(
        self,
        runtime: str,
        folder: Path,
        num_threads: int | None,
        wanted: Collection[Segment] | None = None,
        precision: str | None = None,
    ) -> SegmentRunner:
        """The runner called ``runtime`` over the segments in ``folder``: all that it can run, or
        those ``wanted`` (CPU runtimes only), in ``precision`` or what the runtime chooses."""

    def load_image(self, data: bytes, width: int, height: int) -> tuple[Image, Letterbox]:
        """An encoded image, decoded and letterboxed exactly as for a request."""

    def serve(self, arguments: Sequence[str], create_policy: CreatePolicy) -> int:
        """``punctual serve`` with these options, but another policy, until told to end; the exit
        code."""
