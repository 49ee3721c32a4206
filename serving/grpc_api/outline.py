"""Outline of an inference message: what is left of it without its images, before it is parsed.

    model_name  id  parameters..  inputs { name  shape  contents { bytes_contents } }  raw_contents
                                                                   '------------'      '----------'
                                                                        cut out          cut out

A parser makes an object of every field: of two bytes as well, of which a message holds millions. So
they are counted before, in the encoding that all messages have
(https://protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from tritonclient.grpc import service_pb2 as pb

from serving.core.errors import InvalidRequest, PayloadTooLarge

MAX_NUMBERS = 2**16
"""Most numbers of a tensor that is not sent as raw bytes: each is looked at on the event loop."""
MAX_FIELDS = 1024
"""Most fields of a message, each of those that are repeated counted."""
MAX_OUTLINE_BYTES = 2 * MAX_NUMBERS + 32 * 2**10
"""Most bytes of a message without its images: as many numbers up to 255, and all the rest."""

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # how the content of a field is written
_NUM_FIXED_BYTES = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}
_MAX_VARINT_BYTES = 10

_Images: TypeAlias = Mapping[int, "_Images | None"]
"""Where images are, by the number of a field: in it, or in fields of it."""


def _number(kind: Any, name: str) -> int:
    return int(kind.DESCRIPTOR.fields_by_name[name].number)


_CONTENTS: _Images = {_number(pb.InferTensorContents, "bytes_contents"): None}
_INPUT: _Images = {_number(pb.ModelInferRequest.InferInputTensor, "contents"): _CONTENTS}
_MESSAGE: _Images = {
    _number(pb.ModelInferRequest, "raw_input_contents"): None,
    _number(pb.ModelInferRequest, "inputs"): _INPUT,
}


def check_outline(message: bytes) -> None:
    """Raise PayloadTooLarge for a ``ModelInferRequest`` with too much in it beside images.

    Raises InvalidRequest for what is none.
    """
    try:
        num_image_bytes = _Fields(message).image_bytes(0, len(message), _MESSAGE)
    except (LookupError, ValueError) as error:
        raise InvalidRequest("The message is no ModelInferRequest.") from error
    if len(message) - num_image_bytes > MAX_OUTLINE_BYTES:
        raise PayloadTooLarge(
            f"The message is larger than {MAX_OUTLINE_BYTES} bytes without its image, which goes "
            "into raw_input_contents."
        )


class _Fields:
    """The fields of one message, as they are found in it."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._num_fields = 0

    def image_bytes(self, start: int, stop: int, images: _Images) -> int:
        """Return how many bytes of the fields from ``start`` to ``stop`` are images.

        Raises PayloadTooLarge; LookupError or ValueError for what are no fields.
        """
        found, position = 0, start
        while position < stop:
            self._num_fields += 1
            if self._num_fields > MAX_FIELDS:
                raise PayloadTooLarge(f"The message has more than {MAX_FIELDS} fields.")
            tag, position = self._varint(position)
            number, coding = tag >> 3, tag & 7
            if coding in _NUM_FIXED_BYTES:
                position += _NUM_FIXED_BYTES[coding]
                continue
            length, position = self._varint(position)
            if coding == _VARINT:
                continue
            if coding != _LENGTH or position + length > stop:
                raise ValueError("no field")
            if number in images:
                within = images[number]
                ends = position + length
                found += length if within is None else self.image_bytes(position, ends, within)
            position += length
        return found

    def _varint(self, position: int) -> tuple[int, int]:
        """Return the number that begins at ``position``, and where it ends."""
        value = 0
        for place in range(_MAX_VARINT_BYTES):
            byte = self._message[position + place]
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value, position + place + 1
        raise ValueError("no number")
