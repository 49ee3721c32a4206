"""OpenTelemetry traces: a span for each detection request, and below it what its time went to.

    POST /v1/detect                       continues the client's ``traceparent``
    |- read      |- decode
    '- stem  '- stack_1  '- stack_2  '- head_2      one for each run of a segment it took part in

A run of a batch is a span in the trace of each of its requests, with the same cohort and instants.
Only requests that the sampler takes are followed, and their spans are made when they end, so that
the executor's thread does no more than note its runs. Finished spans wait in the SDK's queue, which
is bounded and drops what does not fit, and leave from a thread of the SDK's.

Where to, how many and under what name is told by the variables of the OpenTelemetry specification
(``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_TRACES_SAMPLER``, ``OTEL_SERVICE_NAME``). With the backend
``triton`` the executor is in Triton, and the gateway knows nothing of its runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.requests import Request as HttpRequest

from serving.core.errors import ServingError
from serving.core.observing import SegmentRun
from serving.core.ports import Clock
from serving.observability.request_record import AnsweredFacts, RequestRecord

SERVICE = "punctual"
CLOSE_S = 2.0
MAX_DRIFT_NS = 1_000_000
"""Most nanoseconds between the gateway's clock and the wall's, before spans follow the latter."""
FAILURES = frozenset({"late", "error"})
"""Outcomes that are the server's own fault."""

WallClock = Callable[[], int]
"""Wall clock: nanoseconds since the epoch."""
Facts = Mapping[str, str | int | float | bool]
"""Attributes of a span."""


class Tracing:
    """One gateway's traces, which go to ``provider``.

    ``clock`` is that of the gateway and of the executor.
    """

    def __init__(
        self, provider: TracerProvider, clock: Clock, wall_clock_ns: WallClock = time.time_ns
    ) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("serving", version("punctual"))
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self._epoch_ns = 0
        self._propagator = TraceContextTextMapPropagator()
        self._followed: dict[int, RequestTrace] = {}  # as many as there are requests inside

    def start(self, http: HttpRequest) -> RequestTrace | None:
        """Follow a request whose head has been read; None if it is not sampled."""
        state = http.scope["state"]
        epoch_ns = self._follow_wall_clock()
        span = self._tracer.start_span(
            f"{http.method} {http.url.path}",
            self._propagator.extract(http.headers),
            SpanKind.SERVER,
            {
                "http.request.method": http.method,
                "url.path": http.url.path,
                "punctual.request_id": state["request_id"],
            },
            start_time=epoch_ns + round(1e9 * state["arrival_s"]),
        )
        if not span.is_recording():
            return None
        return RequestTrace(span, self._tracer, self._followed, state["arrival_s"], epoch_ns)

    def _follow_wall_clock(self) -> int:
        """Return the nanoseconds since the epoch when the clock was 0.

        As long as that seems to be the same, it is, so that a run has the same instants in every
        trace.
        """
        epoch_ns = self._wall_clock_ns() - round(1e9 * self._clock())
        if abs(epoch_ns - self._epoch_ns) > MAX_DRIFT_NS:
            self._epoch_ns = epoch_ns
        return self._epoch_ns

    def ran(self, run: SegmentRun) -> None:
        """Record a run of a segment, as ``core.observing.Trace`` asks."""
        for request in run.requests:
            trace = self._followed.get(request.id)
            if trace is not None:
                trace.runs.append(run)

    def close(self) -> None:
        """Send what has not been sent, and stop.

        What cannot be sent within ``CLOSE_S`` is lost: a collector that has gone must not hold up
        the server's end, as the SDK would let it.
        """
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_S)


class RequestTrace:
    """One sampled request. Instants are seconds of the gateway's clock."""

    def __init__(
        self,
        span: Span,
        tracer: Tracer,
        followed: dict[int, RequestTrace],
        arrival_s: float,
        epoch_ns: int,
    ) -> None:
        self.runs: list[SegmentRun] = []  # at most one of each segment
        self._span = span
        self._tracer = tracer
        self._followed = followed
        self._number: int | None = None
        self._arrival_s = arrival_s
        self._epoch_ns = epoch_ns

    def follow(self, number: int) -> None:
        """Note the number by which the engine knows the request from now on."""
        self._number = number
        self._followed[number] = self

    def end(self, record: RequestRecord, read_s: float, decoded_s: float) -> None:
        """Record that the request has ended as ``record`` says.

        Its image was there at ``read_s``, its pixels at ``decoded_s``, or never, if that is 0.
        """
        if self._number is not None:
            del self._followed[self._number]
        parent = set_span_in_context(self._span)
        if read_s > 0.0:
            self._child(parent, "read", self._arrival_s, read_s, {})
        if decoded_s > 0.0:
            self._child(parent, "decode", read_s, decoded_s, {})
        for run in self.runs:
            name = run.segment.name
            self._child(parent, name, run.started_s, run.finished_s, _facts_of_run(run))
        self._span.set_attributes(_facts_of_ending(record))
        if record.outcome in FAILURES:
            self._span.set_status(Status(StatusCode.ERROR, record.outcome))
        self._span.end(self._at_ns(self._arrival_s + record.duration_s))

    def _child(
        self, parent: Context, name: str, started_s: float, ended_s: float, facts: Facts
    ) -> None:
        start_ns, end_ns = self._at_ns(started_s), self._at_ns(ended_s)
        self._tracer.start_span(name, parent, attributes=facts, start_time=start_ns).end(end_ns)

    def _at_ns(self, instant_s: float) -> int:
        return self._epoch_ns + round(1e9 * instant_s)


def _facts_of_run(run: SegmentRun) -> Facts:
    cohort: Facts = {} if run.cohort is None else {"punctual.cohort": run.cohort}
    return {
        "punctual.depth": run.segment.stop,
        "punctual.batch": len(run.requests),
        "punctual.predicted_ms": 1e3 * run.predicted_s,
        **cohort,
    }


def _facts_of_ending(record: RequestRecord) -> Facts:
    facts: dict[str, str | int | float | bool] = {
        "punctual.outcome": record.outcome,
        "punctual.budget_ms": 1e3 * record.budget_s,
    }
    match record.ending:
        case AnsweredFacts() as reply:
            facts["punctual.operating_point"] = reply.operating_point
            facts["punctual.exit_depth"] = reply.depth
            facts["punctual.degraded"] = reply.degraded
            if reply.in_hand is not None:
                facts["punctual.answer_in_hand"] = reply.in_hand
        case ServingError() as error:
            facts["error.type"] = error.slug
        case error:
            facts["error.type"] = type(error).__name__
    return facts


def open_tracing(clock: Clock) -> Tracing:
    """Open tracing to where the environment says, over OTLP and HTTP."""
    ours = Resource({"service.name": SERVICE, "service.version": version("punctual")})
    resource = ours.merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider, clock)
