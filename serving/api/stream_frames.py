"""Frames of a WebSocket: what its handshake asks for, and a request to detect for each message."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.types import Message, Receive, Scope

from serving.api.budget import DEADLINE_PARAMETER, deadline_parameter, parse_budget
from serving.api.connection import DEPARTURE, Departure
from serving.api.detect import DetectionService
from serving.api.frames import FRAME_PARAMETER, STREAM_PARAMETER, stream_name
from serving.api.numbers import LARGEST, SMALLEST, decimal, shown
from serving.api.problems import details_of
from serving.api.protocol_adapter import ProtocolAdapter
from serving.core.errors import (
    InvalidParameter,
    RequestCancelled,
    ServingError,
    TooManyRequests,
)
from serving.core.ports import Clock
from serving.core.principals import Principal
from serving.core.streams import StreamKey

logger = logging.getLogger(__name__)

SUBPROTOCOL = "punctual"
"""What is spoken, for browsers, which have to be told if they offer a subprotocol."""

ANSWERED = "answered"
"""Outcome of a frame whose boxes are there. Others are slugs of problems."""

RATE_PARAMETER = "rate"
MAX_RATE_HZ = 1000.0
"""Largest rate, in frames a second, that a stream may state."""
MAX_TEXT = 4096
"""Number of characters of a text message; one budget takes some twenty."""

_KEPT_HEADERS = frozenset(
    (b"grpc-timeout", b"x-envoy-expected-rq-timeout-ms", b"prefer", b"traceparent")
)
"""Headers of the handshake that hold for every frame."""
_CONTENT_TYPE = (b"content-type", b"image/jpeg")
"""What a frame is said to be; what it is its first bytes say."""

AdmitFrame = Callable[[], Principal]
"""Function that returns on whose behalf a frame comes. Raises ServingError."""


class SessionFrames:
    """The frames of one session, each a request to detect."""

    def __init__(
        self,
        scope: Scope,
        name: str,
        detector: DetectionService,
        adapter: ProtocolAdapter,
        clock: Clock,
    ) -> None:
        """Read what the handshake asks of the stream ``name``. Raises InvalidRequest."""
        self._scope = scope
        self._detector = detector
        self._adapter = adapter
        self._clock = clock
        self.departure: Departure = scope["state"][DEPARTURE]
        """The client's, which ends all of its frames; so does the end of the session."""
        self._admit: AdmitFrame = scope["state"]["admit_frame"]
        self._name = stream_name(name)
        self.key: StreamKey = (scope["state"]["principal"].name, self._name)
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        for parameter, _ in query:
            if parameter in (STREAM_PARAMETER, FRAME_PARAMETER):
                raise InvalidParameter(
                    f"There is no parameter {parameter} here: the path names the stream, and its "
                    "frames are numbered as they come."
                )
        budget = parse_budget(
            Headers(scope=scope),
            default_s=1.0,
            max_s=1.0,
            deadlines_ms=[value for name, value in query if name == DEADLINE_PARAMETER],
        )
        self._wish_s = budget.wish_s
        self.rate_hz = _rate([value for name, value in query if name == RATE_PARAMETER])
        """Frames a second that it asks a promise of; None if it asks for none."""
        own = (DEADLINE_PARAMETER, RATE_PARAMETER)
        self._query = [item for item in query if item[0] not in own]
        self._headers = [each for each in scope["headers"] if each[0] in _KEPT_HEADERS]
        options = adapter.read_head(self._request(1, _nothing))
        self.min_depth = options.min_depth
        self._num_frames = 0

    @property
    def subprotocol(self) -> str | None:
        """What the client is told to be spoken, if it offers it."""
        return SUBPROTOCOL if SUBPROTOCOL in self._scope["subprotocols"] else None

    def next(self, data: bytes) -> HttpRequest:
        """Return the request of the next frame, which has just come."""
        self._num_frames += 1
        return self._request(self._num_frames, _body(data))

    def configure(self, text: str) -> None:
        """Do what a text message says. Raises InvalidParameter."""
        try:
            given = json.loads(text) if len(text) <= MAX_TEXT else None
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict) or given.keys() != {DEADLINE_PARAMETER}:
            raise InvalidParameter(
                'A text message must be {"deadline_ms": N}, the budget of the frames that follow; '
                f"it is {shown(text)}."
            )
        self._wish_s = deadline_parameter(given[DEADLINE_PARAMETER])

    def refusal(self, error: ServingError) -> str:
        """Return what the client is told of a text message that makes no sense."""
        http = self._request(self._num_frames, _nothing)
        return _encode({"outcome": error.slug, **details_of(http, error)})

    async def serve(self, http: HttpRequest) -> tuple[str, bool]:
        """Return what the client is told of a frame, and whether it may send more.

        Raises RequestCancelled once it has left.
        """
        number = int(http.query_params[FRAME_PARAMETER])
        try:
            http.scope["state"]["principal"] = self._admit()
        except ServingError as error:
            return _told(number, http, error), isinstance(error, TooManyRequests)
        try:
            response = await self._detector.serve(http, self._adapter)
        except RequestCancelled:
            raise
        except Exception as error:
            if not isinstance(error, ServingError):
                logger.error("frame %d of a stream failed", number, exc_info=error)
            return _told(number, http, error), True
        head = f'{{"{FRAME_PARAMETER}":{number},"outcome":"{ANSWERED}",'
        return head + bytes(response.body[1:]).decode(), True

    def _request(self, number: int, receive: Receive) -> HttpRequest:
        query = [*self._query, (STREAM_PARAMETER, self._name), (FRAME_PARAMETER, str(number))]
        if self._wish_s is not None:
            # JSON may state what no parameter can; beyond these it makes no difference.
            wish_ms = min(max(self._wish_s * 1e3, SMALLEST), LARGEST)
            query.append((DEADLINE_PARAMETER, f"{wish_ms:.6f}"))
        state = self._scope["state"]
        scope = {
            **self._scope,
            "type": "http",
            "method": "POST",
            "query_string": urlencode(query).encode(),
            "headers": [_CONTENT_TYPE, *self._headers],
            "state": {
                **state,
                "arrival_s": self._clock(),
                "request_id": f"{state['request_id']}-{number}",
            },
        }
        return HttpRequest(scope, receive)


def _rate(given: list[str]) -> float | None:
    """Return the frames a second that a query states. Raises InvalidParameter."""
    if not given:
        return None
    rate_hz = decimal(given[0]) if len(given) == 1 else None
    if rate_hz is None or not 0.0 < rate_hz <= MAX_RATE_HZ:
        raise InvalidParameter(
            f"{RATE_PARAMETER} must be one decimal number of frames a second, above 0 and at most "
            f"{MAX_RATE_HZ:g}; it is {shown(', '.join(given))}."
        )
    return rate_hz


def _body(data: bytes) -> Receive:
    """Return what a frame's request receives: its body, which is all that there is."""

    async def receive() -> Message:
        return {"type": "http.request", "body": data, "more_body": False}

    return receive


async def _nothing() -> Message:
    raise AssertionError("nobody reads the body of this request")


def _told(number: int, http: HttpRequest, error: Exception) -> str:
    details = details_of(http, error)
    outcome = error.slug if isinstance(error, ServingError) else ServingError.slug
    return _encode({FRAME_PARAMETER: number, "outcome": outcome, **details})


def _encode(message: Mapping[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":"))
