"""What the port for gRPC is made of."""

from __future__ import annotations

from serving.api.access_gate import AccessGate
from serving.api.admission import Limits
from serving.api.body import BodyRoom
from serving.api.detect import DetectionService
from serving.api.lifecycle import Lifecycle
from serving.core.ports import Backend, Clock
from serving.grpc_api.callers import CallerLimits, Callers
from serving.grpc_api.messages import InferMessages
from serving.grpc_api.questions import Questions
from serving.grpc_api.server import GrpcLimits, GrpcServer
from serving.grpc_api.service import InferenceService, ServiceLimits
from serving.grpc_api.sockets import SocketLimits
from serving.observability.metrics import Metrics
from serving.settings import Settings


def create_calls(
    settings: Settings,
    gate: AccessGate,
    detector: DetectionService,
    limits: Limits,
    bodies: BodyRoom,
    backend: Backend,
    lifecycle: Lifecycle,
    metrics: Metrics,
    clock: Clock,
    wall_clock: Clock,
) -> GrpcServer:
    """Return the server of the same service as over HTTP, within the same bounds."""
    assert settings.grpc_port is not None, "it is not asked for"
    callers = Callers(
        CallerLimits(
            max_calls=settings.grpc_max_calls,
            max_arriving=settings.max_bodies_bytes // settings.max_body_bytes,
            max_message_bytes=settings.max_body_bytes,
            unread_timeout_s=settings.unread_timeout_ms / 1e3,
        ),
        SocketLimits(
            settings.max_connections, settings.max_connections_per_address, settings.proxies
        ),
        bodies,
        metrics.refused_connection,
    )
    service = InferenceService(
        gate,
        detector,
        InferMessages(lambda: backend.family, limits),
        Questions(backend, lifecycle, metrics.totals, clock=clock, wall_clock=wall_clock),
        callers,
        ServiceLimits(
            question_timeout_s=settings.head_timeout_ms / 1e3,
            idle_s=settings.stream_idle_ms / 1e3,
            proxies=settings.proxies,
        ),
        clock,
    )
    bounds = GrpcLimits(
        settings.max_connections,
        settings.max_body_bytes,
        settings.max_head_bytes,
        settings.head_timeout_ms / 1e3,
    )
    return GrpcServer(service.handler(), settings.host, settings.grpc_port, bounds, callers)
