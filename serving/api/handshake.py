"""Handshakes of WebSockets, which are requests of HTTP until they are accepted."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from serving.api.numbers import shown
from serving.core.errors import Forbidden

ANY_ORIGIN = "*"


def http_request(scope: Scope) -> Request:
    """Return the request of a scope, of HTTP or of a handshake."""
    if scope["type"] == "http":
        return Request(scope)
    return Request({**scope, "type": "http", "method": "GET"})


def check_origin(scope: Scope, allowed: Collection[str] = ()) -> None:
    """Raise Forbidden for a handshake that a page from elsewhere asks for, unless it is allowed.

    Browsers let any page open a WebSocket to any server, and say where the page is from; what is no
    browser says nothing.
    """
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is None or origin in allowed or ANY_ORIGIN in allowed:
        return
    _, is_of_a_host, place = origin.partition("://")
    if not is_of_a_host or place.lower() != headers.get("host", "").lower():
        raise Forbidden(f"Pages of {shown(origin)} may not open streams here.")
