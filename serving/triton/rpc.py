"""Messages to and from Triton (KServe v2 over gRPC), as both of its clients here need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2 as pb

from serving.core.errors import BackendError
from serving.core.ports import Image
from serving.triton.shared_memory import PREFIX, SharedImages, Slot

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Every attempt is a new one: none waits for what an earlier one was told.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
"""Options of every gRPC channel to Triton: no limits on messages, and quick reconnection."""

RPC_TIMEOUT_S = 1.0
"""Seconds that Triton may take to answer a question about itself."""

_DTYPES = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64}
"""Types of arrays, by Triton's datatypes."""


def infer_request(
    model: str, name: str, parameters: Mapping[str, bool | int | str]
) -> pb.ModelInferRequest:
    """Return a request for ``model`` with id ``name``, without inputs."""
    request = pb.ModelInferRequest(model_name=model, id=name)
    for key, value in parameters.items():
        # bool is an int as well, so the order matters.
        if isinstance(value, bool):
            request.parameters[key].bool_param = value
        elif isinstance(value, int):
            request.parameters[key].int64_param = value
        else:
            request.parameters[key].string_param = value
    return request


def add_images(
    request: pb.ModelInferRequest,
    name: str,
    shape: Sequence[int],
    images: Sequence[Image],
    shared: SharedImages | None,
) -> Slot | None:
    """Add ``images`` to ``request`` as one uint8 input of ``shape``.

    They go by reference, if there is shared memory with a free slot (which is returned), or else by
    value.
    """
    tensor = request.inputs.add(name=name, datatype="UINT8", shape=shape)
    slot = shared.put(images) if shared is not None else None
    if slot is None or shared is None:
        request.raw_input_contents.append(b"".join(image.tobytes() for image in images))
        return None
    tensor.parameters["shared_memory_region"].string_param = shared.name
    tensor.parameters["shared_memory_offset"].int64_param = slot.offset
    tensor.parameters["shared_memory_byte_size"].int64_param = slot.size
    return slot


def register_request(shared: SharedImages) -> pb.SystemSharedMemoryRegisterRequest:
    """Return the request that makes Triton map ``shared``."""
    return pb.SystemSharedMemoryRegisterRequest(
        name=shared.name, key=shared.key, offset=0, byte_size=shared.size
    )


def orphans(regions: Sequence[str], own: str, alive: Sequence[str]) -> list[str]:
    """Return those of the ``regions`` that Triton has mapped whose gateways are gone."""
    return [name for name in regions if name.startswith(PREFIX) and name not in {own, *alive}]


def arrays(
    response: pb.ModelInferResponse, expected: Mapping[str, tuple[str, int | None]]
) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs called in ``expected``, by name.

    It maps a name to a datatype and a number of dimensions, or None for any. Raises BackendError if
    one is missing or malformed.
    """
    found: dict[str, npt.NDArray[Any]] = {}
    raw = response.raw_output_contents
    for tensor, content in zip(response.outputs, raw, strict=False):
        if tensor.name not in expected:
            continue
        datatype, rank = expected[tensor.name]
        shape = list(tensor.shape)
        if tensor.datatype != datatype or rank not in (len(shape), None):
            raise BackendError(
                f"Triton's output {tensor.name!r} is {tensor.datatype} {shape}, not {datatype} of "
                f"{rank} dimensions."
            )
        try:
            array = np.frombuffer(content, _DTYPES[datatype]).reshape(shape)
        except ValueError as error:
            raise BackendError(
                f"Triton's output {tensor.name!r} has {len(content)} bytes for shape {shape}."
            ) from error
        found[tensor.name] = array
    missing = [name for name in expected if name not in found]
    if missing:
        raise BackendError(f"Triton's answer lacks {', '.join(missing)}.")
    return found
