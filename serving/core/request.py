"""A request as the executor sees it, and the four ways it can end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.core.errors import ShedReason


@dataclass(frozen=True, slots=True)
class Request:
    """One image that wants boxes. Instants are seconds of one monotonic clock."""

    id: int
    """Unique in one executor; a larger one was admitted later."""
    arrival_s: float
    deadline_s: float
    """When the boxes must be out of the engine; whatever follows has been subtracted."""
    min_depth: int
    max_depth: int
    streaming: bool = False
    """Whether it wants the boxes of every exit it passes, from ``min_depth`` on."""


@dataclass(frozen=True, slots=True)
class Detections:
    """The boxes of one image, best first. Boxes are ``(x1, y1, x2, y2)`` in pixels of the image
    the model was given (``_input``)."""

    boxes_xyxy_input: npt.NDArray[np.float32]  # (N, 4)
    scores: npt.NDArray[np.float32]  # (N,)
    labels: npt.NDArray[np.int32]  # (N,)


@dataclass(frozen=True, slots=True)
class Answered:
    """It left at exit ``depth``; of a streaming request, it was answered there."""

    request: Request
    detections: Detections
    depth: int
    started_s: float
    """When its first segment started."""
    finished_s: float
    engine_s: float
    """Seconds that the segments it took part in ran."""
    predicted_s: float
    """What those segments had been predicted to take."""
    model: int = 0
    """Whose exit it was, where several models are served as one."""


@dataclass(frozen=True, slots=True)
class Shed:
    """It was refused or evicted."""

    request: Request
    reason: ShedReason
    finished_s: float
    retry_after_s: float
    """Seconds that the requests ahead of it still need."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Its client went away."""

    request: Request
    finished_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine raised ``error`` while it worked on it."""

    request: Request
    error: Exception
    finished_s: float


Result = Answered | Shed | Cancelled | Failed
