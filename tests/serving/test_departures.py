"""Images whose client has left are not decoded, whichever way they came."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect

from serving.api.base64_json import INLINE_BYTES
from serving.imaging import decode_pool
from serving.imaging.decode_pool import DecodePool
from tests.e2e.process import PATIENCE_S
from tests.serving.fakes import JPEG
from tests.serving.grpc_api.test_service import Calls, message
from tests.serving.streams import StreamServer, serving_streams

pytestmark = pytest.mark.anyio

IMAGE = ("image/jpeg", JPEG)
FIELD = b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n%b\r\n' % JPEG
TWO_FIELDS = ("multipart/form-data; boundary=x", FIELD + FIELD + b"--x--\r\n")
ONE_FIELD = ("multipart/form-data; boundary=x", FIELD + b"--x--\r\n")
LONG_JSON = (
    "application/json",
    json.dumps({"image": base64.b64encode(JPEG + bytes(INLINE_BYTES)).decode()}).encode(),
)


class Decoding:
    """Decoding in the one thread that there is, which goes on until it is let, or stopped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_entered = self.num_begun = self.num_stopped = 0
        self._may_end = threading.Event()
        run = DecodePool._run

        def entered(pool: DecodePool, job: Any) -> Any:
            self.num_entered += 1
            return run(pool, job)

        monkeypatch.setattr(DecodePool, "_run", entered)
        for name, checkpoint_at in (("decode_all", 3), ("cut_out", 3)):
            real = getattr(decode_pool, name)
            monkeypatch.setattr(decode_pool, name, self._held(real, checkpoint_at))

    def _held(self, real: Callable[..., Any], checkpoint_at: int) -> Callable[..., Any]:
        def decode(*given: Any) -> Any:
            self.num_begun += 1
            try:
                while not self._may_end.wait(0.001):
                    given[checkpoint_at]()
            except BaseException:
                self.num_stopped += 1
                raise
            return real(*given)

        return decode

    def let(self) -> None:
        self._may_end.set()


Send = Callable[[Calls, StreamServer], AbstractAsyncContextManager[None]]
"""Function that sends a request, whose client leaves at the end."""


def posted(target: str, content: tuple[str, bytes], *lines: str) -> Send:
    """A request over HTTP."""

    @asynccontextmanager
    async def send(_: Calls, server: StreamServer) -> AsyncIterator[None]:
        kind, body = content
        head = (
            f"POST {target} HTTP/1.1",
            "Host: x",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
        )
        connection = await asyncio.open_connection("127.0.0.1", server.port)
        writer = connection[1]
        writer.write("\r\n".join((*head, *lines, "", "")).encode() + body)
        yield
        writer.transport.abort()

    return send


@asynccontextmanager
async def streamed(_: Calls, server: StreamServer) -> AsyncIterator[None]:
    url = f"ws://127.0.0.1:{server.port}/v1/streams/cam"
    connection = await connect(url, compression=None, proxy=None)
    await connection.send(JPEG)
    yield
    connection.transport.abort()
    await connection.wait_closed()


@asynccontextmanager
async def called(calls: Calls, _: StreamServer) -> AsyncIterator[None]:
    async with calls.stub() as stub:
        call = stub.ModelInfer(message())
        call.add_done_callback(lambda _: None)
        yield
        call.cancel()


@asynccontextmanager
async def called_on_a_stream(calls: Calls, _: StreamServer) -> AsyncIterator[None]:
    async with calls.stub() as stub:
        call = stub.ModelStreamInfer(iter([message()]))
        yield
        call.cancel()


WAYS: dict[str, tuple[Send, int]] = {
    "http": (posted("/v1/detect", IMAGE), 1),
    "events": (posted("/v1/detect", IMAGE, "Accept: application/x-ndjson"), 1),
    "json": (posted("/v1/detect", LONG_JSON), 1),
    "deepstack": (posted("/v1/vision/detection", ONE_FIELD), 1),
    "images": (posted("/v1/detect", TWO_FIELDS), 2),
    "tiles": (posted("/v1/detect?tiles=1x2", IMAGE), 1),
    "websocket": (streamed, 1),
    "call": (called, 1),
    "call on a stream": (called_on_a_stream, 1),
}
"""How an image may come, and as how many requests it is counted."""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("way", WAYS)
async def test_of_one_that_waits_nothing_is_decoded(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding = Decoding(monkeypatch)
    send, num_requests = WAYS[way]
    async with Calls(num_decode_workers=1).open() as calls:
        gateway = calls.gateway
        async with serving_streams(gateway) as server:
            another = asyncio.create_task(gateway.detect())
            await until(lambda: decoding.num_begun == 1)
            async with send(calls, server):
                await until(lambda: decoding.num_entered == 1 + num_requests)
            await until(lambda: gateway.outcomes() == {"cancelled": num_requests})
            decoding.let()
            assert (await another).status_code == 200
            assert (await gateway.detect()).status_code == 200
    assert decoding.num_begun == 2, "those of others"


@pytest.mark.parametrize("way", WAYS)
async def test_one_that_is_being_decoded_is_given_up(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding = Decoding(monkeypatch)
    send, num_requests = WAYS[way]
    async with Calls(num_decode_workers=1).open() as calls:
        gateway = calls.gateway
        async with serving_streams(gateway) as server:
            async with send(calls, server):
                await until(lambda: decoding.num_begun == 1)
            await until(lambda: decoding.num_stopped == 1)
            await until(lambda: gateway.outcomes() == {"cancelled": num_requests})
            decoding.let()
            assert (await gateway.detect()).status_code == 200
    assert decoding.num_begun == 2, "the last is another's"
