"""Routes of the server: which path answers what."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from serving.api import deepstack
from serving.api.accept import preferred
from serving.api.admission import Admission, typical_header
from serving.api.base64_json import JSON_TYPE
from serving.api.body import IMAGE_TYPES
from serving.api.budget import DEADLINE_HEADER, DEADLINE_PARAMETER
from serving.api.cutting import describe_cut
from serving.api.deepstack import API_KEY, IMAGE, MIN_CONFIDENCE, DeepStack
from serving.api.deepstack import PATH as DEEPSTACK_PATH
from serving.api.described_problems import OF_DETECTION, problem_responses
from serving.api.detect import DetectionService
from serving.api.direct import Endpoint
from serving.api.event_stream import DETECTIONS, DONE, STREAMS, Encode, Streamed
from serving.api.forms import MULTIPART
from serving.api.frames import FRAME_PARAMETER, MAX_NUMBER, NAME_PATTERN, STREAM_PARAMETER
from serving.api.lifecycle import Lifecycle
from serving.api.numbers import LARGEST, SMALLEST, shown
from serving.api.options import describe_options
from serving.api.problems import to_ms
from serving.api.schemas import (
    DetectionResponse,
    EvaluationFacts,
    ExitFacts,
    FrontPoint,
    MergedFacts,
    ModelFacts,
    Models,
    PartsResponse,
    Status,
    VisionError,
    VisionResponse,
)
from serving.api.stream_session import STREAM_PATH
from serving.api.tracking import describe_track
from serving.api.upload import FIELD, Upload
from serving.core.catalog import Catalog, Exit
from serving.core.errors import InvalidRequest
from serving.core.family import Family
from serving.core.pareto_front import OperatingPoint
from serving.core.ports import Backend
from serving.observability.metrics import Metrics

DETECT_PATH = "/v1/detect"
_MILLISECONDS = {"type": "number", "minimum": SMALLEST, "maximum": LARGEST}
_DEADLINE_IN_QUERY = {
    "name": DEADLINE_PARAMETER,
    "in": "query",
    "description": f"The same as {DEADLINE_HEADER}, for clients that cannot send headers; of both, "
    "the smaller counts.",
    "schema": _MILLISECONDS,
}


def detect_endpoint(detector: DetectionService, upload: Upload) -> Endpoint:
    """Return what answers a POST to ``DETECT_PATH``."""

    async def detect(request: Request) -> Response:
        media_type = preferred(request.headers.getlist("accept"), STREAMS)
        if media_type is None:
            return await detector.serve(request, upload)
        return Streamed(partial(detector.stream, request, upload, media_type))

    return detect


def create_router(
    detect: Endpoint,
    vision: Endpoint,
    detector: DetectionService,
    backend: Backend,
    lifecycle: Lifecycle,
    metrics: Metrics,
    *,
    max_parts: int,
) -> APIRouter:
    """Return the server's own routes over their collaborators."""
    router = APIRouter()
    _add_detect(router, detect, backend.family, max_parts)
    _add_vision(router, vision)

    @router.get(
        STREAM_PATH,
        summary="Find objects in the images of a stream, over a WebSocket",
        description="Each binary message is one image, numbered from 1; each is told of by one "
        "text message, `frame`, `outcome` and what `POST /v1/detect` replies. The parameters are "
        'those of `POST /v1/detect`; a text message `{"deadline_ms": 120}` changes the budget.',
        status_code=101,
        response_class=Response,
        response_description="The connection is a WebSocket from now on.",
    )
    async def stream(name: str) -> None:
        raise InvalidRequest(
            f"The stream {shown(name)} is a WebSocket (RFC 6455): ask for an upgrade to one."
        )

    @router.get("/v1/models", summary="Models, and what can be expected of each exit")
    async def models() -> Models:
        return _models(backend, detector)

    @router.get(
        "/livez",
        summary="Whether the process runs, and need not be restarted",
    )
    async def livez() -> Status:
        lifecycle.check_alive()
        return Status(status="alive")

    @router.get(
        "/readyz",
        summary="Whether requests should be sent here",
    )
    async def readyz() -> Status:
        lifecycle.check_ready()
        return Status(status="ready")

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def exposition(request: Request) -> Response:
        body, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    return router


