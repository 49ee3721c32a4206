"""Every way a request can end without boxes.

    ServingError
    |- InvalidRequest           the client's message cannot be served as sent
    |  |- InvalidParameter      a query parameter or header is unknown, malformed or out of range
    |  |- InvalidImage          the body is not an image that can be decoded
    |  |- UnsupportedImage      the body is of a kind that is not served
    |  |- PayloadTooLarge       too many bytes or too many pixels
    |  |- BodyTimeout           the body did not arrive within the budget
    |  |- UnservedVersion       another version of HTTP than 1.0 and 1.1
    |  |- HeadTooLarge          too many bytes or too many lines before the body
    |  |- HeadTimeout           the head did not arrive in time
    |  |- MisdirectedRequest    the request is for a host that is not served here
    |  '- ModelRefused          the model cannot be changed as an admin asks
    |- Unauthenticated          nobody knows who sent the request
    |- Forbidden                whoever sent it may not
    |- TooManyRequests          whoever sent it sends more than it may
    |- BudgetInfeasible         an idle server could not answer within the budget
    |- Overloaded               shed: refused before any work, or evicted after some
    |- FrameSuperseded          a newer frame of its stream came before it was begun
    |- DeadlineExceeded         admitted, then missed: the server's own failure
    |- RequestCancelled         the client went away
    '- BackendError             the engine failed
       '- BackendUnavailable    the engine is not there (starting, stopping or gone)
          |- ModelUnloaded      an admin has unloaded the model
          |- EngineStalled      the engine hung on this request, and is being replaced
          '- EngineLost         the engine's own process ended, and is being replaced

Nothing here knows a status code; ``serving.api.problems`` holds the only table of those. ``slug``
names an error in the reply's problem type, in metric labels and in logs alike.
"""

from __future__ import annotations

import enum


class ShedReason(str, enum.Enum):
    """The reason why a request was shed.

    ``rejected-*``: no engine work was done, so a retry is cheap. ``evicted-*``: engine time was
    spent on it.
    """

    REJECTED_SATURATED = "rejected-saturated"
    """A bounded queue was full."""
    REJECTED_OVERLOAD = "rejected-overload"
    """Admitting the request would have made it or an earlier one late."""
    REJECTED_SHARE = "rejected-share"
    """The client has its share of the places, and what is left is for others."""
    REJECTED_EXPIRED = "rejected-expired"
    """The request's deadline came too close while it waited."""
    REJECTED_DRAINING = "rejected-draining"
    """The server is shutting down."""
    EVICTED_EXPIRED = "evicted-expired"
    """The request's deadline came too close in flight, before its first exit."""
    EVICTED_SHARE = "evicted-share"
    """The client had more than its share of the engine, and others needed the place."""

    __str__ = str.__str__  # formatted as its value, which ``enum.StrEnum`` does from 3.11 on


class ServingError(Exception):
    """The base of all ways to end without boxes.

    ``detail`` is a sentence for the person who sent the request.
    """

    slug = "internal"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class InvalidRequest(ServingError):
    """An error for a message that cannot be served as it was sent."""

    slug = "invalid-request"


class InvalidParameter(InvalidRequest):
    """An error for a query parameter or header that is unknown, malformed or out of range."""

    slug = "invalid-parameter"


class InvalidImage(InvalidRequest):
    """An error for a body that is not an image that can be decoded."""

    slug = "invalid-image"


class UnsupportedImage(InvalidRequest):
    """An error for a body of a kind that is not served."""

    slug = "unsupported-image"


class PayloadTooLarge(InvalidRequest):
    """An error for a body with too many bytes or too many pixels."""

    slug = "payload-too-large"


class BodyTimeout(InvalidRequest):
    """An error for a body that did not arrive within the budget."""

    slug = "body-timeout"


class Unauthenticated(ServingError):
    """An error for a request of which nobody knows who sent it."""

    slug = "unauthenticated"


class Forbidden(ServingError):
    """An error for what the sender of a request may not do."""

    slug = "forbidden"


class TooManyRequests(ServingError):
    """An error for a sender of more requests than it may send.

    ``retry_after_s`` is when, in seconds from now, it may send another one.
    """

    slug = "too-many-requests"

    def __init__(self, detail: str, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class HeadTooLarge(InvalidRequest):
    """An error for a head with too many bytes or too many lines."""

    slug = "head-too-large"


class UnservedVersion(InvalidRequest):
    """An error for a request in a version of HTTP that is not served."""

    slug = "unserved-version"


class HeadTimeout(InvalidRequest):
    """An error for a head that did not arrive in time."""

    slug = "head-timeout"


class MisdirectedRequest(InvalidRequest):
    """An error for a request to a host that is not served here."""

    slug = "misdirected-request"


class ModelRefused(InvalidRequest):
    """An error for a change of the model that an admin asks for and cannot have."""

    slug = "model-refused"


class BudgetInfeasible(ServingError):
    """An error for a budget that an idle server could not meet.

    ``min_budget_s`` is the smallest budget, in seconds, that would have been accepted.
    """

    slug = "budget-infeasible"

    def __init__(self, detail: str, min_budget_s: float) -> None:
        super().__init__(detail)
        self.min_budget_s = min_budget_s


class Overloaded(ServingError):
    """An error for a request that was shed, for ``reason``.

    ``retry_after_s`` is when, in seconds from now, the present backlog will be gone.
    """

    slug = "overloaded"

    def __init__(self, detail: str, reason: ShedReason, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.reason = reason
        self.retry_after_s = retry_after_s


class FrameSuperseded(ServingError):
    """An error for a frame of a stream that has given way to a newer one."""

    slug = "superseded"


class DeadlineExceeded(ServingError):
    """An error for a request that was admitted, then missed: the server's own failure."""

    slug = "deadline-exceeded"


class RequestCancelled(ServingError):
    """An error for a request whose client went away."""

    slug = "cancelled"


class BackendError(ServingError):
    """An error for a request that the engine failed on."""

    slug = "backend-error"


def malformed_output(fault: str) -> BackendError:
    """Return the error for an answer that no sound model gives, by a clause that says why."""
    return BackendError(f"The engine's answer makes no sense: {fault}.")


class BackendUnavailable(BackendError):
    """An error for an engine that is not there: starting, stopping or gone."""

    slug = "backend-unavailable"


class ModelUnloaded(BackendUnavailable):
    """An error for a request while an admin has unloaded the model."""

    slug = "model-unloaded"


class EngineStalled(BackendUnavailable):
    """An error for a request inside an engine that hung; another engine takes its place."""

    slug = "engine-stalled"


class EngineLost(BackendUnavailable):
    """An error for a request inside an engine whose own process ended; another takes its place."""

    slug = "engine-lost"
