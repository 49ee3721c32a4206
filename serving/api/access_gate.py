"""The gate that every request passes: who sends it, whether it may, and whether so often.

    public    health and the page       anybody, on either port
    service   detection, models         a principal, on the first port
    admin     metrics, documentation,   an admin, on the admin port if there is one
              changes of the model

Where no keys are asked for, everybody is an admin: then it is the port that keeps them apart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from functools import partial

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.access.identity import KEY_HEADERS, Identify
from serving.api.deepstack import PATH as DEEPSTACK_PATH
from serving.api.handshake import check_origin, http_request
from serving.api.problems import not_found, respond
from serving.api.web_page import FILES_PREFIX, PAGE_PATH
from serving.core.errors import Forbidden, ServingError, TooManyRequests
from serving.core.ports import Clock
from serving.core.principals import NOBODY, Principal
from serving.core.token_bucket import TokenBucket

HEALTH_PATHS = frozenset(("/livez", "/readyz", "/v2/health/live", "/v2/health/ready"))
PUBLIC_PATHS = HEALTH_PATHS | {PAGE_PATH}
ADMIN_PATHS = frozenset(("/metrics", "/docs", "/openapi.json"))
KEY_IN_BODY_PATHS = frozenset((DEEPSTACK_PATH,))
"""Paths whose requests may have their key in the body."""
EITHER_PORT_PATHS = frozenset(("/v2/repository/index",))
"""Paths that are served at the port for admins as well as at the other, for principals."""
ADMIN_PREFIXES = ("/v1/admin/", "/v2/repository/models/")

BURST_S = 1.0
"""Seconds whose requests a principal with a rate may send at once, one request at least."""
MAX_BUCKETS = 4096
"""Number of principals whose rate is followed: more than a key file has."""

Refused = Callable[[ServingError], None]
"""Function that is told of each request that is not let in."""


class RateLimiter:
    """The rates of principals, as token buckets."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, float], TokenBucket] = OrderedDict()

    def charge(self, principal: Principal, count: int) -> None:
        """Count so many more requests that came in one, which delay the principal's next."""
        bucket = self._buckets.get((principal.name, principal.rate_hz or 0.0))
        if bucket is not None:
            bucket.take(self._clock(), count)

    def check(self, principal: Principal) -> None:
        """Count a request. Raises TooManyRequests if it is beyond the principal's rate."""
        rate_hz = principal.rate_hz
        if rate_hz is None:
            return
        now_s, key = self._clock(), (principal.name, rate_hz)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(rate_hz, max(1.0, rate_hz * BURST_S), now_s)
            if len(self._buckets) > MAX_BUCKETS:
                self._buckets.popitem(last=False)
        wait_s = bucket.wait_s(now_s, 1.0)
        if wait_s > 0.0:
            raise TooManyRequests(
                f"{principal.label} may send {rate_hz:g} requests a second; this is more.", wait_s
            )
        bucket.take(now_s)


class AccessGate:
    """ASGI application that lets requests in to ``app``, with ``principal`` in their state.

    ``admin_port`` is the port that admin paths are served at alone, if there is one. With
    ``asks_for_keys``, admin paths are for principals who are admins. ``origins`` are those of pages
    that may open streams, beside the server's own.
    """

    def __init__(
        self,
        app: ASGIApp,
        identify: Identify,
        limiter: RateLimiter,
        refused: Refused,
        *,
        asks_for_keys: bool,
        admin_port: int | None = None,
        origins: Collection[str] = (),
    ) -> None:
        self._app = app
        self._identify = identify
        self._limiter = limiter
        self._refused = refused
        self._asks_for_keys = asks_for_keys
        self._admin_port = admin_port
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event stream of any type."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if self._is_elsewhere(scope):
            await not_found(http_request(scope))(scope, receive, send)
            return
        try:
            if self._has_key_in_body(scope):
                # Nobody's, until the body has been read.
                scope["state"].update(principal=NOBODY, admit_by_key=partial(self._by_key, scope))
            else:
                scope["state"]["principal"] = self.admit(scope)
            if scope["type"] == "websocket":
                check_origin(scope, self._origins)
                scope["state"]["admit_frame"] = partial(self.admit, scope)
        except ServingError as error:
            await respond(http_request(scope), error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _has_key_in_body(self, scope: Scope) -> bool:
        """Return whether a request may have its key in the body, and has none in its head."""
        if not self._asks_for_keys or scope["path"] not in KEY_IN_BODY_PATHS:
            return False
        return not any(name in KEY_HEADERS for name, _ in scope["headers"])

    def _by_key(self, scope: Scope, key: str | None) -> Principal:
        """Return whose request it is, by a key in its body. Raises as ``admit``."""
        headers = [] if key is None else [(b"x-api-key", key.encode("latin-1"))]
        return self.admit({**scope, "headers": headers})

    def _is_elsewhere(self, scope: Scope) -> bool:
        """Return whether a path is served at the other port."""
        path = scope["path"]
        if self._admin_port is None or _is_public(path) or path in EITHER_PORT_PATHS:
            return False
        server = scope.get("server")
        return _is_for_admins(path) != (server is not None and server[1] == self._admin_port)

    def admit(self, scope: Scope) -> Principal:
        """Return whose request it is, by its path and headers; count who is refused.

        Also of a further frame, or one in another protocol. Raises Unauthenticated, Forbidden or
        TooManyRequests.
        """
        try:
            return self._admit(scope)
        except ServingError as error:
            self._refused(error)
            raise

    def _admit(self, scope: Scope) -> Principal:
        """Return whose request it is.

        Raises Unauthenticated, Forbidden or TooManyRequests.
        """
        path = scope["path"]
        if _is_public(path):
            return NOBODY
        principal = self._identify(scope)
        if self._asks_for_keys and _is_for_admins(path) and not principal.is_admin:
            raise Forbidden(f"{path} is for admins; the key of {principal.label} is not one's.")
        self._limiter.check(principal)
        return principal


def _is_for_admins(path: str) -> bool:
    return path in ADMIN_PATHS or path.startswith(ADMIN_PREFIXES)


def _is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(FILES_PREFIX)
