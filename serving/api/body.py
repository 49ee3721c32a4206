"""Reading of an image from a request's body, with a bound on bytes, on parts and on patience."""

from __future__ import annotations

from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.types import Receive

from serving.api.numbers import integer, shown
from serving.core.errors import (
    InvalidParameter,
    InvalidRequest,
    PayloadTooLarge,
    RequestCancelled,
    UnsupportedImage,
)

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
MULTIPART = "multipart/form-data"
FIELD = "image"
_MAX_BOUNDARY = 70  # RFC 2046
_MAX_PARTS = 16  # more than are worth naming in a refusal


def check_type(headers: Headers) -> None:
    """Raise UnsupportedImage for a body that does not say it is an image or a form."""
    stated = headers.get("content-type", "")
    if stated.partition(";")[0].strip().lower() not in (*IMAGE_TYPES, MULTIPART):
        raise UnsupportedImage(
            f"Content-Type must be one of {', '.join(IMAGE_TYPES)}, or {MULTIPART} with a field "
            f"{FIELD!r}; it is {shown(stated)}."
        )


def check_head(headers: Headers, max_bytes: int) -> None:
    """Refuse what no body can be before any of it is read.

    Raises UnsupportedImage for a compressed one, PayloadTooLarge for one that states too many
    bytes.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedImage(
            f"The body must not be encoded; Content-Encoding is {shown(encoding)}."
        )
    length = integer(headers.get("content-length", "0"))
    if length is not None and length > max_bytes:
        raise _too_large(max_bytes)


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """Return the whole body.

    Raises PayloadTooLarge as soon as it exceeds ``max_bytes``, RequestCancelled when the client
    leaves before its end.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestCancelled("The client left before the end of the body.")
        chunk: bytes = message.get("body", b"")
        if len(body) + len(chunk) > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body", False) and not body:
            return chunk
        body += chunk
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {max_bytes} bytes.")


def image_bytes(headers: Headers, body: bytes) -> bytes:
    """Return the image in ``body``: all of it, or the field ``image`` of a form.

    Raises InvalidRequest for a malformed form, InvalidParameter for any other field in it.
    """
    kind, parameters = parse_options_header(headers["content-type"])
    if kind.decode("latin-1") != MULTIPART:
        return body
    boundary = parameters.get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise InvalidRequest("The form states no usable boundary.")
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise InvalidRequest(f"The form is malformed: {error}") from error
    if not form.ended:
        raise InvalidRequest("The form has no complete part between its boundaries.")
    if form.names != [FIELD.encode()]:
        names = ", ".join(shown(name.decode("latin-1")) for name in form.names) or "none"
        raise InvalidParameter(
            f"The form must have one field, {FIELD!r}, and nothing else; it has {names}."
        )
    return bytes(form.content)


class _Form:
    """One form's parts, as the parser finds them: the names of all, the content of the first."""

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.content = bytearray()
        self.ended = False
        self._header = b""
        self._value = b""

    def callbacks(self) -> MultipartCallbacks:
        """Return the functions that the parser calls; data comes as slices of a buffer."""
        return {
            "on_part_begin": self._part_begin,
            "on_part_data": self._part_data,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        if len(self.names) > _MAX_PARTS:
            raise ValueError(f"more than {_MAX_PARTS} parts")
        self.names.append(b"")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if len(self.names) == 1:
            self.content += memoryview(data)[start:end]

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self.names[-1] = parse_options_header(self._value)[1].get(b"name", b"")
        self._header = self._value = b""

    def _end(self) -> None:
        self.ended = True
