"""Reading of an image from a request's body, with a bound on bytes, on parts and on patience."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.types import Receive

from serving.api.numbers import integer, shown
from serving.core.errors import (
    InvalidParameter,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    RequestCancelled,
    ShedReason,
    UnsupportedImage,
)

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
MULTIPART = "multipart/form-data"
FIELD = "image"
_MAX_BOUNDARY = 70  # RFC 2046
_MAX_PARTS = 16  # more than are worth naming in a refusal

MAX_FORM_BYTES = 32 * 2**10
"""Most bytes of a form without the content of its first field.

The parser of forms reads them byte by byte, on the event loop.
"""


# ---- room for bodies ----------------------------------------------------------------------------


class BodyRoom:
    """Room for the bodies of all requests that are in the server, in bytes.

    Where it does not do, the largest of the bodies that are still arriving gives way. So whoever
    sends much is refused, and a body of ordinary size finds room. Not thread-safe: the event loop
    owns it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._arriving: set[BodyPlace] = set()

    def place(self) -> BodyPlace:
        """Return the place of a request that has sent nothing of its body."""
        return BodyPlace(self)

    def take(self, place: BodyPlace, num_bytes: int) -> None:
        """Count more bytes in ``place``. Raises Overloaded if it has to give way itself."""
        place.num_bytes += num_bytes
        self._num_bytes += num_bytes
        self._arriving.add(place)
        while self._num_bytes > self._max_bytes:
            largest = max(self._arriving, key=lambda each: each.num_bytes)
            if largest is place:
                raise _no_room()
            self.give_back(largest)
            largest.give_way()

    def arrived(self, place: BodyPlace) -> None:
        """Note that a body is whole, from when on it gives way to nobody."""
        self._arriving.discard(place)

    def give_back(self, place: BodyPlace) -> None:
        """Count nothing in ``place`` any longer."""
        self._arriving.discard(place)
        self._num_bytes -= place.num_bytes
        place.num_bytes = 0


class BodyPlace:
    """One request's part of the room for bodies, for as long as its context lasts."""

    def __init__(self, room: BodyRoom) -> None:
        self.num_bytes = 0
        self._room = room
        self._task: asyncio.Task[object] | None = None
        self._has_given_way = False

    def __enter__(self) -> BodyPlace:
        return self

    def __exit__(self, *_: object) -> None:
        self._room.give_back(self)

    def give_way(self) -> None:
        """End the reading of this body."""
        self._has_given_way = True
        assert self._task is not None, "nobody reads it"
        self._task.cancel()

    async def read(self, receive: Receive, max_bytes: int) -> bytes:
        """Return the whole body.

        Raises PayloadTooLarge as soon as it exceeds ``max_bytes``, Overloaded where there is no
        room for it, RequestCancelled when the client leaves before its end.
        """
        self._task = task = asyncio.current_task()
        assert task is not None, "there is no task to cancel"
        try:
            return await self._read(receive, max_bytes)
        except asyncio.CancelledError:
            if self._has_given_way and task.uncancel() == 0:  # by nobody else
                raise _no_room() from None
            raise
        finally:
            self._room.arrived(self)

    async def _read(self, receive: Receive, max_bytes: int) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestCancelled("The client left before the end of the body.")
            chunk: bytes = message.get("body", b"")
            if len(body) + len(chunk) > max_bytes:
                raise _too_large(max_bytes)
            self._room.take(self, len(chunk))
            if not message.get("more_body", False) and not body:
                return chunk
            body += chunk
            if not message.get("more_body", False):
                return bytes(body)


def _no_room() -> Overloaded:
    return Overloaded(
        "There is no room for the bodies of all requests, and this is the largest.",
        ShedReason.REJECTED_SATURATED,
    )


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {max_bytes} bytes.")


# ---- what a head says of its body ---------------------------------------------------------------


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


# ---- forms --------------------------------------------------------------------------------------


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
    start, stop = _first_content(body, boundary)
    if len(body) - (stop - start) > MAX_FORM_BYTES:
        raise InvalidRequest(
            f"The form is larger than {MAX_FORM_BYTES} bytes without its first field."
        )
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body[:start])
        parser.write(body[stop:])
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
    return body[start:stop] + form.content


def _first_content(body: bytes, boundary: bytes) -> tuple[int, int]:
    """Return from where to where there is nothing but content of the form's first field.

    It is empty for what is no form. The parser, which would look at each byte of something like a
    boundary in it, need not see it: it is in the same state before and after.
    """
    delimiter = b"--" + boundary
    first = body.find(delimiter, 0, MAX_FORM_BYTES)
    head = -1 if first < 0 else body.find(b"\r\n\r\n", first, MAX_FORM_BYTES)
    if head < 0:
        return 0, 0
    start = head + 4
    stop = body.find(b"\r\n" + delimiter, start)
    return start, stop if stop >= 0 else len(body)


class _Form:
    """One form's parts, as the parser finds them: the names of all, the content of the first."""

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.content = b""
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
            self.content += data[start:end]

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