def vision_endpoint(detector: DetectionService, adapter: DeepStack) -> Endpoint:
    """Return what answers a POST to DeepStack's path."""

    async def detect(request: Request) -> Response:
        return await detector.serve(request, adapter)

    return detect


def _add_vision(router: APIRouter, vision: Endpoint) -> None:
    """Add DeepStack's route, which reads its request by itself."""
    text = {"type": "string"}
    form = {
        "type": "object",
        "required": [IMAGE],
        "properties": {
            IMAGE: {"type": "string", "format": "binary"},
            MIN_CONFIDENCE: {
                **{"type": "number", "minimum": 0, "maximum": 1},
                "description": "Lowest score of a prediction.",
            },
            API_KEY: {**text, "description": "Key of the sender, where keys are asked for."},
        },
        "additionalProperties": False,
    }
    router.add_api_route(
        DEEPSTACK_PATH,
        vision,
        methods=["POST"],
        summary="Find objects in one image, for clients of DeepStack and CodeProject.AI",
        description=deepstack.__doc__,
        response_model=None,
        responses={
            200: {"model": VisionResponse, "description": "Objects were looked for in time."},
            **problem_responses(OF_DETECTION, VisionError),
        },
        openapi_extra={
            "parameters": [_DEADLINE_IN_QUERY],
            "requestBody": {"required": True, "content": {MULTIPART: {"schema": form}}},
        },
    )


def _add_detect(router: APIRouter, detect: Endpoint, family: Family, max_parts: int) -> None:
    """Add the one route that reads its request by itself, so its description is written here."""
    binary = {"type": "string", "format": "binary"}
    router.add_api_route(
        DETECT_PATH,
        detect,
        methods=["POST"],
        summary="Find objects in one image, within a latency budget",
        response_model=None,
        responses={
            200: {
                "model": DetectionResponse | PartsResponse,
                "description": "An exit was reached in time; of several parts, by one at least. "
                "As a stream, each that was: events `detections`, the same JSON, and `done`, or "
                "`error` with a problem.",
                "content": {
                    media_type: {"schema": {"type": "string"}, "example": _example(encode)}
                    for media_type, encode in STREAMS.items()
                },
            },
            **problem_responses(OF_DETECTION),
        },
        openapi_extra={
            "parameters": [
                {
                    "name": DEADLINE_HEADER,
                    "in": "header",
                    "description": "Budget in milliseconds, from the request's head to the reply.",
                    "schema": _MILLISECONDS,
                },
                _DEADLINE_IN_QUERY,
                *describe_options(family),
                {
                    "name": STREAM_PARAMETER,
                    "in": "query",
                    "description": "Name of the stream that the image is a frame of: letters, "
                    f"digits and . _ ~ -. {FRAME_PARAMETER} belongs to it.",
                    "schema": {"type": "string", "pattern": f"^{NAME_PATTERN}$"},
                },
                {
                    "name": FRAME_PARAMETER,
                    "in": "query",
                    "description": "Number of the frame, larger than those before. One that still "
                    "waits when a newer one comes is answered 409.",
                    "schema": {"type": "integer", "minimum": 0, "maximum": MAX_NUMBER},
                },
                describe_track(),
                *describe_cut(max_parts),
            ],
            "requestBody": {
                "required": True,
                "content": {
                    **{media_type: {"schema": binary} for media_type in IMAGE_TYPES},
                    MULTIPART: {
                        "schema": {
                            "type": "object",
                            "required": [FIELD],
                            "properties": {
                                FIELD: {
                                    "type": "array",
                                    "items": binary,
                                    "minItems": 1,
                                    "maxItems": max_parts,
                                }
                            },
                            "additionalProperties": False,
                        },
                        "encoding": {FIELD: {"contentType": ", ".join(IMAGE_TYPES)}},
                    },
                    JSON_TYPE: {
                        "schema": {
                            "type": "object",
                            "required": [FIELD],
                            "properties": {FIELD: {"type": "string", "format": "byte"}},
                            "additionalProperties": False,
                        }
                    },
                },
            },
        },
    )


