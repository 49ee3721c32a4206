"""A client that waits for each reply."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from punctual.environment import url_and_proxy, usable_environment
from punctual.exchange import (
    DEFAULT_URL,
    DETECT_PATH,
    MODELS_PATH,
    Attempts,
    BoundedReply,
    DetectOptions,
    base_url,
    key_headers,
    read_json,
)
from punctual.images import ImageLike, load_image
from punctual.problems import Unreachable
from punctual.reply import Reply

TIMEOUT_S = 30.0
"""Without a word of the server for so long it counts as unreachable: longer than it may take."""


class Client:
    """One server. Its connections are kept open until ``close``; several threads may share it.

    ``key`` is sent with every request. ``patience_s`` is for calls that state none: 0 asks once.
    ``transport``, ``clock`` and ``sleep`` are for tests. Raises ValueError for a URL or a key that
    can be none, and for a proxy or certificates of the environment that cannot be used.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        patience_s: float = 0.0,
        timeout_s: float = TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = base_url(url)
        self._patience_s = patience_s
        self._clock = clock
        self._sleep = sleep
        headers = key_headers(key)
        with usable_environment():
            self._http = httpx.Client(
                base_url=self.url, headers=headers, timeout=timeout_s, transport=transport
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def detect(self, image: ImageLike, **options: Unpack[DetectOptions]) -> Reply:
        """Return what the server finds in an image: a path, the bytes of a file, or pixels.

        ``options`` are those of ``DetectOptions``. Raises PunctualError, OSError of a file that
        cannot be read, and ValueError of options or pixels that can be none.
        """
        attempts = Attempts(load_image(image), options, self._patience_s, self._clock)
        while True:
            response, received = self._send("POST", DETECT_PATH, **attempts.begin())
            reply = attempts.read(response.status_code, received, response.headers)
            if reply is not None:
                return reply
            self._sleep(attempts.wait_s)

    def models(self) -> dict[str, Any]:
        """Return what ``GET /v1/models`` says. Raises PunctualError."""
        response, received = self._send("GET", MODELS_PATH)
        return read_json(response.status_code, received, response.headers)

    def _send(self, method: str, path: str, **what: Any) -> tuple[httpx.Response, bytes]:
        try:
            with self._http.stream(method, path, **what) as response:
                arriving = BoundedReply()
                for piece in response.iter_bytes():
                    arriving.add(piece)
                return response, bytes(arriving.content)
        except httpx.RequestError as error:
            why = str(error) or type(error).__name__
            raise Unreachable(f"{url_and_proxy(self.url)} does not answer: {why}") from error
