"""``/v2``: the Open Inference Protocol as Triton speaks it, so that its clients work unchanged.

One model, under the catalogue's name; several that are served as one, under their names joined by
``+``, with that of the one which answered among the reply's parameters:

    image    UINT8 [H, W, 3], RGB of any size, or BYTES [1], a JPEG, PNG or WebP file
    boxes    FP32 [N, 4]   x1, y1, x2, y2 in pixels of that image, best first
    scores   FP32 [N]
    labels   INT32 [N]     positions in the catalogue's classes

A tensor may follow the JSON as bytes, whose length is then in ``Inference-Header-Content-Length``.
The budget is the parameter ``timeout``, in microseconds, or ``deadline_ms``, or a deadline header;
the smallest counts. Other parameters are those of ``/v1/detect``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import metadata
from typing import Any

from fastapi import APIRouter, Depends, Path
from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serving.api.admission import Limits
from serving.api.body import check_head
from serving.api.described_infer import DESCRIBED_REQUEST
from serving.api.described_problems import OF_ANY_ROUTE, OF_DETECTION, problem_responses
from serving.api.detect import DetectionService
from serving.api.inference_message import (
    CHANNELS,
    OUTPUTS,
    read_image,
    read_parameters,
    unknown_model,
    wanted_outputs,
)
from serving.api.lifecycle import Lifecycle
from serving.api.numbers import shown
from serving.api.options import Options, parse_options
from serving.api.problems import PROTOCOL_PREFIX, UnknownModel
from serving.api.protocol_adapter import DetectionResult, ParsedRequest
from serving.api.schemas import InferReply, ProtocolError
from serving.api.tensors import (
    LENGTH_HEADER,
    read_request,
    split_body,
    write_response,
)
from serving.core.errors import InvalidParameter, UnsupportedImage
from serving.core.family import Family
from serving.core.ports import Backend, Clock
from serving.imaging.decode_pool import DecodePool
from serving.imaging.pixels import Checkpoint, go_on
from serving.observability.totals import Total, Totals
from serving.triton import wire

EXTENSIONS = (
    *("binary_tensor_data", "model_configuration", "model_repository", "parameters"),
    *("schedule_policy", "statistics"),
)
PLATFORM = "punctual"
MESSAGE_TYPES = ("application/json", "application/octet-stream")

INLINE_JSON_BYTES = 16 * 2**10
"""Most bytes of JSON that are parsed on the event loop.

