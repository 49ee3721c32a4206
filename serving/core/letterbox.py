"""Letterbox geometry: how an image of any size lies in the model's fixed input.

The image is scaled by one factor so that it fits, and is put in the top-left corner or in the
centre; the rest is padding. A model may also be trained on images stretched to its input, each axis
by a factor of its own. Pixels are treated as areas: a box edge at 0 is the left edge of the first
pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

PAD_VALUE = 114
"""Grey level of the padding, in all three channels."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """The placement of one image in the model's input. Sizes are in pixels."""

    original_width: int
    original_height: int
    resized_width: int
    resized_height: int
    left: int = 0
    """Width of the padding to the left of the image."""
    top: int = 0
    """Height of the padding above the image."""

    def to_original(self, boxes_xyxy_input: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map boxes from pixels of the model's input to pixels of the original image.

        They are ``(N, 4)``, and clipped to the image.
        """
        scale = np.array(
            [
                self.original_width / self.resized_width,
                self.original_height / self.resized_height,
            ],
            dtype=np.float32,
        )
        corner = np.array([self.left, self.top], dtype=np.float32)
        limit = np.array([self.original_width, self.original_height], dtype=np.float32)
        corners = (boxes_xyxy_input.reshape(-1, 2, 2) - corner) * scale  # (N, 2 corners, xy)
        clipped: npt.NDArray[np.float32] = np.clip(corners, 0, limit).reshape(-1, 4)
        return clipped


def fit(
    original_width: int, original_height: int, input_width: int, input_height: int
) -> Letterbox:
    """Return the largest placement of the image in the input that keeps its aspect ratio.

    It does so to the pixel; the placement has at least one pixel each way.
    """
    scale = min(input_width / original_width, input_height / original_height)
    return Letterbox(
        original_width,
        original_height,
        resized_width=max(1, round(original_width * scale)),
        resized_height=max(1, round(original_height * scale)),
    )


def fit_centre(
    original_width: int, original_height: int, input_width: int, input_height: int
) -> Letterbox:
    """Return the placement of ``fit`` with as much padding on both sides of the image.

    An odd pixel is to the right of it or below it, where Ultralytics has it.
    """
    placement = fit(original_width, original_height, input_width, input_height)
    return replace(
        placement,
        left=(input_width - placement.resized_width) // 2,
        top=(input_height - placement.resized_height) // 2,
    )


def stretch(
    original_width: int, original_height: int, input_width: int, input_height: int
) -> Letterbox:
    """Return the placement that fills the input, whatever the image's aspect ratio."""
    return Letterbox(original_width, original_height, input_width, input_height)


PLACEMENTS: dict[str, Callable[[int, int, int, int], Letterbox]] = {
    "letterbox": fit,
    "letterbox-centre": fit_centre,
    "stretch": stretch,
}
"""Placements by name: functions of the image's width and height and those of the input."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What a model takes: an image of this size, in pixels, that was brought to it so."""

    width: int
    height: int
    resize: str
    """Key of ``PLACEMENTS``."""

    @property
    def size(self) -> str:
        """Name of the size: width x height in pixels, such as ``300x300``."""
        return f"{self.width}x{self.height}"

    def is_scaled(self, other: ModelInput) -> bool:
        """Return whether every image lies in ``other`` as it does here, but for the scale."""
        return self.resize == other.resize and (
            self.resize == "stretch" or self.width * other.height == self.height * other.width
        )

    def place(self, original_width: int, original_height: int) -> Letterbox:
        """Return the placement of an image of this size in the input."""
        place = PLACEMENTS[self.resize]
        return place(original_width, original_height, self.width, self.height)
