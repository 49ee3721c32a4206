"""Traces of requests through a gateway with a real executor, as an exporter gets them."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry
from starlette.requests import Request as HttpRequest

from serving.__main__ import main
from serving.api.lifecycle import Lifecycle
from serving.composition.application import create_app
from serving.core.errors import DeadlineExceeded
from serving.core.ports import Backend
from serving.observability.metrics import Metrics
from serving.observability.tracing import SERVICE, Tracing, open_tracing
from serving.settings import Settings
from tests.e2e.process import ROOT
from tests.serving.fakes import JPEG, FakeBackend
from tests.serving.gated import GatedRunner, gated_backend
from tests.serving.gateway import HEADERS

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

BUDGET_MS = 600_000.0


def traceparent(sampled: bool) -> dict[str, str]:
    return {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-0{int(sampled)}"}


class Bench:
    """A gateway whose traces are kept."""

    def __init__(self, tracing: Tracing | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = tracing or Tracing(provider, time.monotonic)
        self.metrics = Metrics(CollectorRegistry(), time.monotonic)
        self.runner = GatedRunner()
        self.backend: Backend = gated_backend(self.runner, self.metrics, self.tracing.ran)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[httpx.AsyncClient]:
        self.metrics.describe(self.backend, version="0", runtime="fake")
        app = create_app(
            # So that a busy machine ends no request.
            Settings(default_budget_ms=BUDGET_MS, max_budget_ms=BUDGET_MS),
            self.backend,
            self.metrics,
            Lifecycle(self.backend),
            tracing=self.tracing,
            started=_ignore,
        )
        await self.backend.start()
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            yield client
        await self.backend.stop(0.0)

    def requests(self) -> list[ReadableSpan]:
        return [s for s in self.exporter.get_finished_spans() if s.kind is SpanKind.SERVER]

    def below(self, request: ReadableSpan) -> list[ReadableSpan]:
        return [
            span
            for span in self.exporter.get_finished_spans()
            if span.parent is not None and span.parent.span_id == request.context.span_id
        ]


async def _ignore(_: float | Exception) -> None:
    """Nobody waits for this backend to start."""


async def detect(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await client.post("/v1/detect", content=JPEG, headers={**HEADERS, **headers})


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.anyio
async def test_a_request_and_all_that_ran_for_it(bench: Bench) -> None:
    bench.runner.let(math.inf)
    async with bench.serving() as client:
        reply = await detect(client, **traceparent(sampled=True))
    assert reply.status_code == 200
    depth = reply.json()["exit_depth"]
    (request,) = bench.requests()
    assert request.name == "POST /v1/detect"
    assert request.parent is not None
    assert f"{request.context.trace_id:032x}" == TRACE_ID
    assert f"{request.parent.span_id:016x}" == PARENT_ID
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "url.path": "/v1/detect",
        "punctual.request_id": reply.headers["x-request-id"],
        "punctual.outcome": "degraded" if reply.json()["degraded"] else "ok",
        "punctual.budget_ms": BUDGET_MS,
        "punctual.operating_point": reply.json()["operating_point"],
        "punctual.exit_depth": depth,
        "punctual.degraded": reply.json()["degraded"],
    }
    parts = bench.below(request)
    stacks = [f"stack_{k}" for k in range(1, depth + 1)]
    assert [span.name for span in parts] == ["read", "decode", "stem", *stacks, f"head_{depth}"]
    assert [span.name for span in parts[2:]] == bench.runner.runs
    runs: list[dict[str, Any]] = [dict(span.attributes or {}) for span in parts[2:]]
    assert [run["punctual.depth"] for run in runs] == [0, *range(1, depth + 1), depth]
    assert {run["punctual.batch"] for run in runs} == {1}
    assert len({run["punctual.cohort"] for run in runs}) == 1
    assert all(run["punctual.predicted_ms"] >= 0 for run in runs)
    instants: list[Any] = [request.start_time]
    for span in parts:
        instants += [span.start_time, span.end_time]
    end_time: Any = request.end_time
    assert instants == sorted(instants), "each follows the one before"
    assert instants[-1] <= end_time
    assert abs(end_time - time.time_ns()) < 60e9


@pytest.mark.anyio
async def test_a_batch_is_in_the_trace_of_each_of_its_requests(bench: Bench) -> None:
    async with bench.serving() as client:
        first = asyncio.create_task(detect(client))
        await asyncio.to_thread(bench.runner.wait_for, "stem")
        others = [asyncio.create_task(detect(client)) for _ in range(4)]
        while bench.backend.num_waiting < len(others):
            await asyncio.sleep(0)
        bench.runner.let(math.inf)
        replies = await asyncio.gather(first, *others)
    assert {reply.status_code for reply in replies} == {200}
    assert len({request.context.trace_id for request in bench.requests()}) == 5
    traces: dict[tuple[object, ...], set[int]] = {}
    batches = {}
    for request in bench.requests():
        for span in bench.below(request)[2:]:
            facts: dict[str, Any] = dict(span.attributes or {})
            run = (span.name, facts["punctual.cohort"], span.start_time)
            traces.setdefault(run, set()).add(span.context.trace_id)
            batches[run] = facts["punctual.batch"]
    assert {run: len(ids) for run, ids in traces.items()} == batches
    assert max(batches.values()) > 1


def test_spans_follow_the_clock_on_the_wall() -> None:
    wall_s = 1.7e9
    tracing = Tracing(TracerProvider(), lambda: 7.0, lambda: round(1e9 * wall_s))
    for change_s, followed_s in ((0.0, 0.0), (0.0005, 0.0), (60.0, 60.0005)):
        wall_s += change_s
        scope = {"state": {"arrival_s": 7.0, "request_id": "1"}, "headers": []}
        http = HttpRequest({"type": "http", "method": "POST", "path": "/", **scope})
        trace = tracing.start(http)
        assert trace is not None
        assert trace._at_ns(7.0) == pytest.approx(1e9 * (1.7e9 + followed_s), abs=1e3)


@pytest.mark.anyio
async def test_who_is_not_sampled_is_not_followed(bench: Bench) -> None:
    bench.runner.let(math.inf)
    async with bench.serving() as client:
        reply = await detect(client, **traceparent(sampled=False))
    assert reply.status_code == 200
    assert reply.headers["traceparent"].endswith("-00")
    assert not bench.exporter.get_finished_spans()


@pytest.mark.anyio
async def test_what_is_kept_of_requests_goes_with_them(bench: Bench) -> None:
    bench.runner.let(math.inf)
    async with bench.serving() as client:
        await asyncio.gather(*(detect(client) for _ in range(8)))
        assert not bench.tracing._followed
        spans = len(bench.exporter.get_finished_spans())
        await detect(client)
        assert len(bench.exporter.get_finished_spans()) > spans


@pytest.mark.anyio
async def test_a_growing_reply_has_a_span_for_each_head(bench: Bench) -> None:
    bench.runner.let(math.inf)
    async with bench.serving() as client:
        reply = await detect(client, accept="application/x-ndjson")
    answers = reply.text.count('"event":"detections"')
    (request,) = bench.requests()
    heads = [span.name for span in bench.below(request) if span.name.startswith("head_")]
    assert heads == [f"head_{depth}" for depth in range(1, answers + 1)]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("content", "error", "parts", "status"),
    [
        (b"text", "unsupported-image", [], StatusCode.UNSET),
        (JPEG, "deadline-exceeded", ["read", "decode"], StatusCode.ERROR),
    ],
)
async def test_errors(
    bench: Bench, content: bytes, error: str, parts: list[str], status: StatusCode
) -> None:
    async def late(*_: object) -> None:
        raise DeadlineExceeded("x")

    bench.backend = FakeBackend(time.monotonic, late)  # type: ignore[arg-type]
    async with bench.serving() as client:
        await client.post("/v1/detect", content=content, headers=HEADERS)
    (request,) = bench.requests()
    assert request.status.status_code is status
    assert (request.attributes or {})["error.type"] == error
    assert [span.name for span in bench.below(request)] == parts


# -- where traces go, and where they do not -------------------------------------------------------


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """URL of an OTLP collector, and what it was sent."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()


