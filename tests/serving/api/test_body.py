from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_multipart.multipart import MultipartParser
from starlette.datastructures import Headers
from starlette.types import Message, Receive

from serving.api.body import (
    MAX_FORM_BYTES,
    BodyRoom,
    check_head,
    check_type,
    image_bytes,
)
from serving.core.errors import (
    InvalidParameter,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    RequestCancelled,
    UnsupportedImage,
)

IMAGE = b"\xff\xd8 \r\n--not the boundary\r\n\r\n \xff\xd9"


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
        check_type(Headers({"content-type": stated}))

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"content-type": ""},
            {"content-type": "application/json"},
            {"content-type": "application/octet-stream"},
            {"content-type": "image/gif"},
        ],
    )
    def test_unsupported(self, headers: dict[str, str]) -> None:
        with pytest.raises(UnsupportedImage):
            check_type(Headers(headers))

    def test_compressed(self) -> None:
        with pytest.raises(UnsupportedImage, match="Content-Encoding is 'gzip'"):
            check_head(Headers({"content-encoding": "gzip"}), 10)

    def test_length(self) -> None:
        check_head(Headers({"content-length": "10", "content-encoding": "identity"}), 10)
        with pytest.raises(PayloadTooLarge):
            check_head(Headers({"content-length": "11"}), 10)


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


FORM = Headers({"content-type": 'multipart/form-data; boundary="b o"'})


def form(*parts: bytes, end: bytes = b"--b o--\r\n") -> bytes:
    return b"".join(b"--b o\r\n" + part + b"\r\n" for part in parts) + end


def part(name: bytes = b'name="image"; filename="a.jpg"', content: bytes = IMAGE) -> bytes:
    return (
        b"Content-Type: image/jpeg\r\ncontent-disposition: form-data; "
        + name
        + b"\r\n\r\n"
        + content
    )


class TestForm:
    def test_plain_bodies_are_left_alone(self) -> None:
        assert image_bytes(Headers({"content-type": "image/jpeg"}), form(part())) == form(part())

    def test_the_field(self) -> None:
        assert image_bytes(FORM, form(part())) == IMAGE
        assert image_bytes(FORM, form(part(b"name=image", b""))) == b""

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"nothing like a form",
            form(),
            form(part(), end=b""),
            form(b"\r\n\r\n" + IMAGE),
            form(b"no end of head"),
            form(b"X: " + b"y" * 5000 + b"\r\n\r\n"),
        ],
    )
    def test_malformed(self, body: bytes) -> None:
        with pytest.raises(InvalidRequest):
            image_bytes(FORM, body)

    @pytest.mark.parametrize(
        "body",
        [
            form(part(b'name="file"')),
            form(part(b"filename=a.jpg")),
            form(part(), part()),
            form(part(), part(b"name=depth", b"3")),
        ],
    )
    def test_other_fields(self, body: bytes) -> None:
        with pytest.raises(InvalidParameter):
            image_bytes(FORM, body)

    def test_leading_lines_and_what_follows_the_end(self) -> None:
        assert image_bytes(FORM, b"\r\n\r\n" + form(part()) + b"epilogue") == IMAGE

    @pytest.mark.parametrize("like_a_boundary", [b"\r\n--b ", b"\r\n--b oX", b"\r\n--b o-", b"\r"])
    def test_what_is_like_a_boundary(self, like_a_boundary: bytes) -> None:
        content = IMAGE + like_a_boundary + IMAGE
        assert image_bytes(FORM, form(part(content=content))) == content

    @pytest.mark.parametrize(
        "content",
        [
            b"\r\n--b " * 200_000,
            b"\r\n--b oX" * 200_000,
            (b"\r\n--b o\r\n\r\n" + bytes(100)) * 10_000,
            b"X: y\r\n" * 200_000,
        ],
    )
    @pytest.mark.parametrize("end", [b"", b"--b o--\r\n"])
    def test_floods_are_not_looked_at_byte_by_byte(
        self, content: bytes, end: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[int] = []
        write = MultipartParser.write

        def counted(parser: MultipartParser, data: bytes) -> int:
            seen.append(len(data))
            return write(parser, data)

        monkeypatch.setattr(MultipartParser, "write", counted)
        with contextlib.suppress(InvalidRequest):
            assert image_bytes(FORM, form(part(content=content), end=end)) == content
        assert sum(seen) <= MAX_FORM_BYTES

    @pytest.mark.parametrize(
        "stated",
        [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=" + "x" * 71,
            "multipart/form-data; boundary*=utf-8''x",
        ],
    )
    def test_no_boundary(self, stated: str) -> None:
        with pytest.raises(InvalidRequest):
            image_bytes(Headers({"content-type": stated}), form(part()))

    @given(st.binary(), st.binary(), st.text(st.characters(max_codepoint=255)))
    def test_only_core_errors(self, head: bytes, content: bytes, parameters: str) -> None:
        raw = [(b"content-type", b"multipart/form-data;" + parameters.encode("latin-1"))]
        for headers in (FORM, Headers(raw=raw)):
            with contextlib.suppress(InvalidRequest):
                image_bytes(headers, form(b"content-disposition:" + head + b"\r\n\r\n" + content))
