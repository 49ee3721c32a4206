from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.types import Message, Receive

from serving.api.body import check_head, check_type, image_bytes, read_body
from serving.core.errors import (
    InvalidParameter,
    InvalidRequest,
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
        assert await read_body(messages(chunks), 3) == b"".join(chunks)

    @pytest.mark.parametrize("chunks", [[b"abcd"], [b"ab", b"cd"], [b"abc", b"d", b"never read"]])
    async def test_too_large(self, chunks: list[bytes]) -> None:
        with pytest.raises(PayloadTooLarge):
            await read_body(messages(chunks), 3)

    async def test_a_client_that_leaves(self) -> None:
        async def receive() -> Message:
            return {"type": "http.disconnect"}

        with pytest.raises(RequestCancelled):
            await read_body(receive, 3)


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
