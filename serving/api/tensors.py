"""Messages of the Open Inference Protocol: tensors as JSON, or as bytes that follow the JSON.

    {"inputs": [{..., "parameters": {"binary_data_size": 921600}}], ...}  921600 bytes
    '------------- Inference-Header-Content-Length bytes -------------'

The protocol is KServe's (https://github.com/kserve/open-inference-protocol), the bytes are Triton's
extension "binary_tensor_data": little-endian, row-major, BYTES elements after their length as four
bytes.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers
from starlette.responses import Response

from serving.api.numbers import integer, shown
from serving.core.errors import InvalidRequest, PayloadTooLarge
from serving.imaging.pixels import Checkpoint, go_on

LENGTH_HEADER = "Inference-Header-Content-Length"

MAX_DIMENSIONS = 8
"""Most lengths in a shape."""
MAX_JSON_BYTES = 64 * 2**10
"""Most bytes of a message without the numbers of its tensor; it is parsed in one go."""

_DATATYPES = {"float32": "FP32", "int32": "INT32"}
_LENGTH = struct.Struct("<I")


# ---- what a request may look like ---------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class InputParameters(_Strict):
    binary_data_size: Annotated[int, Field(ge=0)] | None = None


class InferInput(_Strict):
    name: str
    datatype: str
    shape: list[Annotated[int, Field(ge=0)]] = Field(max_length=MAX_DIMENSIONS)
    parameters: InputParameters = InputParameters()
    data: Any = None


class OutputParameters(_Strict):
    binary_data: bool | None = None


class InferOutput(_Strict):
    name: str
    parameters: OutputParameters = OutputParameters()


class InferRequest(_Strict):
    """One message without the numbers of its tensors."""

    # Both are in the path already; some clients repeat them.
    model_name: str | None = None
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: list[InferInput]
    outputs: list[InferOutput] = []


_REASONS = {
    "classification": "outputs are boxes, not scores of a whole image",
    **dict.fromkeys(
        ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"),
        "no memory is shared with clients",
    ),
}


def _sentence(error: Any) -> str:
    """Return what pydantic found, as a sentence for a person."""
    path = ".".join(map(str, error["loc"]))
    if error["type"] == "json_invalid":
        return f"The message is not JSON ({error['ctx']['error']})."
    if error["type"] != "extra_forbidden":
        return f"{path or 'The message'}: {error['msg']}."
    reason = _REASONS.get(str(error["loc"][-1]))
    return f"{shown(path)} is not served" + (f": {reason}." if reason else ".")


# ---- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a message; ``data`` is little-endian and row-major."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes

    def element(self) -> bytes:
        """Return the only element of a BYTES tensor.

        Raises InvalidRequest when there is not one.
        """
        if self.shape != (1,):
            raise InvalidRequest(f"BYTES must have shape [1]; it is {list(self.shape)}.")
        stated = _LENGTH.unpack_from(self.data)[0] if len(self.data) >= _LENGTH.size else None
        if stated != len(self.data) - _LENGTH.size:
            raise InvalidRequest("BYTES must be one element after its length as four bytes.")
        return self.data[_LENGTH.size :]


def split_body(headers: Headers, body: bytes) -> tuple[bytes, bytes]:
    """Return the JSON of a message, and what follows it. Raises InvalidRequest."""
    stated = headers.get(LENGTH_HEADER)
    if stated is None:
        return body, b""
    length = integer(stated)
    if length is None or not 0 < length <= len(body):
        raise InvalidRequest(
            f"{LENGTH_HEADER} must be the length of the JSON, at most that of the body; "
            f"it is {shown(stated)}."
        )
    return body[:length], body[length:]


def read_request(
    text: bytes, binary: bytes, checkpoint: Checkpoint = go_on
) -> tuple[InferRequest, Tensor]:
    """Return the message and its only tensor.

    A long ``text`` takes time, during which others may run, and ``checkpoint`` is called now and
    then. Raises InvalidRequest or PayloadTooLarge.
    """
    text, numbers = _take_numbers(text, checkpoint)
    if len(text) > MAX_JSON_BYTES:
        raise PayloadTooLarge(
            f"The JSON is larger than {MAX_JSON_BYTES} bytes; only the data of a tensor may be, as "
            "whole numbers from 0 to 255 or, better, as binary data."
        )
    try:
        request = InferRequest.model_validate_json(text)
    except ValidationError as error:
        raise InvalidRequest(_sentence(error.errors(include_url=False)[0])) from error
    if len(request.inputs) != 1:
        raise InvalidRequest(f"There must be one input; there are {len(request.inputs)}.")
    return request, _tensor(request.inputs[0], numbers, binary)


def _tensor(stated: InferInput, numbers: bytes | None, binary: bytes) -> Tensor:
    size = stated.parameters.binary_data_size
    if (size or 0) != len(binary):
        raise InvalidRequest(
            f"{len(binary)} bytes follow the JSON; binary_data_size is {size or 0}."
        )
    if size is not None:
        if numbers is not None or stated.data is not None:
            raise InvalidRequest("A tensor has either data or binary_data_size, not both.")
        return Tensor(stated.datatype, tuple(stated.shape), binary)
    if stated.datatype == "BYTES":
        raise InvalidRequest("BYTES must be sent as binary data: JSON cannot hold them.")
    if numbers is None:
        raise InvalidRequest("data must be whole numbers from 0 to 255, or sent as binary data.")
    return Tensor(stated.datatype, tuple(stated.shape), numbers)


# A tensor as JSON is megabytes of numbers, and any parser would hold the interpreter lock for all
# of them, the engine's thread waiting. So they are cut out and parsed piece by piece.
_KEY = b'"data"'
_ARRAY = re.compile(rb"\s*:\s*(?=\[)")
_OTHER = re.compile(rb"[^0-9,\s\[\]]")
_PIECE_BYTES = 16 * 2**10
_BRACKETS_TO_BLANKS = bytes.maketrans(b"[]", b"  ")


def _take_numbers(text: bytes, checkpoint: Checkpoint) -> tuple[bytes, bytes | None]:
    """Cut the first "data" that is an array of whole numbers out of the JSON.

    Returns the JSON with null in its place, and those numbers, nested or not, one byte each. The
    key cannot be part of a string, whose quotes would be escaped.
    """
    key = text.find(_KEY)
    # There are no more than the JSON without the numbers has room for.
    for _ in range(MAX_JSON_BYTES // len(_KEY)):
        if key < 0:
            break
        found = _ARRAY.match(text, key + len(_KEY))
        if found is not None:
            start = found.end()
            # A comma may follow the array.
            array = text[start : _end_of_run(text, start)].rstrip(b", \t\r\n")
            if array.endswith(b"]") and array.count(b"[") == array.count(b"]"):
                rest = text[:start] + b"null" + text[start + len(array) :]
                return rest, _numbers(array, checkpoint)
        key = text.find(_KEY, key + 1)
    return text, None


def _end_of_run(text: bytes, start: int) -> int:
    """Return where the run of numbers, commas and brackets ends that begins at ``start``."""
    for piece in range(start, len(text), _PIECE_BYTES):
        other = _OTHER.search(text, piece, piece + _PIECE_BYTES)
        if other is not None:
            return other.start()
    return len(text)


def _numbers(array: bytes, checkpoint: Checkpoint) -> bytes:
    if not array.strip(b"[] \t\r\n"):
        return b""
    numbers = bytearray()
    start = 0
    try:
        while start < len(array):
            checkpoint()
            end = array.find(b",", start + _PIECE_BYTES)
            end = len(array) if end < 0 else end
            piece = array[start:end].translate(_BRACKETS_TO_BLANKS)
            numbers += bytes(map(int, piece.split(b",")))
            start = end + 1
    except ValueError as error:
        raise InvalidRequest("data must be whole numbers from 0 to 255.") from error
    return bytes(numbers)


# ---- writing ------------------------------------------------------------------------------------


def write_response(
    head: Mapping[str, Any], outputs: Sequence[tuple[str, npt.NDArray[Any], bool]]
) -> Response:
    """Return a reply with ``outputs``: name, float32 or int32 array, and whether as binary data."""
    described = []
    binary = []
    for name, array, as_binary in outputs:
        tensor: dict[str, Any] = {
            "name": name,
            "datatype": _DATATYPES[array.dtype.name],
            "shape": array.shape,
        }
        if as_binary:
            binary.append(array.astype(array.dtype.newbyteorder("<"), order="C").tobytes())
            tensor["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            tensor["data"] = np.ravel(array).tolist()
        described.append(tensor)
    text = json.dumps({**head, "outputs": described}, separators=(",", ":")).encode()
    if not binary:
        return Response(text, media_type="application/json")
    return Response(
        b"".join((text, *binary)),
        headers={LENGTH_HEADER: str(len(text))},
        media_type="application/octet-stream",
    )
