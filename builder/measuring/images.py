"""Image files as a model's input, for the commands that borrow the server's decoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from serving.core.command_errors import CommandError
from serving.core.errors import InvalidRequest
from serving.core.letterbox import Letterbox, ModelInput
from serving.core.ports import Image

LoadImage = Callable[[bytes, ModelInput], tuple[Image, Letterbox]]
"""Type of ``ServingTools.load_image``: bytes and an input to an image and its placement there."""


class UnreadableImage(CommandError):
    """Error of a file that is no image that can be decoded; the message names it."""


def read_image(
    path: Path, model_input: ModelInput, load_image: LoadImage
) -> tuple[Image, Letterbox]:
    """Return the image in ``path`` as a model's input, and where it lies there.

    Raises UnreadableImage.
    """
    try:
        return load_image(path.read_bytes(), model_input)
    except (OSError, InvalidRequest) as error:
        raise UnreadableImage(f"{path} cannot be used: {error}") from error
