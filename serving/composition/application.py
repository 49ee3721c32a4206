"""The application: what answers requests over a backend, and what starts and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from serving.access.identity import ADDRESS_LABEL, Identify, by_address, by_key, by_nobody
from serving.access.key_file import KeyFile
from serving.api import description, kserve, model_control, problems, web_page
from serving.api.access_gate import AccessGate, RateLimiter
from serving.api.admission import Admission, Limits
from serving.api.body import BodyRoom
from serving.api.cross_origin import allow_origins
from serving.api.deepstack import PATH as DEEPSTACK_PATH
from serving.api.deepstack import DeepStack
from serving.api.described_problems import OF_ANY_ROUTE, problem_responses
from serving.api.detect import DetectionService
from serving.api.direct import DirectRoutes
from serving.api.frames import FrameTurns
from serving.api.intake import Intake
from serving.api.lifecycle import Lifecycle
from serving.api.middleware import Middleware
from serving.api.routes import DETECT_PATH, create_router, detect_endpoint, vision_endpoint
from serving.api.stream_session import MAX_UNREAD_ANSWERS, SessionLimits, StreamSessions
from serving.api.tracking import Tracking
from serving.api.upload import Upload
from serving.artifacts.model_folders import ModelError
from serving.backends.model_changes import ChangeableBackend
from serving.backends.threads import in_daemon_thread
from serving.composition.backend import runtime_name
from serving.core.command_errors import CommandFailed
from serving.core.family import Family
from serving.core.ports import Backend, Clock
from serving.core.principals import NOBODY
from serving.core.streams import Streams
from serving.imaging.decode_pool import DecodePool
from serving.models.repository import measured_front
from serving.observability.metrics import Metrics
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.grpc_api.server import GrpcServer
    from serving.observability.tracing import Tracing

logger = logging.getLogger(__name__)

_WITHOUT_KEYS: dict[str, tuple[Identify, str]] = {
    "address": (by_address, ADDRESS_LABEL),
    "everybody": (by_nobody, NOBODY.label),
}
"""Who says whose a request is, without keys, and the label that all of them are counted under."""

_TRITONS_OWN = (
    "With the backend {} models are Triton's to load and unload: ask its own repository API. This "
    "gateway serves what has the digests of its own catalogue, and is restarted with another."
)
_UNCHANGEABLE = {
    "embedded": "The engine here is of one model, for good.",
    **{backend: _TRITONS_OWN.format(backend) for backend in ("triton", "triton-depth")},
}
"""Why the model of a backend cannot be changed, where that has no versions."""


def create_app(
    settings: Settings,
    backend: Backend,
    metrics: Metrics,
    lifecycle: Lifecycle,
    *,
    clock: Clock = time.monotonic,
    wall_clock: Clock = time.time,
    tracing: Tracing | None = None,
    bodies: BodyRoom | None = None,
    started: Callable[[float | Exception], Awaitable[None]],
) -> ASGIApp:
    """Return the gateway over a backend that is not started yet.

    Its lifespan starts the backend beside the server, so that health checks are answered while the
    model loads, and calls ``started`` with what became of that: an error, or the seconds that are
    an ample budget here. At the end it stops the backend.
    """
    identify, key_file = _open_access(settings, metrics)
    family = backend.family
    pool = _create_pool(settings, family, metrics, clock)
    limits = _limits(settings)
    limiter = RateLimiter(clock)
    calls: GrpcServer | None = None
    bodies = bodies or BodyRoom(limits.max_bodies_bytes)

    async def start() -> None:
        try:
            await backend.start()
        except Exception as error:
            logger.error("the backend did not start: %s", error, exc_info=error)
            await started(error)
        else:
            _report_front(backend, runtime_name(settings))
            await started(detector.admission.ample_budget_s())

    def lifespan(_: FastAPI) -> contextlib.AbstractAsyncContextManager[None]:
        return _running(
            start, started, settings, backend, pool, lifecycle, key_file, calls, tracing
        )

    app = FastAPI(
        title="Punctual",
        version=version("punctual"),
        summary="Object detection that answers on time.",
        lifespan=lifespan,
        responses=problem_responses(OF_ANY_ROUTE),
        # It would be to this host as the client calls it, without the encryption of a proxy in
        # front: there the client would show its key.
        redirect_slashes=False,
        # Its own descriptions need a network that loads scripts from elsewhere.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)
    streams = Streams(
        settings.max_streams, settings.max_stream_frames, settings.stream_idle_ms / 1e3
    )
    tracking = Tracking(streams)
    turns = FrameTurns(streams, clock)
    admission = Admission(backend, pool, limits, clock)
    intake = Intake(
        backend,
        admission,
        lifecycle=lifecycle,
        metrics=metrics,
        limits=limits,
        clock=clock,
        turns=turns,
        tracking=tracking,
        bodies=bodies,
        charge=limiter.charge,
        tracing=tracing,
    )
    detector = DetectionService(
        backend,
        pool,
        admission,
        intake,
        metrics=metrics,
        limits=limits,
        clock=clock,
        turns=turns,
    )
    upload = Upload(family, limits, pool, tracking)
    detect = detect_endpoint(detector, upload)
    deepstack = DeepStack(family, limits, settings.deepstack_budget_ms / 1e3)
    vision = vision_endpoint(detector, deepstack)
    app.include_router(
        create_router(
            detect,
            vision,
            detector,
            backend,
            lifecycle,
            metrics,
            max_parts=settings.max_parts,
        )
    )
    app.include_router(
        kserve.create_router(
            detector,
            kserve.KServe(family, limits, pool),
            backend,
            lifecycle,
            metrics.totals,
            clock=clock,
            wall_clock=wall_clock,
        )
    )
    app.include_router(
        model_control.create_router(
            backend,
            backend.changes
            if isinstance(backend, ChangeableBackend)
            else _UNCHANGEABLE[settings.backend],
            guarded=key_file is not None or settings.admin_port is not None,
        )
    )
    app.include_router(description.create_router(app.openapi))
    app.include_router(web_page.create_router(files("serving").joinpath("ui")))
    sessions = StreamSessions(
        DirectRoutes(app, {("POST", DETECT_PATH): detect, ("POST", DEEPSTACK_PATH): vision}),
        detector,
        upload,
        streams,
        lifecycle,
        # One waits for its turn, and one more may be on its way there.
        SessionLimits(
            settings.stream_idle_ms / 1e3, settings.max_stream_frames + 2 + MAX_UNREAD_ANSWERS
        ),
        clock,
    )
    gate = AccessGate(
        sessions,
        identify,
        limiter,
        metrics.refused,
        asks_for_keys=key_file is not None,
        admin_port=settings.admin_port,
        origins=settings.origins,
    )
    if settings.grpc_port is not None:
        # Few have it, and it is large.
        from serving.grpc_api.wiring import create_calls  # noqa: PLC0415

        calls = create_calls(
            settings, gate, detector, limits, bodies, backend, lifecycle, metrics, clock, wall_clock
        )
    outer = allow_origins(gate, settings.origins) if settings.origins else gate
    return Middleware(outer, clock, leaving=lambda: lifecycle.leaving, hosts=settings.hosts)


def _create_pool(settings: Settings, family: Family, metrics: Metrics, clock: Clock) -> DecodePool:
    return DecodePool(
        family.input,
        # What is sent to an executor in Triton are pixels, of the largest input.
        inputs=() if settings.backend == "triton" else family.scaled_inputs,
        num_workers=settings.num_decode_workers,
        max_pending=settings.max_pending_decodes,
        max_bytes=settings.max_decode_bytes,
        clock=clock,
        observe=metrics.decoded,
        spent=metrics.decoding,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        default_budget_s=settings.default_budget_ms / 1e3,
        min_budget_s=settings.min_budget_ms / 1e3,
        max_budget_s=settings.max_budget_ms / 1e3,
        network_reserve_s=settings.network_reserve_ms / 1e3,
        max_body_bytes=settings.max_body_bytes,
        max_bodies_bytes=settings.max_bodies_bytes,
        max_pixels=settings.max_pixels,
        max_requests=settings.max_requests,
        max_parts=settings.max_parts,
        max_part_pixels=settings.max_part_pixels,
    )


@contextlib.asynccontextmanager
async def _running(
    start: Callable[[], Coroutine[Any, Any, None]],
    started: Callable[[float | Exception], Awaitable[None]],
    settings: Settings,
    backend: Backend,
    pool: DecodePool,
    lifecycle: Lifecycle,
    key_file: KeyFile | None,
    calls: GrpcServer | None,
    tracing: Tracing | None,
) -> AsyncIterator[None]:
    """Start what runs beside the server, and end it in the order in which it is needed."""
    tasks = [] if key_file is None else [asyncio.create_task(key_file.watch(in_daemon_thread))]
    try:
        try:
            if calls is not None:
                await calls.start()
        except CommandFailed as error:
            await started(error)
        else:
            tasks.append(asyncio.create_task(start()))
        yield
    finally:
        lifecycle.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        grace_s = settings.shutdown_grace_ms / 1e3
        if calls is not None:
            await calls.stop(grace_s)
        await backend.stop(grace_s)
        pool.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


def _open_access(settings: Settings, metrics: Metrics) -> tuple[Identify, KeyFile | None]:
    """Return who says whose a request is, and the key file behind that, if there is one.

    Raises CommandError for a key file that cannot be used.
    """
    if settings.keys_file is None:
        identify, label = _WITHOUT_KEYS[settings.principals]
        metrics.name_principals([label])
        return identify, None
    key_file = KeyFile(
        settings.keys_file,
        lambda keyring: metrics.name_principals([each.label for each in keyring.principals]),
    )
    return by_key(lambda: key_file.keyring), key_file


def _report_front(backend: Backend, runtime: str) -> None:
    """Log what is served without its accuracy being known, and what is not worth its time.

    An exit is not worth its time where something that is no slower is as accurate: by the profiles
    on ``runtime`` or, without them, by what is predicted now.
    """
    family = backend.family
    unknown = ((each.name, each.precision) for each in family.catalogs if each.evaluation is None)
    for name, precision in dict.fromkeys(unknown):  # once, however many sizes it has
        where = f" in {precision}" if precision else ""
        logger.warning("the accuracy of %s%s was not measured", name, where)
    try:
        front = measured_front(family, runtime)
    except ModelError:
        if not backend.ready:  # a Triton that is not there yet
            return
        front = family.front(backend.predicted_s)
    used = {point for first, then, _ in family.ladder.gains() for point in (first, then)}
    for dropped in front.dropped:
        is_used = (dropped.point.model, dropped.point.depth) in used
        where = "answers only merged with another size" if is_used else "off the front"
        logger.info("%s: %s", where, dropped.reason(family.titles))
