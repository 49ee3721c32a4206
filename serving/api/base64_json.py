"""Images inside JSON, as base64, for clients that can send nothing else.

    {"image": "/9j/4AAQSkZJRg...", "score_threshold": 0.3, "deadline_ms": 100}

A JSON parser, and a decoder of base64, hold the interpreter lock for all of a string. So the image
is cut out of the JSON and decoded piece by piece.
"""

from __future__ import annotations

import binascii
import json
import re
from typing import Any

from serving.api.numbers import shown
from serving.core.errors import InvalidRequest, PayloadTooLarge
from serving.imaging.pixels import Checkpoint, go_on

JSON_TYPE = "application/json"
IMAGE_KEY = "image"

INLINE_BYTES = 16 * 2**10
"""Most bytes of such a message that are read on the event loop.

Longer ones are read by the threads that decode images.
"""
S_PER_BYTE = 3e-9
"""Seconds that reading a byte of it takes, to say when to try again."""
MAX_OTHER_BYTES = 16 * 2**10
"""Most bytes of a message without its image; they are parsed in one go."""
_PIECE_BYTES = 64 * 2**10  # a multiple of four
_MAX_SCHEME = 128

_KEY = re.compile(rb'"image"[ \t\r\n]*:[ \t\r\n]*"')


def read_json(body: bytes, checkpoint: Checkpoint = go_on) -> tuple[bytes, list[tuple[str, Any]]]:
    """Return the image in a message, and the other members in their order.

    A long message takes time, during which others may run, and ``checkpoint`` is called now and
    then. The image may be a ``data:`` URL. Raises InvalidRequest or PayloadTooLarge.
    """
    text, rest = _take_image(body)
    if len(rest) > MAX_OTHER_BYTES:
        raise PayloadTooLarge(
            f"The JSON is larger than {MAX_OTHER_BYTES} bytes without the image in it, a string "
            f"called {IMAGE_KEY!r}."
        )
    try:
        members = json.loads(rest, object_pairs_hook=_Members)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("The message is not JSON.") from error
    if not isinstance(members, _Members):
        raise InvalidRequest("The message must be a JSON object.")
    # A list or an object may have the image in it, where it is not looked for.
    if text is None or [value for name, value in members if name == IMAGE_KEY] != [None]:
        raise InvalidRequest(
            f"The message must have one member {IMAGE_KEY!r}, a string: the image file as base64."
        )
    return _decode(text, checkpoint), [member for member in members if member[0] != IMAGE_KEY]


class _Members(list[tuple[str, Any]]):
    """The members of a JSON object, those that are there twice as well."""


def _take_image(body: bytes) -> tuple[bytes | None, bytes]:
    """Return the text of the first image in ``body``, and ``body`` with null in its place.

    The key cannot be part of a string, whose quotes would be escaped; and no base64 has quotes.
    """
    key = _KEY.search(body)
    if key is None:
        return None, body
    start = key.end()
    stop = body.find(b'"', start)
    if stop < 0:
        return None, body
    return body[start:stop], body[: start - 1] + b"null" + body[stop + 1 :]


def _decode(text: bytes, checkpoint: Checkpoint) -> bytes:
    text = text.replace(b"\\/", b"/")  # which is how PHP writes it
    if text.startswith(b"data:"):
        comma = text.find(b",", 0, _MAX_SCHEME)
        if not text[:comma].endswith(b";base64"):
            raise InvalidRequest(f"The image is no base64: {shown(text[:40].decode('latin-1'))}.")
        text = text[comma + 1 :]
    try:
        pieces = []
        for start in range(0, len(text), _PIECE_BYTES):
            checkpoint()
            piece = text[start : start + _PIECE_BYTES]
            pieces.append(binascii.a2b_base64(piece, strict_mode=True))
        return b"".join(pieces)
    except binascii.Error as error:
        raise InvalidRequest(f"The image is no base64: {error}.") from error
