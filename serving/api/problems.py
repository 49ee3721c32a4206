"""Replies that are not a success, from one table, as RFC 9457 ``application/problem+json``.

They are ``{"error": ...}`` where the Open Inference Protocol is spoken, and ``{"success": false,
...}`` where DeepStack's is, if a problem was not asked for.

The ``type`` of a problem is ``urn:punctual:problem:<slug>``; slugs are those of ``core.errors`` and
the two that HTTP adds. Clients tell problems apart by it, people by ``title`` and ``detail``.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serving.core.errors import (
    BackendUnavailable,
    BudgetInfeasible,
    Overloaded,
    ServingError,
    TooManyRequests,
)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:punctual:problem:"
CHALLENGE = "Bearer"
"""How whoever sends no key, or a wrong one, is told to send one."""
PROTOCOL_PREFIX = "/v2"
"""Prefix of the paths at which clients expect the protocol's errors."""
VISION_PREFIX = "/v1/vision"
"""Prefix of the paths at which clients expect DeepStack's errors."""


@dataclass(frozen=True, slots=True)
class Problem:
    status: int
    title: str


PROBLEMS = {
    "invalid-request": Problem(400, "The request cannot be served as sent"),
    "invalid-parameter": Problem(400, "A parameter or header is not valid"),
    "invalid-image": Problem(400, "The image cannot be decoded"),
    "unauthenticated": Problem(401, "It is not known who sent the request"),
    "forbidden": Problem(403, "Whoever sent the request may not do this"),
    "not-found": Problem(404, "There is nothing here"),
    "method-not-allowed": Problem(405, "This method is not served here"),
    "body-timeout": Problem(408, "The body did not arrive within the budget"),
    "head-timeout": Problem(408, "The head of the request did not arrive in time"),
    "superseded": Problem(409, "A newer frame of the stream has come"),
    "model-refused": Problem(409, "The model cannot be changed like this"),
    "payload-too-large": Problem(413, "The image is too large"),
    "unsupported-image": Problem(415, "Not a kind of image that is served"),
    "misdirected-request": Problem(421, "This host is not served here"),
    "budget-infeasible": Problem(422, "The budget is too small for this image"),
    "too-many-requests": Problem(429, "More requests came than their sender may send"),
    "head-too-large": Problem(431, "The head of the request is too large"),
    # Nobody reads it: the client has gone. 499 is what proxies write into their logs for that.
    "cancelled": Problem(499, "The client went away"),
    "internal": Problem(500, "The server has a defect"),
    "backend-error": Problem(500, "The engine failed"),
    "overloaded": Problem(503, "The server has too much to do"),
    "backend-unavailable": Problem(503, "The engine is not available"),
    "model-unloaded": Problem(503, "The model was unloaded"),
    "engine-stalled": Problem(503, "The engine hung"),
    "engine-lost": Problem(503, "The engine's process ended"),
    "deadline-exceeded": Problem(504, "The deadline was missed"),
    "unserved-version": Problem(505, "This version of HTTP is not served"),
}


class UnknownModel(HTTPException):
    """Error of a path that names a model or a version that is not here."""

    def __init__(self, detail: str) -> None:
        super().__init__(404, detail)


DEFECT = "The server failed on this request; its log says how."
"""What clients are told of a defect."""

_SLUG_OF_STATUS = {404: "not-found", 405: "method-not-allowed"}
_UNAVAILABLE_RETRY_S = 1.0


def to_ms(seconds: float) -> float:
    """Return milliseconds, to the microsecond."""
    return round(seconds * 1e3, 3)


def _extensions(error: ServingError) -> dict[str, Any]:
    """Return what a program can read out of a problem, besides its type."""
    match error:
        case BudgetInfeasible(min_budget_s=min_budget_s):
            return {"min_budget_ms": to_ms(min_budget_s)}
        case Overloaded(reason=reason, retry_after_s=retry_after_s):
            return {"reason": reason, "retry_after_ms": to_ms(retry_after_s)}
        case TooManyRequests(retry_after_s=retry_after_s):
            return {"retry_after_ms": to_ms(retry_after_s)}
        case BackendUnavailable():
            return {"retry_after_ms": to_ms(_UNAVAILABLE_RETRY_S)}
        case _:
            return {}


