"""Everything that a call to a server can raise, besides errors of its own arguments and files.

    PunctualError
    |- Unreachable           nobody answered: refused, broken or timed out
    |- UnexpectedReply       what answered is no Punctual server, or of another version
    '- Problem               the server said why there are no boxes
       |- InvalidRequest     the request cannot be served as it was sent
       |- AccessDenied       the key is missing, unknown, or not allowed to do this
       |- BudgetInfeasible   not even an idle server could do it; ``min_budget_ms`` is what works
       |- TooManyRequests    this key sends more than it may; ``retry_after_s``
       |- Overloaded         refused or given up, since others need the time; ``retry_after_s``
       |- Unavailable        the engine is starting, stopping or gone; ``retry_after_s``
       |- Superseded         a newer frame of the same stream has come
       |- DeadlineExceeded   the server missed the deadline: its own failure
       '- ServerFailed       the engine or the server failed on this request

A problem's ``slug`` is the last part of its type in the server's reply (RFC 9457). One that is not
in the table here, of a newer server, is a plain ``Problem``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

TYPE_PREFIX = "urn:punctual:problem:"


class PunctualError(Exception):
    """The base of all that a call to a server can raise."""


class Unreachable(PunctualError):
    """An error for a server that did not answer: refused, broken or timed out."""


class UnexpectedReply(PunctualError):
    """An error for a reply that is not one of this protocol, such as a proxy's."""


class Problem(PunctualError):
    """The server's own words for why there are no boxes."""

    def __init__(
        self,
        slug: str,
        *,
        status: int,
        title: str,
        detail: str,
        request_id: str | None = None,
        reason: str | None = None,
        budget_ms: float | None = None,
        min_budget_ms: float | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{title}: {detail}" if detail else title)
        self.slug = slug
        self.status = status
        """Status code of HTTP."""
        self.title = title
        self.detail = detail
        self.request_id = request_id
        self.reason = reason
        """Why it was shed, of an ``Overloaded``."""
        self.budget_ms = budget_ms
        """The budget that was applied, once it was known."""
        self.min_budget_ms = min_budget_ms
        """A budget that would do, of a ``BudgetInfeasible``."""
        self.retry_after_s = retry_after_s
        """Seconds from then on after which to try again, if that helps."""


class InvalidRequest(Problem):
    """A problem for a request that cannot be served as it was sent."""


class AccessDenied(Problem):
    """A problem for a key that is missing, unknown, or not allowed to do this."""


class BudgetInfeasible(Problem):
    """A problem for a budget below ``min_budget_ms``, which not even an idle server could meet."""


class TooManyRequests(Problem):
    """A problem for a key that sends more than it may."""


class Overloaded(Problem):
    """A problem for a request that was refused or given up because of others, for ``reason``."""


class Unavailable(Problem):
    """A problem for an engine that is starting, stopping or gone."""


class Superseded(Problem):
    """A problem for a frame after which a newer one of its stream has come."""


class DeadlineExceeded(Problem):
    """A problem for a request that the server took in and then missed."""


class ServerFailed(Problem):
    """A problem for a request that the engine or the server failed on."""


KINDS: Mapping[str, type[Problem]] = {
    "invalid-request": InvalidRequest,
    "invalid-parameter": InvalidRequest,
    "invalid-image": InvalidRequest,
    "not-found": InvalidRequest,
    "method-not-allowed": InvalidRequest,
    "body-timeout": InvalidRequest,
    "head-timeout": InvalidRequest,
    "head-too-large": InvalidRequest,
    "unserved-version": InvalidRequest,
    "payload-too-large": InvalidRequest,
    "unsupported-image": InvalidRequest,
    "misdirected-request": InvalidRequest,
    "model-refused": InvalidRequest,
    "unauthenticated": AccessDenied,
    "forbidden": AccessDenied,
    "budget-infeasible": BudgetInfeasible,
    "too-many-requests": TooManyRequests,
    "overloaded": Overloaded,
    "superseded": Superseded,
    "backend-unavailable": Unavailable,
    "model-unloaded": Unavailable,
    "engine-stalled": Unavailable,
    "engine-lost": Unavailable,
    "deadline-exceeded": DeadlineExceeded,
    "backend-error": ServerFailed,
    "internal": ServerFailed,
    "cancelled": ServerFailed,
}
"""Slug -> the class of its problems."""


def read_problem(status: int, body: Mapping[str, Any], retry_after: str | None = None) -> Problem:
    """Return the problem in the JSON of a reply.

    ``retry_after`` is the header, in seconds; the body's ``retry_after_ms``, which is finer, is
    preferred. Raises UnexpectedReply for JSON that is no problem.
    """
    kind = body.get("type")
    if not isinstance(kind, str) or not kind.startswith(TYPE_PREFIX):
        raise UnexpectedReply(f"the reply with status {status} is no problem of Punctual")
    slug = kind.removeprefix(TYPE_PREFIX)
    wait_ms = _number(body.get("retry_after_ms"))
    return KINDS.get(slug, Problem)(
        slug,
        status=status,
        title=str(body.get("title", slug)),
        detail=str(body.get("detail", "")),
        request_id=_text(body.get("request_id")),
        reason=_text(body.get("reason")),
        budget_ms=_number(body.get("budget_ms")),
        min_budget_ms=_number(body.get("min_budget_ms")),
        retry_after_s=_seconds(retry_after) if wait_ms is None else wait_ms / 1e3,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    """Return ``value`` as a number that is not negative, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < math.inf else None


def _seconds(header: str | None) -> float | None:
    """Seconds in ``Retry-After``; None of a date, which proxies may send."""
    return float(header) if header is not None and header.isascii() and header.isdigit() else None
