"""Every way a request can end without boxes.

    ServingError
    |- InvalidRequest           the client's message cannot be served as sent
    |  |- InvalidParameter      a query parameter or header is unknown, malformed or out of range
    |  |- InvalidImage          the body is not an image that can be decoded
    |  |- UnsupportedImage      the body is of a kind that is not served
    |  |- PayloadTooLarge       too many bytes or too many pixels
    |  '- BodyTimeout           the body did not arrive within the budget
    |- BudgetInfeasible         an idle server could not answer within the budget
    |- Overloaded               shed: refused before any work, or evicted after some
    |- DeadlineExceeded         admitted, then missed: the server's own failure
    |- Cancelled                the client went away
    '- BackendError             the engine failed
       '- BackendUnavailable    the engine is not there (starting, stopping or gone)

Nothing here knows a status code; ``serving.api.problems`` holds the only table of those. ``slug``
names an error in the reply's problem type, in metric labels and in logs alike.
"""

from __future__ import annotations

import enum


class ShedReason(str, enum.Enum):
    """Why a request was shed. ``rejected-*``: no engine work was done, so a retry is cheap.
    ``evicted-*``: engine time was spent on it."""

    REJECTED_SATURATED = "rejected-saturated"
    """A bounded queue was full."""
    REJECTED_OVERLOAD = "rejected-overload"
    """Admitting it would have made it or an earlier request late."""
    REJECTED_EXPIRED = "rejected-expired"
    """Its deadline came too close while it waited."""
    REJECTED_DRAINING = "rejected-draining"
    """The server is shutting down."""
    EVICTED_EXPIRED = "evicted-expired"
    """Its deadline came too close while it was in flight, before it reached its first exit."""

    __str__ = str.__str__  # formatted as its value, which ``enum.StrEnum`` does from 3.11 on


class ServingError(Exception):
    """Base of all; ``detail`` is a sentence for the person who sent the request."""

    slug = "internal"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class InvalidRequest(ServingError):
    slug = "invalid-request"


class InvalidParameter(InvalidRequest):
    slug = "invalid-parameter"


class InvalidImage(InvalidRequest):
    slug = "invalid-image"


class UnsupportedImage(InvalidRequest):
    slug = "unsupported-image"


class PayloadTooLarge(InvalidRequest):
    slug = "payload-too-large"


class BodyTimeout(InvalidRequest):
    slug = "body-timeout"


class BudgetInfeasible(ServingError):
    """``min_budget_s`` is the smallest budget, in seconds, that would have been accepted."""

    slug = "budget-infeasible"

    def __init__(self, detail: str, min_budget_s: float) -> None:
        super().__init__(detail)
        self.min_budget_s = min_budget_s


class Overloaded(ServingError):
    """``retry_after_s`` is when, in seconds from now, the present backlog will be gone."""

    slug = "overloaded"

    def __init__(self, detail: str, reason: ShedReason, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.reason = reason
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ServingError):
    slug = "deadline-exceeded"


class Cancelled(ServingError):
    slug = "cancelled"


class BackendError(ServingError):
    slug = "backend-error"


class BackendUnavailable(BackendError):
    slug = "backend-unavailable"
