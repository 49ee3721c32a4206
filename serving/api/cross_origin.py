"""Requests that pages of other origins have browsers send (CORS), as far as a setting allows them.

A browser asks before it sends what an ordinary form could not, and that question has no key: it is
answered before anybody asks for one. Cookies mean nothing here, so they are not allowed.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from serving.api.budget import DEADLINE_HEADER
from serving.api.tensors import LENGTH_HEADER

METHODS = ("GET", "POST")
SENT = (
    *("Accept", "Authorization", "Content-Type", "Prefer", "Traceparent", "X-API-Key"),
    *("X-Request-Id", DEADLINE_HEADER, LENGTH_HEADER),
)
"""Headers that such a page may send."""
SEEN = (
    *("Preference-Applied", "Retry-After", "Server-Timing", "Traceparent", "WWW-Authenticate"),
    *("X-Request-Id", LENGTH_HEADER),
)
"""Headers of replies that such a page may see, beside those that any may."""


def allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return ``app`` for pages of these origins as well; ``*`` stands for any."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=SENT,
        expose_headers=SEEN,
    )
