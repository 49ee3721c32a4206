from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive

from serving.api.body import BodyRoom, check_head, check_type
from serving.api.upload import MEDIA_TYPES
from serving.core.errors import (
    Overloaded,
    PayloadTooLarge,
    RequestCancelled,
    UnsupportedImage,
)


def messages(chunks: Sequence[bytes]) -> Receive:
    left = list(chunks)

    async def receive() -> Message:
        chunk = left.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    return receive


async def read(receive: Receive, max_bytes: int) -> bytes:
    """A body in a room of its own."""
    with BodyRoom(100).place() as place:
        return await place.read(receive, max_bytes)


class TestHead:
    @pytest.mark.parametrize(
        "stated",
        ["image/jpeg", "IMAGE/PNG", "image/webp; q=1", "multipart/form-data; boundary=x"],
    )
    def test_accepted(self, stated: str) -> None:
        check_type(Headers({"content-type": stated}), MEDIA_TYPES)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"content-type": ""},
            {"content-type": "text/json"},
            {"content-type": "application/octet-stream"},
            {"content-type": "image/gif"},
        ],
    )
    def test_unsupported(self, headers: dict[str, str]) -> None:
        with pytest.raises(UnsupportedImage):
            check_type(Headers(headers), MEDIA_TYPES)

    def test_compressed(self) -> None:
        with pytest.raises(UnsupportedImage, match="Content-Encoding is 'gzip'"):
            check_head(Headers({"content-encoding": "gzip"}), 10)

    def test_length(self) -> None:
        check_head(Headers({"content-length": "10", "content-encoding": "identity"}), 10)
        with pytest.raises(PayloadTooLarge):
            check_head(Headers({"content-length": "11"}), 10)
        with pytest.raises(PayloadTooLarge):
            check_head(Headers({"content-length": str(2**63 - 1)}), 10)
        check_head(Headers({"content-length": "10".zfill(20)}), 10)


@pytest.mark.anyio
class TestRead:
    @pytest.mark.parametrize("chunks", [[b""], [b"abc"], [b"a", b"bc"], [b"", b"abc", b""]])
    async def test_joins(self, chunks: list[bytes]) -> None:
        assert await read(messages(chunks), 3) == b"".join(chunks)

    @pytest.mark.parametrize("chunks", [[b"abcd"], [b"ab", b"cd"], [b"abc", b"d", b"never read"]])
    async def test_too_large(self, chunks: list[bytes]) -> None:
        with pytest.raises(PayloadTooLarge):
            await read(messages(chunks), 3)

    async def test_a_client_that_leaves(self) -> None:
        async def receive() -> Message:
            return {"type": "http.disconnect"}

        with pytest.raises(RequestCancelled):
            await read(receive, 3)


class Sender:
    """A client that sends its body in chunks, as it is told to."""

    def __init__(self, room: BodyRoom) -> None:
        self._place = room.place()
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> bytes:
        with self._place:
            body = await self._place.read(self._sent.get, 100)
            await asyncio.Event().wait() if body == b"stay" else None
            return body

    async def send(self, chunk: bytes, more: bool = True) -> None:
        self._sent.put_nowait({"type": "http.request", "body": chunk, "more_body": more})
        while not self._sent.empty():
            await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.mark.anyio
class TestRoom:
    async def test_the_largest_that_still_arrives_gives_way(self) -> None:
        room = BodyRoom(100)
        large, larger, small = Sender(room), Sender(room), Sender(room)
        await large.send(bytes(40))
        await larger.send(bytes(45))
        await small.send(bytes(20))
        with pytest.raises(Overloaded, match="largest"):
            await larger.reading
        for sender, num_bytes in ((large, 40), (small, 20)):
            await sender.send(b"", more=False)
            assert len(await sender.reading) == num_bytes

    async def test_who_is_the_largest_is_refused_itself(self) -> None:
        room = BodyRoom(100)
        small, large = Sender(room), Sender(room)
        await small.send(bytes(40))
        await large.send(bytes(61))
        with pytest.raises(Overloaded):
            await large.reading
        await small.send(bytes(60), more=False)
        assert len(await small.reading) == 100

    async def test_what_has_arrived_gives_way_to_nobody(self) -> None:
        room = BodyRoom(10)
        first, second = Sender(room), Sender(room)
        await first.send(b"stay", more=False)
        await second.send(bytes(7))
        with pytest.raises(Overloaded):
            await second.reading
        first.reading.cancel()
        await asyncio.wait([first.reading])
        third = Sender(room)
        await third.send(bytes(10), more=False)
        assert len(await third.reading) == 10

    async def test_whoever_is_cancelled_is_not_refused(self) -> None:
        room = BodyRoom(10)
        sender = Sender(room)
        await sender.send(bytes(7))
        sender.reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sender.reading
        assert room._num_bytes == 0