@pytest.mark.anyio
@pytest.mark.parametrize("name", [None, "cells-in-paris"])
async def test_the_environment_says_where_to(
    collector: tuple[str, list[ExportTraceServiceRequest]],
    name: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, received = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    if name is not None:
        monkeypatch.setenv("OTEL_SERVICE_NAME", name)
    bench = Bench(open_tracing(time.monotonic))
    bench.runner.let(math.inf)
    async with bench.serving() as client:
        await detect(client)
    await asyncio.to_thread(bench.tracing.close)
    (batch,) = received
    (resource,) = batch.resource_spans
    attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert attributes["service.name"] == (name or SERVICE)
    (scope,) = resource.scope_spans
    assert {"POST /v1/detect", "decode", "stem"} <= {span.name for span in scope.spans}


def test_a_collector_that_has_gone_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.observability.tracing.CLOSE_S", 0.01)
    provider, let = TracerProvider(), threading.Event()
    monkeypatch.setattr(provider, "shutdown", let.wait)
    Tracing(provider, time.monotonic).close()
    assert not let.is_set()
    let.set()


def test_nothing_of_it_is_loaded_unless_asked_for() -> None:
    script = """
import sys
from serving.composition.process import create_server
from serving.observability.metrics import Metrics
from serving.settings import Settings
from tests.serving.fakes import FakeBackend, FakeClock
from prometheus_client import CollectorRegistry
from starlette.requests import Request as HttpRequest
clock = FakeClock()
create_server(Settings(), FakeBackend(clock), Metrics(CollectorRegistry(), clock))
loaded = [name for name in sys.modules if name.startswith(("opentelemetry.sdk",
          "opentelemetry.exporter", "serving.observability.tracing"))]
sys.exit(" ".join(loaded) or 0)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PUNCTUAL_TRACING", "true")
    monkeypatch.delitem(sys.modules, "serving.observability.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.setattr("serving.composition.process.keep_freed_memory", lambda: None)
    assert main(["serve", "--port", "0"]) == 2
    assert "pip install 'punctual[otel]'" in capsys.readouterr().err
