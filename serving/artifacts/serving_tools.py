"""Tools of the server that offline commands borrow, handed to them by the ``punctual`` program."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from serving.core.letterbox import Letterbox, ModelInput
from serving.core.ports import CreatePolicy, Image, SegmentRunner
from serving.core.segment import Segment


class ServingTools(Protocol):
    """The tools of the server that offline commands borrow.

    So accuracy and latency are measured through the very code that serves.
    """

    def open_runner(
        self,
        runtime: str,
        folder: Path,
        num_threads: int | None,
        wanted: Collection[Segment] | None = None,
        precision: str | None = None,
        size: str | None = None,
    ) -> SegmentRunner:
        """Return the runner called ``runtime`` over the segments in ``folder``.

        It runs the input size called ``size``, or the only one.

        It has all that it can run, or those ``wanted`` (CPU runtimes only), in ``precision`` or
        what the runtime chooses.
        """

    def open_family(
        self,
        runtime: str,
        folders: Sequence[Path],
        num_threads: int | None,
        precision: str | None = None,
    ) -> SegmentRunner:
        """Return one runner of ``runtime`` over all input sizes of the models in ``folders``."""

    def load_image(
        self, data: bytes, model_input: ModelInput, inputs: Collection[ModelInput] = ()
    ) -> tuple[Image, Letterbox]:
        """Return an encoded image as a model's input, exactly as for a request.

        Of a family, that is the common frame, and ``inputs`` are its ``scaled_inputs``; what comes
        is for its runner alone to look into.
        """

    def serve(self, arguments: Sequence[str], create_policy: CreatePolicy) -> None:
        """Run ``punctual serve`` with these options, but another policy, until told to end."""
