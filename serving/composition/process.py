"""The process that serves: its server, its log, its interpreter, and how it ends."""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, disable_created_metrics

from serving.api.body import BodyRoom
from serving.api.lifecycle import Lifecycle
from serving.composition.application import create_app
from serving.composition.backend import runtime_name
from serving.core.command_errors import CommandError, CommandFailed
from serving.core.ports import Backend, Clock
from serving.execution.engine import SWITCH_INTERVAL_S
from serving.execution.supervisor import threads_left
from serving.http_protocol import ConnectionLimits, Connections
from serving.imaging.malloc import keep_freed_memory
from serving.observability.log_rate import LogRate
from serving.observability.metrics import Metrics
from serving.server import Server, end_now, end_within, listen
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.observability.tracing import Tracing

Announce = Callable[[str, float], None]
"""Function that is told a server's URL, and the seconds that are an ample budget there."""


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
    """Type of ``backend.create_backend``, or something in its place."""

    def __call__(
        self, settings: Settings, metrics: Metrics, clock: Clock, *, tracing: Tracing | None
    ) -> Backend: ...


def serve(
    settings: Settings,
    announce: Announce,
    create: CreateBackend,
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
    metrics.describe(backend, version=version("punctual"), runtime=runtime_name(settings))
    server = create_server(settings, backend, metrics, tracing=tracing, announce=announce)
    server.run(sockets)
    return server


def _open_tracing() -> Tracing:
    from serving.observability.tracing import open_tracing  # noqa: PLC0415  not to be loaded unless asked for

    return open_tracing(time.monotonic)
