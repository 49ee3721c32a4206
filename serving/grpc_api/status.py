"""What went wrong, as gRPC says it: one table, from the problems that HTTP has.

Beside the status, its sentence is in the details, and in the trailing metadata are the problem's
name (``punctual-problem``), what a program can read out of it, and, where another try makes sense,
``grpc-retry-pushback-ms``: the time to wait, as gRPC's own clients understand it (proposal A6).
"""

from __future__ import annotations

from grpc import StatusCode

from serving.api.problems import PROBLEMS, describe_problem
from serving.core.errors import Overloaded, ServingError, ShedReason

CODES = {
    "invalid-request": StatusCode.INVALID_ARGUMENT,
    "invalid-parameter": StatusCode.INVALID_ARGUMENT,
    "invalid-image": StatusCode.INVALID_ARGUMENT,
    "unauthenticated": StatusCode.UNAUTHENTICATED,
    "forbidden": StatusCode.PERMISSION_DENIED,
    "not-found": StatusCode.NOT_FOUND,
    "method-not-allowed": StatusCode.UNIMPLEMENTED,
    "body-timeout": StatusCode.DEADLINE_EXCEEDED,
    "head-timeout": StatusCode.DEADLINE_EXCEEDED,
    "superseded": StatusCode.ABORTED,
    "model-refused": StatusCode.FAILED_PRECONDITION,
    "payload-too-large": StatusCode.INVALID_ARGUMENT,
    "unsupported-image": StatusCode.INVALID_ARGUMENT,
    "misdirected-request": StatusCode.FAILED_PRECONDITION,
    "budget-infeasible": StatusCode.FAILED_PRECONDITION,
    "too-many-requests": StatusCode.RESOURCE_EXHAUSTED,
    "unserved-version": StatusCode.UNIMPLEMENTED,
    "head-too-large": StatusCode.RESOURCE_EXHAUSTED,
    "cancelled": StatusCode.CANCELLED,
    "internal": StatusCode.INTERNAL,
    "backend-error": StatusCode.INTERNAL,
    "overloaded": StatusCode.RESOURCE_EXHAUSTED,
    "backend-unavailable": StatusCode.UNAVAILABLE,
    "model-unloaded": StatusCode.UNAVAILABLE,
    "engine-stalled": StatusCode.UNAVAILABLE,
    "engine-lost": StatusCode.UNAVAILABLE,
    "deadline-exceeded": StatusCode.DEADLINE_EXCEEDED,
}
"""Status of each problem, by name."""

PROBLEM, PUSHBACK = "punctual-problem", "grpc-retry-pushback-ms"
_TOLD = {"reason": "punctual-reason", "min_budget_ms": "punctual-min-budget-ms"}

Metadata = tuple[tuple[str, str], ...]


def code_of(error: ServingError) -> StatusCode:
    """Return the status of a request that has ended so.

    One that comes as the server ends should be sent to another, as UNAVAILABLE asks for.
    """
    if isinstance(error, Overloaded) and error.reason is ShedReason.REJECTED_DRAINING:
        return StatusCode.UNAVAILABLE
    return CODES[error.slug]


def metadata_of(error: ServingError) -> Metadata:
    """Return the trailing metadata of a request that has ended so."""
    assert error.slug in PROBLEMS
    told = describe_problem(error)
    more = [(name, str(told[key])) for key, name in _TOLD.items() if key in told]
    if "retry_after_ms" in told:
        more.append((PUSHBACK, str(max(1, round(told["retry_after_ms"])))))
    return ((PROBLEM, error.slug), *more)
