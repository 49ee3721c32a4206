"""Inference messages as protobuf, in Triton's own classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from tritonclient.grpc import service_pb2 as pb

from serving.api.admission import Limits
from serving.api.inference_message import (
    OUTPUTS,
    read_image,
    read_parameters,
    unknown_model,
    wanted_outputs,
)
from serving.api.numbers import shown
from serving.api.options import Options, parse_options
from serving.api.protocol_adapter import DetectionResult, ParsedRequest
from serving.api.tensors import MAX_DIMENSIONS, Tensor
from serving.core.errors import InvalidRequest, PayloadTooLarge
from serving.core.family import Family
from serving.grpc_api.outline import MAX_NUMBERS, check_outline


class UnknownModel(InvalidRequest):
    """An error for a message to a model, or a version of it, that is not here."""

    slug = "not-found"


class InferMessages:
    """``ProtocolAdapter`` for ``ModelInferRequest``, answered with ``ModelInferResponse``.

    Bodies of requests and of responses are messages as they go over the wire.
    """

    def __init__(self, present: Callable[[], Family], limits: Limits) -> None:
        """Make one; ``present`` returns what serves now, whose versions may change."""
        self._present = present
        self._family = present()
        self._limits = limits
        self._defaults = parse_options((), self._family)

    @property
    def default_budget_s(self) -> float:
        """Budget in seconds of a request that states none."""
        return self._limits.default_budget_s

    def may_state_budget(self, headers: Headers) -> bool:
        """Return True: any message may."""
        return True

    def read_head(self, http: HttpRequest) -> Options:
        """Return the default options, since a message has its own in it."""
        return self._defaults

    async def read_body(self, headers: Headers, body: bytes, options: Options) -> ParsedRequest:
        """Read the message."""
        return self.parsed(read_inference(body))

    def parsed(self, request: pb.ModelInferRequest) -> ParsedRequest:
        """Return what a message asks. Raises InvalidRequest."""
        check_model(self._present(), request.model_name, request.model_version)
        data, header = read_image(*_input(request), self._limits.max_pixels)
        options, timeout_s, _ = read_parameters(_plain(request.parameters), self._family)
        for output in request.outputs:
            for name in output.parameters:
                raise InvalidRequest(f"The parameter {shown(name)} of an output is not served.")
        outputs = wanted_outputs([output.name for output in request.outputs])
        write = partial(self._write, request.id, outputs)
        return ParsedRequest(data, header, options, timeout_s, write)

    def _write(
        self, request_id: str, outputs: tuple[str, ...], answer: DetectionResult
    ) -> Response:
        message = pb.ModelInferResponse(
            model_name=self._family.name, model_version=answer.version, id=request_id
        )
        for name, fact in {"model": answer.model, **answer.facts}.items():
            parameter = message.parameters[name]
            match fact:
                case bool():
                    parameter.bool_param = fact
                case int():
                    parameter.int64_param = fact
                case float():
                    parameter.double_param = fact
                case _:
                    parameter.string_param = fact
        for name in outputs:
            array = OUTPUTS[name].of(answer)
            message.outputs.add(name=name, datatype=OUTPUTS[name].datatype, shape=array.shape)
            little_endian = array.astype(array.dtype.newbyteorder("<"), order="C")
            message.raw_output_contents.append(np.ascontiguousarray(little_endian).tobytes())
        return Response(message.SerializeToString())


class MessageInHand:
    """``ProtocolAdapter`` for one message that is there, of which its id alone is kept.

    The message goes as soon as it has been read, since its answer may wait for others, or for a
    client to take it.
    """

    def __init__(self, message: bytes, messages: InferMessages) -> None:
        self._message: bytes | None = message
        self._messages = messages
        self._id = ""

    async def message(self) -> bytes:
        """Return the message, which has not been read."""
        assert self._message is not None, "it has been read"
        return self._message

    def end(self) -> str:
        """Return its id, empty if it has none that can be read; no more is asked of it."""
        message, self._message = self._message, None
        if message is not None:
            with suppress(InvalidRequest):
                self._id = read_inference(message).id
        return self._id

    @property
    def default_budget_s(self) -> float:
        """Budget in seconds of a request that states none."""
        return self._messages.default_budget_s

    def may_state_budget(self, headers: Headers) -> bool:
        """Return True: any message may."""
        return self._messages.may_state_budget(headers)

    def read_head(self, http: HttpRequest) -> Options:
        """Return the default options."""
        return self._messages.read_head(http)

    async def read_body(self, headers: Headers, body: bytes, options: Options) -> ParsedRequest:
        """Read the message, and let go of it."""
        self._message = None
        request = read_inference(body)
        self._id = request.id
        return self._messages.parsed(request)


def read_message(kind: Any, message: bytes) -> Any:
    """Return a message of protobuf's class ``kind``. Raises InvalidRequest for bytes of none."""
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise InvalidRequest(f"The message is no {kind.DESCRIPTOR.name}.") from error


def read_inference(message: bytes) -> pb.ModelInferRequest:
    """Return an inference message. Raises InvalidRequest for none, or one with too much in it."""
    check_outline(message)
    return read_message(pb.ModelInferRequest, message)


def check_model(family: Family, name: str, version: str) -> None:
    """Raise UnknownModel for what is not here. An empty version is any."""
    unknown = unknown_model(family, name, version or None)
    if unknown is not None:
        raise UnknownModel(unknown)


def _input(request: pb.ModelInferRequest) -> tuple[str, Tensor]:
    """Return the name of a message's only input, and its tensor."""
    if len(request.inputs) != 1:
        raise InvalidRequest(f"There must be one input; there are {len(request.inputs)}.")
    (stated,) = request.inputs
    for name in stated.parameters:
        raise InvalidRequest(f"The parameter {shown(name)} of an input is not served.")
    if len(stated.shape) > MAX_DIMENSIONS:
        raise InvalidRequest(
            f"A shape may have {MAX_DIMENSIONS} lengths; there are {len(stated.shape)}."
        )
    if any(length < 0 for length in stated.shape):
        raise InvalidRequest(f"No shape is {list(stated.shape)}.")
    raw, contents = request.raw_input_contents, stated.contents
    if len(raw) > 1 or (raw and stated.HasField("contents")):
        raise InvalidRequest("An input has its data once, in raw_input_contents or in contents.")
    if raw:
        data = raw[0]
    elif stated.datatype == "BYTES":
        data = b"".join(len(each).to_bytes(4, "little") + each for each in contents.bytes_contents)
    else:
        if len(contents.uint_contents) > MAX_NUMBERS:
            raise PayloadTooLarge(
                f"contents may have {MAX_NUMBERS} numbers; larger tensors go into "
                "raw_input_contents."
            )
        try:
            data = bytes(contents.uint_contents)
        except ValueError as error:
            raise InvalidRequest("contents must be numbers from 0 to 255.") from error
    return stated.name, Tensor(stated.datatype, tuple(stated.shape), data)


def _plain(parameters: Mapping[str, Any]) -> dict[str, object]:
    """Return parameters by name, as JSON would have them."""
    plain: dict[str, object] = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        plain[name] = None if kind is None else getattr(parameter, kind)
    return plain
