"""The image out of a request's body, with a bound on bytes, on parts and on patience."""

from __future__ import annotations

from email.message import Message

from starlette.datastructures import Headers
from starlette.types import Receive

from serving.api.numbers import integer, shown
from serving.core.errors import (
    Cancelled,
    InvalidParameter,
    InvalidRequest,
    PayloadTooLarge,
    UnsupportedImage,
)

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
MULTIPART = "multipart/form-data"
FIELD = "image"
_MAX_BOUNDARY = 70  # RFC 2046
_MAX_PART_HEAD_BYTES = 4096


def check_head(headers: Headers, max_bytes: int) -> None:
    """Refuse what can be refused before any of the body is read. Raises UnsupportedImage or
    PayloadTooLarge."""
    stated = headers.get("content-type", "")
    if stated.partition(";")[0].strip().lower() not in (*IMAGE_TYPES, MULTIPART):
        raise UnsupportedImage(
            f"Content-Type must be one of {', '.join(IMAGE_TYPES)}, or {MULTIPART} with a field "
            f"{FIELD!r}; it is {shown(stated)}."
        )
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedImage(
            f"The body must not be encoded; Content-Encoding is {shown(encoding)}."
        )
    length = integer(headers.get("content-length", "0"))
    if length is not None and length > max_bytes:
        raise _too_large(max_bytes)


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """The whole body. Raises PayloadTooLarge as soon as it exceeds ``max_bytes``, Cancelled when
    the client leaves before its end."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("The client left before the end of the body.")
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
    """The image in ``body``: all of it, or the field ``image`` of a form. Raises InvalidRequest
    for a malformed form, InvalidParameter for any other field in it."""
    head = _head("Content-Type", headers["content-type"])
    if head.get_content_type() != MULTIPART:
        return body
    boundary = head.get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise InvalidRequest("The form states no usable boundary.")
    # The first delimiter need not follow a line break. One part and what follows it are enough:
    # a second part is an error whatever it is.
    delimiter = b"\r\n--" + boundary.encode("latin-1")
    sections = (b"\r\n" + body).split(delimiter, 2)
    if len(sections) < 3:
        raise InvalidRequest("The form has no complete part between its boundaries.")
    image = _part(sections[1])
    if not sections[2].startswith(b"--"):
        raise InvalidParameter(f"The form must have one field, {FIELD!r}, and nothing else.")
    return image


def _part(section: bytes) -> bytes:
    head, separator, content = section.partition(b"\r\n\r\n")
    if not separator or len(head) > _MAX_PART_HEAD_BYTES:
        raise InvalidRequest("A part of the form has no end to its head.")
    for line in head.split(b"\r\n"):
        name, _, value = line.decode("latin-1").partition(":")
        if name.strip().lower() == "content-disposition":
            field = _head("Content-Disposition", value).get_param(
                "name", header="content-disposition"
            )
            if field == FIELD:
                return content
            raise InvalidParameter(
                f"The form's field must be {FIELD!r}; it is {shown(str(field))}."
            )
    raise InvalidRequest("A part of the form has no Content-Disposition.")


def _head(name: str, value: str) -> Message:
    message = Message()
    message[name] = value.strip()
    return message
