"""How each request of a load test ended: one outcome per request, read from the reply.

    200 with boxes          answered: in time or late, by the client's clock
    REFUSALS                refused, by the problem's reason, or else its type, or else the status
    other statuses          HTTP error, and so is a 200 that cannot be read
    no reply                connection error, timeout, or never sent

Every request has exactly one of them, so that their counts add up to what was to be sent.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.load.client import Failure, HttpReply
from loadtest.workload.images import ServedDetections

REFUSALS = frozenset({408, 422, 429, 503, 504})
"""Statuses by which a server says that it will not answer this request in time.

Any other says that something is wrong.
"""


class Outcome(enum.StrEnum):
    """The ways in which a request can end; each request ends in exactly one."""

    IN_TIME = "in time"
    LATE = "late"
    REFUSED = "refused"
    HTTP_ERROR = "HTTP error"
    CONNECTION_ERROR = "connection error"
    TIMEOUT = "timeout"
    UNSENT = "unsent"


_FAILURES = {
    Failure.CONNECTION: Outcome.CONNECTION_ERROR,
    Failure.TIMEOUT: Outcome.TIMEOUT,
    Failure.UNSENT: Outcome.UNSENT,
}


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """How one request ended. Instants are seconds since the run's start, by the client's clock."""

    scheduled_s: float
    sent_s: float
    finished_s: float
    """Instant of the reply's last byte, or at which the request was given up."""
    budget_s: float
    image: int
    outcome: Outcome
    reason: str = ""
    """Slug that says why there is no answer; empty for an answer."""
    depth: int | None = None
    expected_ap: float | None = None
    detections: ServedDetections | None = None
    operating_point: str | None = None
    """Operating point of the answer, of a merged one several joined by +; None if the reply does
    not name it."""

    @property
    def latency_s(self) -> float:
        """Return the seconds from the scheduled moment to the last byte."""
        return self.finished_s - self.scheduled_s

    @property
    def lag_s(self) -> float:
        """Return the seconds by which the request was sent later than scheduled."""
        return self.sent_s - self.scheduled_s

    @property
    def point(self) -> str | None:
        """Return what the answer is of, in words: its operating point, or else its exit."""
        exit_text = None if self.depth is None else f"exit {self.depth}"
        return self.operating_point or exit_text

    @property
    def is_answer(self) -> bool:
        """Return whether boxes came, in time or late."""
        return self.outcome in (Outcome.IN_TIME, Outcome.LATE)


def read_outcome(
    reply: HttpReply,
    start_s: float,
    offset_s: float,
    budget_s: float,
    image: int,
    ap_by_depth: Mapping[int, float],
) -> RequestOutcome:
    """Return how a request ended that was due ``offset_s`` after the instant ``start_s``."""
    sent_s, finished_s = reply.sent_s - start_s, reply.finished_s - start_s

    def ended(outcome: Outcome, reason: str = "", **answer: Any) -> RequestOutcome:
        return RequestOutcome(
            offset_s, sent_s, finished_s, budget_s, image, outcome, reason, **answer
        )

    if reply.failure is not None:
        return ended(_FAILURES[reply.failure], reply.reason)
    if reply.status != 200:
        outcome = Outcome.REFUSED if reply.status in REFUSALS else Outcome.HTTP_ERROR
        return ended(outcome, _reason(reply))
    try:
        answer = _answer(reply.body, ap_by_depth)
    except (ValueError, LookupError, TypeError, AttributeError):
        return ended(Outcome.HTTP_ERROR, "unreadable-reply")
    in_time = finished_s - offset_s <= budget_s
    return ended(Outcome.IN_TIME if in_time else Outcome.LATE, **answer)


def _answer(body: bytes, ap_by_depth: Mapping[int, float]) -> dict[str, Any]:
    content = json.loads(body)
    found = content["detections"]
    detections = ServedDetections(
        np.array([entry["box"] for entry in found], np.float32).reshape(len(found), 4),
        np.array([entry["score"] for entry in found], np.float32),
        np.array([entry["class_id"] for entry in found], np.int64),
    )
    depth, point = content.get("exit_depth"), content.get("operating_point")
    ap = content.get("expected_ap", ap_by_depth.get(depth))
    return {
        "detections": detections,
        "depth": None if depth is None else int(depth),
        "expected_ap": None if ap is None else float(ap),
        "operating_point": None if point is None else str(point),
    }


def _reason(reply: HttpReply) -> str:
    """Return a problem's reason, or else its type, or else the status. RFC 9457."""
    try:
        problem = json.loads(reply.body)
        reason = problem.get("reason") or problem["type"].rpartition(":")[2]
    except (ValueError, LookupError, AttributeError):
        reason = ""
    return str(reason) or f"http-{reply.status}"
