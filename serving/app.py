"""The composition root: the only module that knows every other.

settings -> catalogue -> backend(runner) -> routes -> Middleware -> HTTP server
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, disable_created_metrics
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
from serving.backends.embedded import EmbeddedBackend, StartEngine
from serving.backends.model_changes import ChangeableBackend
from serving.core.command_errors import CommandError, CommandFailed
from serving.core.family import Family
from serving.core.latency import LatencyModel
from serving.core.ports import (
    Backend,
    Clock,
    CreatePolicy,
    Observer,
    Pause,
    SegmentRunner,
    at_once,
)
from serving.core.principals import NOBODY
from serving.core.streams import Streams
from serving.execution.engine import Engine, start_engine
from serving.execution.supervisor import threads_left
from serving.http_protocol import ConnectionLimits, Connections
from serving.imaging.decode_pool import DecodePool
from serving.imaging.malloc import keep_freed_memory
from serving.models.repository import measured_front
from serving.models.runtime_options import RuntimeOptions
from serving.models.source import FoundVersion, ModelSource, ModelVersion, RunnerOpener
from serving.models.trial import trial_images
from serving.observability.decision_log import DecisionLog
from serving.observability.log_rate import LogRate
from serving.observability.metrics import Metrics
from serving.observability.version_metrics import VersionObserver
from serving.runners.compiled_cache import CompiledCache, default_folder
from serving.server import Server, end_now, end_within, listen
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.grpc_api.server import GrpcServer
    from serving.observability.tracing import Tracing

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005

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

Announce = Callable[[str, float], None]
"""Function that is told a server's URL, and the seconds that are an ample budget there."""


def create_backend(
    settings: Settings,
    metrics: Metrics,
    clock: Clock,
    create_policy: CreatePolicy | None = None,
    tracing: Tracing | None = None,
) -> Backend:
    """Return the backend that ``settings`` ask for, not started.

    It has another policy than the one that serves, if ``create_policy`` is given. ``tracing`` is
    called with each run of a segment, where the executor is in this process. Raises CommandError,
    and ImportError when what it needs is not installed.
    """
    if create_policy is not None and settings.backend == "triton":
        raise CommandError("with the backend triton the policy is not the gateway's to choose")
    source = _open_source(settings, clock)
    first = source.first(may_choose=settings.backend == "embedded")
    if len(first.folders) > 1 and settings.backend != "embedded":
        names = ", ".join(entry.name for entry in first.family.entries)
        raise CommandError(f"the backend {settings.backend} serves one model, not {names}")
    entry = first.family.entries[0]
    watch = (
        None
        if settings.decision_log is None
        else _open_decisions(settings.decision_log, first.family)
    )

    def starting(family: Family, observer: Observer, pause: Pause = at_once) -> StartEngine:
        def start(
            runners: Sequence[SegmentRunner], latencies: Sequence[LatencyModel] | None = None
        ) -> Engine:
            return start_engine(
                runners,
                family,
                latencies=latencies,
                clock=clock,
                observer=observer,
                max_waiting=settings.max_waiting,
                max_cohorts=settings.max_cohorts,
                create_policy=create_policy,
                watch=watch,
                trace=None if tracing is None else tracing.ran,
                pause=pause,
            )

        return start

    def embedded() -> Backend:
        def pause() -> None:
            versions.wait_until_quiet()  # they are not there yet when the first is created

        def create(version: ModelVersion, beside: bool = False) -> EmbeddedBackend:
            family = version.family
            observer = VersionObserver(metrics, metrics.versions, family.release)
            opener = RunnerOpener(partial(source.open, version), beside)
            start = starting(family, observer, pause)
            return EmbeddedBackend(family, opener, start)

        versions = ChangeableBackend(
            create(first),
            lambda: FoundVersion(source.read(), source, create),
            lambda family: next(trial_images(family)),
            clock,
            metrics.versions,
            drain_s=settings.max_budget_ms / 1e3,
        )
        return versions

    # These drag in gRPC, which few need.
    def triton() -> Backend:
        from serving.backends.triton import TritonBackend  # noqa: PLC0415

        return TritonBackend(
            entry,
            settings.triton_url,
            clock,
            metrics,
            max_pending=settings.max_waiting,
            use_shared_memory=settings.triton_shared_memory,
        )

    def triton_depth() -> Backend:
        from serving.backends.triton_depth import TritonDepthBackend  # noqa: PLC0415

        return TritonDepthBackend(
            entry,
            settings.triton_url,
            starting(first.family, metrics),
            use_shared_memory=settings.triton_shared_memory,
        )

    create = {"embedded": embedded, "triton": triton, "triton-depth": triton_depth}
    return create[settings.backend]()


