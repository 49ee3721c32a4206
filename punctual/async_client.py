"""A client for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from punctual.client import TIMEOUT_S
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


class AsyncClient:
    """One server, for the tasks of one event loop. The arguments are those of ``Client``."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        patience_s: float = 0.0,
        timeout_s: float = TIMEOUT_S,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.url = base_url(url)
        self._patience_s = patience_s
        self._clock = clock
        self._sleep = sleep
        headers = key_headers(key)
        with usable_environment():
            self._http = httpx.AsyncClient(
                base_url=self.url, headers=headers, timeout=timeout_s, transport=transport
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def detect(self, image: ImageLike, **options: Unpack[DetectOptions]) -> Reply:
        """Return what the server finds in an image, as ``Client.detect`` does.

        Files are read and pixels encoded in a thread.
        """
        content = image if isinstance(image, bytes) else await asyncio.to_thread(load_image, image)
        attempts = Attempts(content, options, self._patience_s, self._clock)
        while True:
            response, received = await self._send("POST", DETECT_PATH, **attempts.begin())
            reply = attempts.read(response.status_code, received, response.headers)
            if reply is not None:
                return reply
            await self._sleep(attempts.wait_s)

    async def models(self) -> dict[str, Any]:
        """Return what ``GET /v1/models`` says. Raises PunctualError."""
        response, received = await self._send("GET", MODELS_PATH)
        return read_json(response.status_code, received, response.headers)

    async def _send(self, method: str, path: str, **what: Any) -> tuple[httpx.Response, bytes]:
        try:
            async with self._http.stream(method, path, **what) as response:
                arriving = BoundedReply()
                async for piece in response.aiter_bytes():
                    arriving.add(piece)
                return response, bytes(arriving.content)
        except httpx.RequestError as error:
            why = str(error) or type(error).__name__
            raise Unreachable(f"{url_and_proxy(self.url)} does not answer: {why}") from error
