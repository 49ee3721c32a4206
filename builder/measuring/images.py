"""Image files as a model's input, for the commands that borrow the server's decoder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from serving.core.command_errors import CommandError
from serving.core.errors import InvalidRequest
from serving.core.letterbox import Letterbox, ModelInput
from serving.core.ports import Image


class LoadImage(Protocol):
    """Type of ``ServingTools.load_image``."""

    def __call__(
        self, data: bytes, model_input: ModelInput, inputs: Collection[ModelInput] = ()
    ) -> tuple[Image, Letterbox]: ...


class UnreadableImage(CommandError):
    """Error of a file that is no image that can be decoded; the message names it."""


def read_image(
    path: Path,
    model_input: ModelInput,
    load_image: LoadImage,
    inputs: Collection[ModelInput] = (),
) -> tuple[Image, Letterbox]:
    """Return the image in ``path`` as a model's input, and where it lies there.

    Of a family that is the common frame, and ``inputs`` are its ``scaled_inputs``.

    Raises UnreadableImage.
    """
    try:
        return load_image(path.read_bytes(), model_input, inputs)
    except (OSError, InvalidRequest) as error:
        raise UnreadableImage(f"{path} cannot be used: {error}") from error
