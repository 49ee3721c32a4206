"""One stream of frames over a WebSocket, for threads: one may send while another receives.

It needs the package websockets (extra ``watch``).
"""

from __future__ import annotations

import json
from types import TracebackType
from typing import Self, Unpack
from urllib.parse import quote, urlencode

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect

from punctual.environment import url_and_proxy
from punctual.exchange import (
    DEFAULT_URL,
    MAX_REPLY_BYTES,
    DetectOptions,
    base_url,
    decimal_ms,
    key_headers,
    query,
    read_json,
)
from punctual.problems import UnexpectedReply, Unreachable
from punctual.reply import FrameReply, read_frame_reply

STREAMS_PATH = "/v1/streams/"
OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0


class FrameStream:
    """A stream of frames that the server calls ``name``: of each, only the newest is worth work.

    ``options`` hold for every frame. Raises the Problem that the server refuses it with, or
    Unreachable, and ValueError for a URL, a key or a deadline that can be none.
    """

    def __init__(
        self,
        name: str,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        **options: Unpack[DetectOptions],
    ) -> None:
        self._num_sent = 0
        asked = query(options)
        if (deadline_ms := options.get("deadline_ms")) is not None:
            asked["deadline_ms"] = decimal_ms(deadline_ms)
        where = "ws" + base_url(url).removeprefix("http") + STREAMS_PATH + quote(name, safe="")
        try:
            self._connection = connect(
                f"{where}?{urlencode(asked)}",
                additional_headers=key_headers(key),
                compression=None,  # images are compressed already
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                max_size=MAX_REPLY_BYTES,
            )
        except InvalidStatus as refused:
            response = refused.response
            read_json(response.status_code, bytes(response.body), response.headers)
            raise UnexpectedReply(f"status {response.status_code} instead of a stream") from refused
        except (OSError, WebSocketException, ImportError) as error:  # the last of a SOCKS proxy
            why = str(error) or type(error).__name__
            raise Unreachable(f"{url_and_proxy(url)} does not answer: {why}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, image: bytes) -> int:
        """Send an image file; returns the frame's number. Raises Unreachable once it has ended."""
        self._say(image)
        self._num_sent += 1
        return self._num_sent

    def allow(self, deadline_ms: float) -> None:
        """Change the budget of every frame that is sent from now on."""
        self._say(json.dumps({"deadline_ms": float(decimal_ms(deadline_ms))}))

    def receive(self, timeout_s: float | None = None) -> FrameReply:
        """Return what the server says of a frame, of each once, not always in their order.

        Raises TimeoutError, and Unreachable once the stream has ended.
        """
        try:
            message = self._connection.recv(timeout_s)
        except ConnectionClosed as closed:
            raise Unreachable(_why(closed)) from closed
        return read_frame_reply(message)

    def close(self) -> None:
        """End the stream."""
        self._connection.close()

    def _say(self, message: str | bytes) -> None:
        try:
            self._connection.send(message)
        except (ConnectionClosed, OSError) as closed:
            raise Unreachable(_why(closed)) from closed


def _why(closed: Exception) -> str:
    received = closed.rcvd if isinstance(closed, ConnectionClosed) else None
    if received is None:
        return "the stream broke off"
    return f"the server ended the stream ({received.code}): {received.reason or 'no reason given'}"
