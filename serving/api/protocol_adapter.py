"""Interface between a protocol and the service of its requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serving.api.options import Options
from serving.core.letterbox import Letterbox
from serving.imaging.probing import Header


@dataclass(frozen=True, slots=True)
class DetectionResult:
    """One answered request's result: what any protocol may tell of it."""

    request_id: str
    model: str
    """Name of the model that answered."""
    placement: Letterbox
    boxes_xyxy: npt.NDArray[np.float32]  # (N, 4), pixels of the original image, best first
    scores: npt.NDArray[np.float32]  # (N,)
    labels: npt.NDArray[np.int32]  # (N,)
    facts: Mapping[str, str | float | bool]
    """Facts of how the result came about, under the names of ``schemas.DetectionResponse``."""


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


class ProtocolAdapter(Protocol):
    """One protocol of detection requests: how they are read and their replies written."""

    def read_head(self, http: HttpRequest) -> Options:
        """Return what is known of the options before the body.

        Raises InvalidRequest for a head that no body could make good.
        """

    async def read_body(self, headers: Headers, body: bytes, options: Options) -> ParsedRequest:
        """Return all of what is asked.

        Raises InvalidRequest, or Overloaded when there is no room to read it.
        """