Longer messages are read by the threads that decode images.
"""
JSON_S_PER_BYTE = 5e-8
"""Seconds that reading a byte of such JSON takes, to say when to try again."""


# ---- inference ----------------------------------------------------------------------------------


class KServe:
    """``ProtocolAdapter`` for messages with tensors, as the Open Inference Protocol has them."""

    def __init__(self, family: Family, limits: Limits, pool: DecodePool) -> None:
        self._family = family
        self._limits = limits
        self._pool = pool
        self._defaults = parse_options((), family)

    @property
    def default_budget_s(self) -> float:
        """Budget in seconds of a request that states none."""
        return self._limits.default_budget_s

    def may_state_budget(self, headers: Headers) -> bool:
        """Return True: any message may."""
        return True

    def read_head(self, http: HttpRequest) -> Options:
        """Return the default options, since a message has its own in the body.

        Raises InvalidParameter for a query string, UnsupportedImage for what a page of any website
        could have a browser send.
        """
        _check_type(http.headers)
        if http.query_params:
            raise InvalidParameter(
                "Parameters belong in the message's parameters, not in the query string."
            )
        check_head(http.headers, self._limits.max_body_bytes)
        return self._defaults

    async def read_body(self, headers: Headers, body: bytes, options: Options) -> ParsedRequest:
        """Read the message, in a thread if it is long."""
        text, binary = split_body(headers, body)
        read = partial(self._read, text, binary)
        if len(text) <= INLINE_JSON_BYTES:
            return read(go_on)
        return await self._pool.run(read, JSON_S_PER_BYTE * len(text))

    def _read(self, text: bytes, binary: bytes, checkpoint: Checkpoint) -> ParsedRequest:
        request, tensor = read_request(text, binary, checkpoint)
        data, header = read_image(request.inputs[0].name, tensor, self._limits.max_pixels)
        options, timeout_s, binary_output = read_parameters(request.parameters, self._family)
        stated = {output.name: output.parameters.binary_data for output in request.outputs}
        outputs = {
            name: binary_output if (stated_binary := stated.get(name)) is None else stated_binary
            for name in wanted_outputs([output.name for output in request.outputs])
        }
        write = partial(self._write, request.id, outputs)
        return ParsedRequest(data, header, options, timeout_s, write)

    def _write(
        self, request_id: str | None, outputs: Mapping[str, bool], answer: DetectionResult
    ) -> Response:
        head: dict[str, Any] = {
            "model_name": self._family.name,
            "model_version": answer.version,
            "parameters": {"model": answer.model, **answer.facts},
        }
        if request_id is not None:
            head["id"] = request_id
        return write_response(
            head, [(name, OUTPUTS[name].of(answer), binary) for name, binary in outputs.items()]
        )


def _check_type(headers: Headers) -> None:
    """Raise UnsupportedImage for a body that is not said to be a message.

    Triton's clients send no Content-Type at all. Neither need a browser, for a page of any website,
    but that names the page's origin; and it asks before it sends the protocol's own header.
    """
    if LENGTH_HEADER in headers:
        return
    stated = headers.get("content-type", "")
    if not stated and "origin" not in headers:
        return
    if stated.partition(";")[0].strip().lower() not in MESSAGE_TYPES:
        raise UnsupportedImage(
            f"Content-Type must be one of {', '.join(MESSAGE_TYPES)}; it is {shown(stated)}."
        )


# ---- everything else ----------------------------------------------------------------------------


def create_router(
    detector: DetectionService,
    adapter: KServe,
    backend: Backend,
    lifecycle: Lifecycle,
    totals: Totals,
    *,
    clock: Clock,
    wall_clock: Clock,
) -> APIRouter:
    """Return the router of all of ``/v2`` but what changes models.

    ``wall_clock`` gives seconds since the epoch, for the statistics.
    """
    first = backend.family
    router = APIRouter(
        prefix=PROTOCOL_PREFIX,
        tags=["Open Inference Protocol"],
        responses=problem_responses(OF_ANY_ROUTE, ProtocolError),
    )

    @router.get("", summary="The server and the protocol's extensions that it has")
    async def server_metadata() -> dict[str, Any]:
        return {
            "name": "punctual",
            "version": metadata.version("punctual"),
            "extensions": EXTENSIONS,
        }

    @router.get("/health/live", summary="Whether the process runs, and need not be restarted")
    async def live() -> dict[str, bool]:
        lifecycle.check_alive()
        return {"live": True}

    @router.get("/health/ready", summary="Whether requests should be sent here")
    async def ready() -> dict[str, bool]:
        lifecycle.check_ready()
        return {"ready": True}

    async def statistics() -> dict[str, Any]:
        last_ms = last_inference_ms(totals, clock, wall_clock)
        return {"model_stats": [describe_statistics(backend.family, totals, last_ms)]}

    # Before the routes of one model, which might be called "stats".
    router.add_api_route("/models/stats", statistics, summary="Statistics of all models")

    async def check_model(model: str = Path(examples=[first.name])) -> None:
        unknown = unknown_model(backend.family, model)
        if unknown is not None:
            raise UnknownModel(unknown)

    async def check_version(version: str = Path(examples=[first.version])) -> None:
        family = backend.family
        unknown = unknown_model(family, family.name, version)
        if unknown is not None:
            raise UnknownModel(unknown)

    one = APIRouter(responses=problem_responses({404}, ProtocolError))

    @one.get("", summary="Inputs and outputs of a model")
    async def model_metadata() -> dict[str, Any]:
        return describe_model(backend.family)

    @one.get("/ready", summary="Whether a model answers")
    async def model_ready() -> dict[str, Any]:
        lifecycle.check_ready()
        return {"name": backend.family.name, "ready": True}

    @one.get(
        "/config", summary="A model's configuration, as far as Triton's schema has words for it"
    )
    async def model_config() -> dict[str, Any]:
        return describe_config(backend.family)

    one.add_api_route("/stats", statistics, summary="A model's statistics")

    @one.post(
        "/infer",
        summary="Find objects in one image, within a latency budget",
        description=__doc__,
        response_model=None,
        responses={200: {"model": InferReply}, **problem_responses(OF_DETECTION, ProtocolError)},
        openapi_extra=DESCRIBED_REQUEST,
    )
    async def infer(request: HttpRequest) -> Response:
        return await detector.serve(request, adapter)

    of_model, of_version = Depends(check_model), Depends(check_version)
    path = "/models/{model}"
    router.include_router(one, prefix=path, dependencies=[of_model])
    router.include_router(
        one, prefix=path + "/versions/{version}", dependencies=[of_model, of_version]
    )
    return router


def describe_model(family: Family) -> dict[str, Any]:
    """Return what is served, with its inputs and outputs, as the protocol's metadata."""
    return {
        "name": family.name,
        "versions": [family.version],
        "platform": PLATFORM,
        "inputs": [{"name": wire.IMAGE, "datatype": "UINT8", "shape": [-1, -1, CHANNELS]}],
        "outputs": [
            {"name": name, "datatype": output.datatype, "shape": output.dims}
            for name, output in OUTPUTS.items()
        ],
    }


def describe_config(family: Family) -> dict[str, Any]:
    """Return what is served as Triton's model configuration."""

    def tensors(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {"name": each["name"], "data_type": f"TYPE_{each['datatype']}", "dims": each["shape"]}
            for each in entries
        ]

    described = describe_model(family)
    return {
        "name": family.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": 0,  # a request is one image; batches are formed inside
        "input": tensors(described["inputs"]),
        "output": tensors(described["outputs"]),
        "model_transaction_policy": {"decoupled": False},
    }


def last_inference_ms(totals: Totals, clock: Clock, wall_clock: Clock) -> int:
    """Return when the last request ended, in milliseconds since the epoch; 0 if none has."""
    if totals.last_s is None:
        return 0
    return round((wall_clock() - (clock() - totals.last_s)) * 1e3)


def describe_statistics(family: Family, totals: Totals, last_ms: int) -> dict[str, Any]:
    """Return a model's statistics in the words of Triton's extension "statistics"."""

    def duration(total: Total) -> dict[str, int]:
        return {"count": total.count, "ns": round(total.seconds * 1e9)}

    return {
        "name": family.name,
        "version": family.version,
        "last_inference": last_ms,
        "inference_count": totals.success.count,
        # A request runs through several segments, with other companions in each: it counts as one.
        "execution_count": totals.success.count,
        "inference_stats": {
            "success": duration(totals.success),
            "fail": duration(totals.fail),
            "queue": duration(totals.queue),
            "compute_input": duration(totals.decode),
            "compute_infer": duration(totals.engine),
            "compute_output": duration(totals.write),
            "cache_hit": duration(Total()),
            "cache_miss": duration(Total()),
        },
        "batch_stats": [],
    }