def _example(encode: Encode) -> str:
    """Return a stream, without most of what is in it."""
    events = (
        encode(DETECTIONS, 1, b'{"detections":[],"exit_depth":1}'),
        encode(DETECTIONS, 2, b'{"detections":[],"exit_depth":2}'),
        encode(DONE, None, b'{"reason":"concluded","num_answers":2,"exit_depth":2}'),
    )
    return b"".join(events).decode()


def _models(backend: Backend, detector: DetectionService) -> Models:
    family = backend.family
    front = family.front(backend.predicted_s) if backend.ready else None
    on_front = None if front is None else {(p.model, p.depth) for p in front.points}

    admission = detector.admission

    def exit_facts(model: int, catalog: Catalog, entry: Exit) -> ExitFacts:
        engine_s = min_budget_s = promised_hz = None
        if on_front is not None:
            promised_hz = round(admission.promised_hz(entry.depth, model), 1)
            engine_s = backend.predicted_s(entry.depth, model)
            min_budget_s = admission.min_budget_s(typical_header(catalog), entry.depth, model)
        return ExitFacts(
            operating_point=family.label(model, entry.depth),
            depth=entry.depth,
            ap=entry.ap,
            ap50=entry.ap50,
            predicted_ms=None if engine_s is None else to_ms(engine_s),
            min_budget_ms=None if min_budget_s is None else to_ms(min_budget_s),
            promised_hz=promised_hz,
            on_front=None if on_front is None else (model, entry.depth) in on_front,
        )

    return Models(
        models=[
            _model_facts(
                catalog,
                [exit_facts(model, catalog, entry) for entry in catalog.exits],
                admission.reserve_s(typical_header(catalog)),
                family.precision_reason,
            )
            for model, catalog in enumerate(family.catalogs)
        ],
        merged=[
            MergedFacts(first=family.label(*first), then=family.label(*then), ap=ap)
            for first, thens in family.ladder.merged.items()
            for then, ap in thens.items()
        ],
        front=None
        if front is None
        else [_front_point(family, point, admission) for point in front.points],
    )


def _front_point(family: Family, point: OperatingPoint, admission: Admission) -> FrontPoint:
    return FrontPoint(
        operating_point=family.label(point.model, point.depth),
        model=family.names[point.model],
        depth=point.depth,
        ap=family.expected_ap(point.model, point.depth),
        predicted_ms=to_ms(point.latency_s),
        promised_hz=round(admission.promised_hz(point.depth, point.model), 1),
    )


def _model_facts(
    catalog: Catalog, exits: list[ExitFacts], reserve_s: float, precision_reason: str | None
) -> ModelFacts:
    return ModelFacts(
        name=catalog.name,
        version=catalog.version,
        description=catalog.description,
        license=catalog.license,
        flavour=catalog.flavour,
        origin=catalog.origin,
        classes=list(catalog.classes),
        size=catalog.size,
        input_width=catalog.input_width,
        input_height=catalog.input_height,
        max_detections=catalog.max_detections,
        score_threshold=catalog.score_threshold,
        exits=exits,
        reserve_ms=to_ms(reserve_s),
        precision=catalog.precision,
        precision_reason=precision_reason,
        evaluation=(EvaluationFacts(**asdict(catalog.evaluation)) if catalog.evaluation else None),
        profile_machines={name: p.machine for name, p in catalog.profiles.items()},
    )
