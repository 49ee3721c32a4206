"""Forms, as ``multipart/form-data`` has them (RFC 7578): a few fields, of which images are large.

    --boundary  head  content  --boundary  head  content  --boundary--
                      '-----'                    '-----' cut out

The parser of forms reads byte by byte, on the event loop. So contents are cut out, and it is given
what is left: boundaries and heads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers

from serving.api.numbers import shown
from serving.core.errors import InvalidParameter, InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MULTIPART = "multipart/form-data"
_MAX_BOUNDARY = 70  # RFC 2046

MAX_FORM_BYTES = 32 * 2**10
"""Most bytes of a form without the content of its fields."""


class Field(NamedTuple):
    """One field of a form."""

    name: str
    content: bytes


def read_form(headers: Headers, body: bytes, max_fields: int) -> list[Field]:
    """Return the fields of the form in ``body``, in their order.

    Raises InvalidRequest for a malformed form, or one with more than ``max_fields``.
    """
    _, parameters = parse_options_header(headers["content-type"])
    boundary = parameters.get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise InvalidRequest("The form states no usable boundary.")
    spans = _contents(body, boundary, max_fields)
    starts, stops = (0, *(stop for _, stop in spans)), (*(start for start, _ in spans), len(body))
    outline = [body[start:stop] for start, stop in zip(starts, stops, strict=True)]
    if sum(map(len, outline)) > MAX_FORM_BYTES:
        raise InvalidRequest(
            f"The form is larger than {MAX_FORM_BYTES} bytes without the content of its fields."
        )
    names = _names(outline, boundary)
    if len(names) != len(spans):
        raise InvalidRequest("The form is malformed: its parts are not all between boundaries.")
    return [Field(name, body[start:stop]) for name, (start, stop) in zip(names, spans, strict=True)]


def check_fields(fields: Iterable[Field], known: Iterable[str]) -> None:
    """Raise InvalidParameter for a field of another name."""
    names = tuple(known)
    for field in fields:
        if field.name not in names:
            raise InvalidParameter(
                f"The form's field {shown(field.name)} is not known; there may be "
                f"{', '.join(names)}."
            )


def _contents(body: bytes, boundary: bytes, max_fields: int) -> list[tuple[int, int]]:
    """Return from where to where the contents of the form's fields go.

    It is empty for what is no form. Raises InvalidRequest for one with too many fields.
    """
    delimiter = b"--" + boundary
    following, closing = (b"\r\n" + delimiter + tail for tail in (b"\r\n", b"--"))
    head = body.find(delimiter, 0, MAX_FORM_BYTES)
    end = -1  # of the last field; it is looked for once, or a form of many fields would take long
    spans: list[tuple[int, int]] = []
    while head >= 0:
        blank = body.find(b"\r\n\r\n", head, head + MAX_FORM_BYTES)
        if blank < 0:
            break
        if len(spans) == max_fields:
            raise InvalidRequest(f"The form has more than {max_fields} fields.")
        start = blank + 4
        if end < start:
            end = _find(body, closing, start)
        # What ends in the last boundary may begin before it: both have a line break in common.
        stop = min(end, _find(body, following, start, end + len(following)))
        spans.append((start, stop))
        head = -1 if stop == end else stop + 2
    return spans


def _find(body: bytes, sought: bytes, start: int, end: int | None = None) -> int:
    """Return where something begins in ``body``; its length if it does nowhere."""
    found = body.find(sought, start, end)
    return len(body) if found < 0 else found


def _names(outline: Iterable[bytes], boundary: bytes) -> list[str]:
    """Return the names of a form's fields, given all of it but their contents."""
    form = _Outline()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        for piece in outline:
            parser.write(piece)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise InvalidRequest(f"The form is malformed: {error}") from error
    if not form.ended or not form.names:
        raise InvalidRequest("The form has no complete part between its boundaries.")
    return [name.decode("utf-8", "replace") for name in form.names]


class _Outline:
    """The names of one form's fields, as the parser finds them."""

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.ended = False
        self._header = b""
        self._value = b""

    def callbacks(self) -> MultipartCallbacks:
        """Return the functions that the parser calls; data comes as slices of a buffer."""
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self.names.append(b"")

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
