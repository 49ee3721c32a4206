"""Interface between a protocol and the service of its requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serving.api.cutting import Cut
from serving.api.options import Options
from serving.core.errors import ServingError
from serving.core.letterbox import Letterbox
from serving.core.tiling import ImageDetections, Region
from serving.imaging.probing import Header


@dataclass(frozen=True, slots=True)
class DetectionResult:
    """One answered request's result: what any protocol may tell of it."""

    request_id: str
    model: str
    """Name of the model that answered."""
    version: str
    """Its version, as its catalogue calls it."""
    placement: Letterbox
    boxes_xyxy: npt.NDArray[np.float32]  # (N, 4), pixels of the original image, best first
    scores: npt.NDArray[np.float32]  # (N,)
    labels: npt.NDArray[np.int32]  # (N,)
    facts: Mapping[str, str | float | bool]
    """Facts of how the result came about, under the names of ``schemas.DetectionResponse``."""
    track_ids: Sequence[int | None] | None = None
    """Which object each box is of, None if that is not known; None if nobody asked."""


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One image file, or bare pixels."""

    data: bytes
    header: Header


@dataclass(frozen=True, slots=True)
class PartResult:
    """What became of one part of a request."""

    region: Region | None
    """Where in the image it is; None if it is an image of its own, or nowhere."""
    outcome: DetectionResult | ServingError
    """Boxes of a region are in pixels of the image that it was cut out of."""


@dataclass(frozen=True, slots=True)
class PartsResult:
    """What became of a request with several parts, of which one was answered at least."""

    request_id: str
    parts: tuple[PartResult, ...]
    size: tuple[int, int] | None
    """Upright width and height of the image that was cut; None of several images."""
    merged: ImageDetections | None
    """Boxes of all tiles as one answer, if they are tiles."""
    facts: Mapping[str, float]
    """Facts of the whole request: budget, and what was left of it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a request: several images, or one image and how it is cut."""

    images: tuple[EncodedImage | ServingError, ...]
    cut: Cut | None
    write: Callable[[PartsResult], Response]


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """One request that has been read: its image and what is asked."""

    data: bytes
    header: Header
    """Format and size of the image in ``data``."""
    options: Options
    timeout_s: float | None
    """Budget in seconds that was stated in the body, if any."""
    write: Callable[[DetectionResult], Response]
    parts: Parts | None = None
    """Its parts, if it has several; then the image is the first of them, or what is cut."""
    key: str | None = None
    """Key of its sender, if it was in the body."""


class ProtocolAdapter(Protocol):
    """One protocol of detection requests: how they are read and their replies written."""

    @property
    def default_budget_s(self) -> float:
        """Budget in seconds of a request that states none."""

    def may_state_budget(self, headers: Headers) -> bool:
        """Return whether the body of such a request may state a budget, larger than the default."""

    def read_head(self, http: HttpRequest) -> Options:
        """Return what is known of the options before the body.

        Raises InvalidRequest for a head that no body could make good.
        """

    async def read_body(self, headers: Headers, body: bytes, options: Options) -> ParsedRequest:
        """Return all of what is asked.

        Raises InvalidRequest, or Overloaded when there is no room to read it.
        """