def _open_source(settings: Settings, clock: Clock) -> ModelSource:
    """Return where versions of the model come from, and how each is opened."""
    num_threads, num_instances = settings.num_threads, settings.num_instances
    if num_instances > 1:
        num_threads = max(1, (num_threads or len(os.sched_getaffinity(0))) // num_instances)
    options = RuntimeOptions(
        runtime=settings.runtime,
        num_threads=num_threads,
        precision=settings.precision,
        num_instances=num_instances,
        cache=_open_cache(settings),
    )
    return ModelSource(
        repository=settings.model_repository,
        names=settings.models,
        options=options,
        engine_process=settings.engine_process,
        max_second_bytes=settings.second_version_mb * 2**20,
        clock=clock,
    )


def _open_cache(settings: Settings) -> CompiledCache | None:
    """Return where compiled segments are kept; None: nowhere."""
    folder = settings.compile_cache or default_folder()
    if folder is None or settings.compile_cache_mb == 0:
        return None
    return CompiledCache(folder, settings.compile_cache_mb * 2**20)


def _open_decisions(path: Path, family: Family) -> DecisionLog:
    try:
        return DecisionLog(path, family.ladder.sizes)
    except OSError as error:
        raise CommandError(f"decisions cannot be written to {path}: {error}") from error


# ---- the application ----------------------------------------------------------------------------


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
    pool = DecodePool(
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
    limits = Limits(
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
    limiter = RateLimiter(clock)
    calls: GrpcServer | None = None

    async def start() -> None:
        try:
            await backend.start()
        except Exception as error:
            logger.error("the backend did not start: %s", error, exc_info=error)
            await started(error)
        else:
            _report_front(backend, _runtime(settings))
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
        bodies=bodies or BodyRoom(limits.max_bodies_bytes),
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
            settings, gate, detector, limits, backend, lifecycle, metrics, clock, wall_clock
        )
    outer = allow_origins(gate, settings.origins) if settings.origins else gate
    return Middleware(outer, clock, leaving=lambda: lifecycle.leaving, hosts=settings.hosts)


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
    tasks = [] if key_file is None else [asyncio.create_task(key_file.watch())]
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


def _runtime(settings: Settings) -> str:
    """Return the name of what is said to run the segments."""
    return settings.runtime if settings.backend == "embedded" else settings.backend


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
    for dropped in front.dropped:
        logger.info("off the front: %s", dropped.reason(family.titles))


# ---- the server ---------------------------------------------------------------------------------


def create_server(
    settings: Settings,
    backend: Backend,
    metrics: Metrics,
    *,
    clock: Clock = time.monotonic,
    tracing: Tracing | None = None,
    announce: Announce = lambda *_: None,
    end_within: Callable[[float], None] = end_within,
    end_now: Callable[[int], None] = end_now,
) -> Server:
    """Return the server over a backend; ``announce`` is called once it is ready.

    ``end_within`` and ``end_now`` end the process, as those of ``serving.server``.
    """
    lifecycle = Lifecycle(backend)
    server: Server

    async def started(outcome: float | Exception) -> None:
        if isinstance(outcome, Exception):
            server.fail(outcome)
            return
        await server.listening.wait()
        # What was loaded stays: collections that skip it pause requests for microseconds, not
        # milliseconds.
        gc.collect()
        gc.freeze()
        announce(server.url, outcome)

    bodies = BodyRoom(settings.max_bodies_bytes)
    app = create_app(
        settings,
        backend,
        metrics,
        lifecycle,
        clock=clock,
        tracing=tracing,
        bodies=bodies,
        started=started,
    )
    server = Server(
        app,
        lifecycle,
        host=settings.host,
        port=settings.port,
        admin_port=settings.admin_port,
        connections=Connections(_connection_limits(settings), metrics.refused_connection),
        bodies=bodies,
        max_message_bytes=settings.max_body_bytes,
        drain_delay_s=settings.drain_delay_ms / 1e3,
        shutdown_grace_s=settings.shutdown_grace_ms / 1e3,
        log_level=settings.log_level,
        end_within=end_within,
        end_now=end_now,
    )
    return server


def _connection_limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        max_connections=settings.max_connections,
        max_per_address=settings.max_connections_per_address,
        max_head_bytes=settings.max_head_bytes,
        max_head_lines=settings.max_head_lines,
        head_timeout_s=settings.head_timeout_ms / 1e3,
        unread_timeout_s=settings.unread_timeout_ms / 1e3,
        proxies=settings.proxies,
    )


class CreateBackend(Protocol):
    """Type of ``create_backend``, or something in its place."""

    def __call__(
        self, settings: Settings, metrics: Metrics, clock: Clock, *, tracing: Tracing | None
    ) -> Backend: ...


def serve(
    settings: Settings,
    announce: Announce,
    create: CreateBackend = create_backend,
) -> None:
    """Serve what ``create`` makes until told to end.

    Raises CommandError, CommandFailed when it cannot listen or the backend does not start, and
    ImportError when what it needs is not installed. Where the engine is still being compiled, or
    hangs, at the end, it does not return: the process ends then and there.
    """
    handler = logging.StreamHandler()
    handler.addFilter(LogRate(time.monotonic))
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=[handler],
    )
    # What is odd about a client's file is for its reply, not for this process's log.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    # The engine's thread must get the interpreter back within a fraction of a segment after each
    # call into its runtime; with the default of 5 ms every boundary could cost that much.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    keep_freed_memory()
    # A second series for each counter and histogram, of use to none of our dashboards.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    with contextlib.ExitStack() as stack:
        # First of all, since a port that is taken makes all other work vain.
        sockets = [
            stack.enter_context(each)
            for each in listen(settings.host, settings.port, settings.admin_port)
        ]
        server = _run(settings, announce, create, sockets)
    match server.failure:
        case None:
            if threads_left():
                end_now(0)
            return
        case CommandError() | ModuleNotFoundError():
            raise server.failure
        case error:
            raise CommandFailed(f"the backend did not start: {error}") from error


def _run(
    settings: Settings, announce: Announce, create: CreateBackend, sockets: list[socket.socket]
) -> Server:
    """Serve on ``sockets`` until told to end, and return the server that did."""
    metrics = Metrics(CollectorRegistry(), time.monotonic)
    tracing = _open_tracing() if settings.tracing else None
    backend = create(settings, metrics, time.monotonic, tracing=tracing)
    metrics.describe(backend, version=version("punctual"), runtime=_runtime(settings))
    server = create_server(settings, backend, metrics, tracing=tracing, announce=announce)
    server.run(sockets)
    return server


def _open_tracing() -> Tracing:
    from serving.observability.tracing import open_tracing  # noqa: PLC0415  not to be loaded unless asked for

    return open_tracing(time.monotonic)
