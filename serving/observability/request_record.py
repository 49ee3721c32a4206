"""What the gateway knows of a detection request once it has ended: its outcome, and its facts.

A request whose reply streams is one request, which ends as the last event of its reply says: "done"
is "ok" or "degraded" by its deepest answer, "error" is that error. One whose client left before the
last event is "cancelled", as any other, whatever it had been sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.core.errors import (
    BudgetInfeasible,
    DeadlineExceeded,
    FrameSuperseded,
    InvalidRequest,
    Overloaded,
    RequestCancelled,
    TooManyRequests,
    Unauthenticated,
)
from serving.core.principals import NOBODY

IN_HAND_ENDS = ("better", "concluded", "deadline")
"""Ends of requests that had an answer in hand: with a better one; with that one, since none was to
follow; or with that one at the deadline, whatever the engine was doing."""

OUTCOMES = (
    "ok",
    "degraded",
    "infeasible",
    "limited",
    "rejected",
    "evicted",
    "late",
    "superseded",
    "cancelled",
    "invalid",
    "error",
)
_OUTCOME_OF: dict[type[BaseException], str] = {
    InvalidRequest: "invalid",
    BudgetInfeasible: "infeasible",
    TooManyRequests: "limited",
    FrameSuperseded: "superseded",
    Unauthenticated: "limited",
    DeadlineExceeded: "late",
    RequestCancelled: "cancelled",
}


@dataclass(frozen=True, slots=True)
class AnsweredFacts:
    """Facts of a request that was answered in time."""

    operating_point: str
    """Name of the operating point that answered."""
    depth: int
    degraded: bool
    decode_s: float
    """Seconds from the body to the decoded pixels, waiting for a thread included."""
    queue_s: float
    """Seconds in the backend during which none of its segments ran."""
    engine_s: float
    """Seconds that the segments it took part in ran."""
    write_s: float
    """Seconds from the boxes to the reply that holds them."""
    model: int = 0
    """Index of the model whose exit it was, where several models are served as one."""
    earlier: tuple[tuple[int, int], ...] = ()
    """Points (model, depth) whose answers were merged into this one."""
    in_hand: str | None = None
    """What became of an answer in hand: one of ``IN_HAND_ENDS``, or None where there was none."""
    depth_ratio: float = 1.0
    """Place of the operating point among those that the request allowed, over their number."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One detection request, as the gateway saw it end."""

    duration_s: float
    """Seconds from the end of its head to its end, however it ended."""
    budget_s: float
    ending: AnsweredFacts | BaseException
    """What answered it, or the error that it ended with."""
    num_answers: int | None = None
    """Number of answers that were sent, of a request whose reply streams; otherwise None."""
    principal: str = NOBODY.label
    """Label of whoever sent it."""

    @property
    def outcome(self) -> str:
        """Outcome of the request, one of ``OUTCOMES``."""
        match self.ending:
            case AnsweredFacts(degraded=degraded):
                return "degraded" if degraded else "ok"
            case Overloaded(reason=reason):
                return reason.split("-")[0]
            case error:
                return next(
                    (_OUTCOME_OF[c] for c in type(error).mro() if c in _OUTCOME_OF), "error"
                )
