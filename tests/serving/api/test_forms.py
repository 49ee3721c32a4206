from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_multipart.multipart import MultipartParser
from starlette.datastructures import Headers

from serving.api.forms import MAX_FORM_BYTES, Field, check_fields, read_form
from serving.core.errors import InvalidParameter, InvalidRequest

IMAGE = b"\xff\xd8 \r\n--not the boundary\r\n\r\n \xff\xd9"
MAX_FIELDS = 4

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


def read(body: bytes, headers: Headers = FORM) -> list[Field]:
    return read_form(headers, body, MAX_FIELDS)


class TestForm:
    def test_one_field(self) -> None:
        assert read(form(part())) == [("image", IMAGE)]
        assert read(form(part(b"name=image", b""))) == [("image", b"")]

    def test_several_in_their_order(self) -> None:
        sent = form(part(b"name=api_key", b""), part(), part(b'name="n"', b"0.4"), part())
        assert read(sent) == [("api_key", b""), ("image", IMAGE), ("n", b"0.4"), ("image", IMAGE)]

    def test_more_than_are_read(self) -> None:
        with pytest.raises(InvalidRequest, match="more than 4 fields"):
            read(form(*[part()] * (MAX_FIELDS + 1)))

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
            check_fields(read(body), ("image",))

    def test_other_fields(self) -> None:
        fields = read(form(part(), part(b"filename=a.jpg")))
        with pytest.raises(InvalidParameter, match="field '' is not known; there may be image"):
            check_fields(fields, ("image",))

    def test_a_boundary_whose_line_ends_in_the_last_one(self) -> None:
        with pytest.raises(InvalidRequest):
            read(b"--b o\r\n" + part() + b"\r\n--b o\r\n--b o--\r\n")

    def test_leading_lines_and_what_follows_the_end(self) -> None:
        assert read(b"\r\n\r\n" + form(part()) + b"epilogue") == [("image", IMAGE)]

    @pytest.mark.parametrize("like_a_boundary", [b"\r\n--b ", b"\r\n--b oX", b"\r\n--b o-", b"\r"])
    def test_what_is_like_a_boundary(self, like_a_boundary: bytes) -> None:
        content = IMAGE + like_a_boundary + IMAGE
        assert read(form(part(content=content), part())) == [("image", content), ("image", IMAGE)]

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
            assert read(form(part(content=content), end=end)) == [("image", content)]
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
            read(form(part()), Headers({"content-type": stated}))

    @given(st.binary(), st.binary(), st.text(st.characters(max_codepoint=255)))
    def test_only_core_errors(self, head: bytes, content: bytes, parameters: str) -> None:
        raw = [(b"content-type", b"multipart/form-data;" + parameters.encode("latin-1"))]
        for headers in (FORM, Headers(raw=raw)):
            with contextlib.suppress(InvalidRequest):
                read(form(b"content-disposition:" + head + b"\r\n\r\n" + content), headers)