def problem_details(
    request: Request, slug: str, detail: str, extensions: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the problem for ``slug``.

    The request's id, and its budget once known, are added to it.
    """
    problem = PROBLEMS[slug]
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + slug,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
    }
    body.update(
        {
            name: request.scope["state"][name]
            for name in ("request_id", "budget_ms")
            if name in request.scope.get("state", ())
        }
    )
    body.update(extensions or {})
    return body


def describe_problem(error: ServingError) -> dict[str, Any]:
    """Return the problem that ``error`` is, without anything of a request."""
    problem = PROBLEMS[error.slug]
    return {
        "type": TYPE_PREFIX + error.slug,
        "title": problem.title,
        "status": problem.status,
        "detail": error.detail,
        **_extensions(error),
    }


def details_of(request: Request, error: Exception) -> dict[str, Any]:
    """Return the problem that ``error`` is."""
    if isinstance(error, ServingError):
        return problem_details(request, error.slug, error.detail, _extensions(error))
    return problem_details(request, "internal", DEFECT)


def _response(
    request: Request, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    all_headers = {"Cache-Control": "no-store", **(headers or {})}
    if "retry_after_ms" in body:
        all_headers["Retry-After"] = str(max(1, math.ceil(body["retry_after_ms"] / 1e3)))
    if body["status"] == 401:
        all_headers["WWW-Authenticate"] = CHALLENGE
    write = _own_errors(request)
    if write is not None:
        return Response(json.dumps(write(body)), body["status"], all_headers, "application/json")
    return Response(json.dumps(body), body["status"], all_headers, MEDIA_TYPE)


def _protocol_error(body: Mapping[str, Any]) -> dict[str, Any]:
    return {"error": body["detail"]}


def _vision_error(body: Mapping[str, Any]) -> dict[str, Any]:
    return {"success": False, "error": body["detail"], "code": body["status"]}


_OWN_ERRORS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    PROTOCOL_PREFIX: _protocol_error,
    VISION_PREFIX: _vision_error,
}
"""How problems are told, by prefix of the paths where clients expect something else."""


def _own_errors(request: Request) -> Callable[[Mapping[str, Any]], dict[str, Any]] | None:
    if MEDIA_TYPE in request.headers.get("accept", "").lower():
        return None
    path = request.scope["path"] + "/"
    return next(
        (write for prefix, write in _OWN_ERRORS.items() if path.startswith(prefix + "/")), None
    )


def not_found(request: Request) -> Response:
    """Return the reply that there is nothing at a request's path."""
    detail = f"{request.method} {request.scope['path']} is not served; /docs says what is."
    return _response(request, problem_details(request, "not-found", detail))


def refusal(error: ServingError) -> bytes:
    """Return the last message of a connection, which says which problem ``error`` is.

    It is for a client whose request nobody could read.
    """
    request_id = uuid.uuid4().hex
    state = {"request_id": request_id}
    nothing = {"type": "http", "path": "", "query_string": b"", "headers": [], "state": state}
    reply = respond(Request(nothing), error)
    lines = [
        f"HTTP/1.1 {reply.status_code} {HTTPStatus(reply.status_code).phrase}",
        *(f"{name}: {value}" for name, value in reply.headers.items()),
        f"x-request-id: {request_id}",
        "x-content-type-options: nosniff",
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + bytes(reply.body)


def respond(request: Request, error: Exception) -> Response:
    """Return the reply that says which problem ``error`` is."""
    return _response(request, details_of(request, error))


async def _error(request: Request, error: Exception) -> Response:
    return respond(request, error)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    slug = _SLUG_OF_STATUS.get(error.status_code, "invalid-request")
    detail = (
        error.detail
        if isinstance(error, UnknownModel)
        else f"{request.method} {request.scope['path']} is not served; /docs says what is."
    )
    return _response(request, problem_details(request, slug, detail), error.headers)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    detail = "; ".join(f"{entry['loc'][-1]}: {entry['msg']}" for entry in error.errors())
    return _response(request, problem_details(request, "invalid-parameter", detail))


def install(app: FastAPI) -> None:
    """Let ``app`` answer every exception with a problem."""
    app.add_exception_handler(ServingError, _error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(Exception, _error)
