"""What a protocol and the serving of its requests tell each other."""

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
from serving.imaging.decoding import Header


@dataclass(frozen=True, slots=True)
class DetectionResult:
    """What any surface may tell of a request that was answered."""

    request_id: str
    model: str
    """The name of the one that answered."""
    placement: Letterbox
    boxes_xyxy: npt.NDArray[np.float32]  # (N, 4), pixels of the original image, best first
    scores: npt.NDArray[np.float32]  # (N,)
    labels: npt.NDArray[np.int32]  # (N,)
    facts: Mapping[str, float | bool]
    """How it came about, under the names of ``schemas.DetectionResponse``."""


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request that has been read."""

    data: bytes
    header: Header
    """What ``data`` is."""
    options: Options
    timeout_s: float | None
    """The budget that was stated in the body, if any."""
    write: Callable[[DetectionResult], Response]


class ProtocolAdapter(Protocol):
    """How one protocol asks for boxes and is told them."""

    def read_head(self, http: HttpRequest) -> Options:
        """What is known of the options before the body. Raises InvalidRequest for a head that no
        body could make good."""

    async def read_body(self, headers: Headers, body: bytes, options: Options) -> ParsedRequest:
        """All of what is asked. Raises InvalidRequest, or Overloaded when there is no room to read
        it."""
