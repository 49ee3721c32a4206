"""What an inference message of the Open Inference Protocol says, however it came.

Its one input is an image, its outputs are what was found in it, and its parameters are options and
the budget. Over HTTP it is JSON (``kserve``), over gRPC it is protobuf (``serving.grpc_api``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from serving.api.budget import DEADLINE_PARAMETER, deadline_parameter
from serving.api.numbers import shown
from serving.api.options import Options, parse_options
from serving.api.protocol_adapter import DetectionResult
from serving.api.tensors import Tensor
from serving.core.errors import InvalidParameter, InvalidRequest
from serving.core.family import Family
from serving.imaging.probing import RAW, Header, check_size, probe
from serving.triton import wire

CHANNELS = 3
MAX_TIMEOUT_US = 2**63 - 1


@dataclass(frozen=True, slots=True)
class _Output:
    datatype: str
    dims: tuple[int, ...]
    of: Callable[[DetectionResult], npt.NDArray[Any]]


OUTPUTS = {
    wire.BOXES: _Output("FP32", (-1, 4), lambda answer: answer.boxes_xyxy),
    wire.SCORES: _Output("FP32", (-1,), lambda answer: answer.scores),
    wire.LABELS: _Output("INT32", (-1,), lambda answer: answer.labels),
}

TIMEOUT = "timeout"
BINARY_OUTPUT = "binary_data_output"
# Other parameters that the protocol or Triton reserve: why they are refused. What stands for their
# absence (0, false, "") is not.
_NOT_SERVED = {
    "priority": "who goes first follows from the deadlines",
    "sequence_id": "requests have nothing to do with each other",
    "sequence_start": "requests have nothing to do with each other",
    "sequence_end": "requests have nothing to do with each other",
    "headers": "the name is reserved",
}
# It asks to be told which response is the last; there is one.
_MEANINGLESS = (wire.EMPTY_FINAL,)


def read_image(name: str, tensor: Tensor, max_pixels: int) -> tuple[bytes, Header]:
    """Return the image in the input of this name. Raises InvalidRequest."""
    if name != wire.IMAGE:
        raise InvalidRequest(f"There is no input {shown(name)}; there is {wire.IMAGE!r}.")
    if tensor.datatype == "BYTES":
        data = tensor.element()
        return data, probe(data, max_pixels)
    if tensor.datatype != "UINT8":
        raise InvalidRequest(
            f"The datatype of {wire.IMAGE!r} must be UINT8 or BYTES; it is "
            f"{shown(tensor.datatype)}."
        )
    if len(tensor.shape) != 3 or tensor.shape[2] != CHANNELS or 0 in tensor.shape:
        raise InvalidRequest(
            f"The shape of {wire.IMAGE!r} must be [height, width, {CHANNELS}]; it is "
            f"{list(tensor.shape)}."
        )
    height, width, _ = tensor.shape
    check_size(width, height, max_pixels)
    if len(tensor.data) != height * width * CHANNELS:
        raise InvalidRequest(
            f"A tensor of shape {list(tensor.shape)} has {height * width * CHANNELS} elements; "
            f"{len(tensor.data)} came."
        )
    return tensor.data, Header.typical(RAW, width, height)


def read_parameters(
    given: Mapping[str, object], family: Family
) -> tuple[Options, float | None, bool]:
    """Return the options, the budget in seconds if any, and whether outputs are to be binary.

    Whether they are is what holds for an output that does not say itself. Raises InvalidParameter.
    """
    left = dict(given)
    for name, reason in _NOT_SERVED.items():
        if left.pop(name, None):
            raise InvalidParameter(f"The parameter {name} is not served: {reason}.")
    for name in _MEANINGLESS:
        left.pop(name, None)
    binary = left.pop(BINARY_OUTPUT, False)
    if not isinstance(binary, bool):
        raise InvalidParameter(f"{BINARY_OUTPUT} must be true or false.")
    budgets_s = [parse(left.pop(name)) for name, parse in _BUDGETS.items() if name in left]
    options = parse_options(left.items(), family, others=(*_BUDGETS, BINARY_OUTPUT))
    return options, min(budgets_s, default=None), binary


def _timeout_s(given: object) -> float:
    # type(), since a bool is an int to isinstance().
    if type(given) is not int or not 0 < given <= MAX_TIMEOUT_US:
        raise InvalidParameter(
            f"{TIMEOUT} must be a positive whole number of microseconds; it is {shown(given)}."
        )
    return given / wire.MICROSECONDS


_BUDGETS: dict[str, Callable[[object], float]] = {
    TIMEOUT: _timeout_s,
    DEADLINE_PARAMETER: deadline_parameter,
}
"""Parameters that state a budget, and how each is read as seconds."""


def wanted_outputs(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of outputs, in the order asked for, or all if none was.

    Raises InvalidRequest.
    """
    for place, name in enumerate(names):
        if name not in OUTPUTS:
            raise InvalidRequest(
                f"There is no output {shown(name)}; there are {', '.join(OUTPUTS)}."
            )
        if name in names[:place]:
            raise InvalidRequest(f"The output {name} was asked for more than once.")
    return tuple(names) or tuple(OUTPUTS)


def unknown_model(family: Family, name: str, version: str | None = None) -> str | None:
    """Return, in a sentence, that there is no such model, or version of it; None if there is."""
    if name != family.name:
        return f"There is no model {shown(name)}; there is {family.name!r}."
    if version not in (None, family.version):
        return (
            f"There is no version {shown(version)} of {family.name!r}; there is {family.version!r}."
        )
    return None
