"""A request as the executor sees it, and the five ways it can end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from serving.core.errors import ShedReason

if TYPE_CHECKING:
    from serving.core.family import Family


@dataclass(frozen=True, slots=True)
class Request:
    """A request for the boxes of one image. Instants are seconds of one monotonic clock."""

    id: int
    """Number that is unique in one executor; a larger one was admitted later."""
    arrival_s: float
    deadline_s: float
    """Instant by which the boxes must be out of the engine; whatever follows has been
    subtracted."""
    min_depth: int
    max_depth: int
    streaming: bool = False
    """True if the boxes of every exit it passes are wanted, from ``min_depth`` on."""
    principal: str = ""
    """Name of whom it is for; see ``principals``."""
    share: float = 1.0
    """Weight of that principal where engine time is short."""
    stream: str = ""
    """Name of the principal's stream that it is a frame of; empty if it is of none. One that is
    submitted later is newer."""
    in_hand_reserve_s: float = 0.0
    """Seconds before the deadline at which an answer in hand is sent, better or not."""
    group: int | None = None
    """Number that the parts of one request have in common; None for one with one part."""
    is_promised: bool = False
    """Whether its stream sends no more than it was promised: inside its principal's share it goes
    before those without a promise."""

    @property
    def stream_key(self) -> tuple[str, str]:
        """Principal and stream, which tell frames of one stream from those of others."""
        return self.principal, self.stream

    @property
    def conclude_by_s(self) -> float:
        """Instant at which the best answer so far is sent: a better one must be there before."""
        return self.deadline_s - self.in_hand_reserve_s


@dataclass(frozen=True, slots=True)
class Detections:
    """The boxes of one image, best first.

    Boxes are ``(x1, y1, x2, y2)`` in pixels of the image the model was given (``_input``).
    """

    boxes_xyxy_input: npt.NDArray[np.float32]  # (N, 4)
    scores: npt.NDArray[np.float32]  # (N,)
    labels: npt.NDArray[np.int32]  # (N,)


@dataclass(frozen=True, slots=True)
class Answered:
    """The result of a request that left at exit ``depth``.

    Of a streaming request, it was answered there.
    """

    request: Request
    detections: Detections
    depth: int
    started_s: float
    """Instant at which the request's first segment started."""
    finished_s: float
    engine_s: float
    """Seconds that the segments which the request took part in ran."""
    predicted_s: float
    """Seconds that those segments had been predicted to take."""
    model: int = 0
    """Number of the model whose exit it was, where several are served as one."""
    earlier: tuple[tuple[int, int], ...] = ()
    """Points (model, depth) whose answers, which were in hand before, have been merged into this
    one, in the order of their runs; none if it is of this exit alone."""
    held: bool = False
    """Whether it was given out as an answer in hand, which a better one might follow."""
    upgrades: int = 0
    """Number of answers that were in hand before it."""
    family: Family | None = None
    """What answered, where several versions of it may; None: the only one there is."""

    @property
    def points(self) -> tuple[tuple[int, int], ...]:
        """Points (model, depth) that the boxes are of, in the order of their runs."""
        return (*self.earlier, (self.model, self.depth))


@dataclass(frozen=True, slots=True)
class Shed:
    """The result of a request that was refused or evicted."""

    request: Request
    reason: ShedReason
    finished_s: float
    retry_after_s: float
    """Seconds that the requests ahead of it still need."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The result of a request whose client went away."""

    request: Request
    finished_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The result of a request on which the engine raised ``error``."""

    request: Request
    error: Exception
    finished_s: float


@dataclass(frozen=True, slots=True)
class Superseded:
    """The result of a frame that waited while a newer one of its stream came to wait."""

    request: Request
    finished_s: float


Result = Answered | Shed | Cancelled | Superseded | Failed
